"""Which records a published table holds already: found without asking its indexes for each that comes.

What other streams publish meanwhile is not in it; `flows.streaming.others` has the rule for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection

from flows.spans import partition_expression
from flows.stores.warehouse import Warehouse
from flows.streaming.hashed import Hashed
from flows.streaming.others import last_batches_read, standing
from transforms.contract import Table, moved
from transforms.engine import quoted

RECENT_ROWS = 250_000
"""Twice as many at most are known whole. More than micro-batches on their way can hold: PostgreSQL does not
show those yet."""


class Seen:
    """The identities of a table's rows within its lookback, in bounded memory.

    The latest rows are known whole, in DuckDB. Of the others hashes are known, by window: a record that may
    be a copy is looked for in PostgreSQL, in the key's index of that window. Where the hashes of a window are
    not known, each record in reach of it is looked for: nothing waits for them.

    Of two copies the one with the lower tie-break counts, whichever came first, as in the batch. Safe for one
    thread; another may call `strange`, `wrote` and `meet` meanwhile. Close it.
    """

    def __init__(
        self,
        duckdb: DuckDBPyConnection,
        warehouse: Warehouse,
        connection: Connection[Any],
        table: Table,
        identity: Sequence[str],
    ) -> None:
        """`connection` is in autocommit and nobody else uses it meanwhile."""
        self._duckdb = duckdb
        self._warehouse = warehouse
        self._connection = connection
        self._table = table
        self._identity = tuple(identity)
        self.columns = tuple(dict.fromkeys((*identity, *table.key, *table.tie_break)))
        """What is known of a row."""
        self._types = ", ".join(f"{quoted(name)} {table.column(name).type}" for name in self.columns)
        self._recent, self._earlier = f"seen_{table.name}_1", f"seen_{table.name}_2"
        self._recent_rows = 0
        self.fresh = f"fresh_{table.name}"
        """The temporary table of a cursor that holds the rows of one micro-batch."""
        self.gone = f"gone_{table.name}"
        """That of the published rows which no longer count since then, by what is known of a row."""
        self._covered: dict[str, str | None] = {}
        """Window → the micro-batch that wrote into it last, as far as its rows are known here."""
        self._hashed = Hashed(duckdb, warehouse, table, identity)
        for name in (self._recent, self._earlier):
            duckdb.execute(f"create or replace table {name} ({self._types})")

    def close(self) -> None:
        """Learn no more."""
        self._hashed.close()

    def cover(self, windows: Iterable[str], rows: int) -> list[str]:
        """Make ready for a micro-batch of so many rows in these windows: who writes into what is in reach of
        them is known from now on. Returns all windows that are in reach.
        """
        reach = sorted({near for given in windows for near in self._near(given)})
        if unknown := [window for window in reach if window not in self._covered]:
            written = last_batches_read(self._warehouse, self._table)
            self._covered |= {window: written.get(window) for window in unknown}
        self._hashed.learn(reach, rows, self._known_whole)
        return reach

    def strange(self, windows: Iterable[str], written: Mapping[str, str]) -> list[str]:
        """Those of these windows into which another stream wrote since they were learned; `written` says
        which micro-batch wrote last into each.
        """
        return [window for window in windows if self._covered.get(window) != written.get(window)]

    def wrote(self, batch_id: str, windows: Iterable[str]) -> None:
        """A micro-batch of ours wrote into these windows, which were not strange, and its rows are known."""
        for window in windows:
            if window in self._covered:
                self._covered[window] = batch_id

    def unlearn(self) -> None:
        """Let go of windows into which another stream wrote; they are learned anew when they are needed. To
        be called while no micro-batch is on its way.
        """
        if self._covered:
            self._drop(self.strange(self._covered, last_batches_read(self._warehouse, self._table)))

    def settle(self, cursor: DuckDBPyConnection, reach: Iterable[str]) -> list[tuple[Any, ...]]:
        """Leave in `fresh` only rows that count; returns the keys of published rows that no longer do.
        `reach` as `cover` said it.
        """
        self._settle_within(cursor)
        known = [self._recent, self._earlier]
        for windows, suspects in self._suspects(cursor, reach):
            there = standing(self._connection, self._table, self.columns, suspects, windows)
            if there is not None:
                known.append(self._told(cursor, there, len(known)))
        beaten = self._match(cursor, f"({' union all '.join(f'from {name}' for name in known)})")
        cursor.execute(f"create or replace temp table {self.gone} as {beaten}")
        return self._gone_keys(cursor)

    def meet(self, cursor: DuckDBPyConnection, others: pa.Table) -> list[tuple[Any, ...]]:
        """`settle` once more, against published rows that are not known here; returns the same, of both.

        Of what is known here it changes nothing: a row that lost against one of another stream stays known,
        and whatever loses against it would lose against that one as well.
        """
        beaten = self._match(cursor, self._told(cursor, others))
        same = " and ".join(f"gone.{quoted(name)} = fresh.{quoted(name)}" for name in self._identity)
        cursor.execute(
            f"create or replace temp table {self.gone} as "
            f"select gone.* from {self.gone} as gone semi join {self.fresh} as fresh on {same} "
            f"union {beaten}"
        )
        return self._gone_keys(cursor)

    def identities(self, cursor: DuckDBPyConnection) -> pa.Table:
        """Of the rows in `fresh`, in their order, as text."""
        listed = ", ".join(f"{quoted(name)}::varchar as {quoted(name)}" for name in self._identity)
        return cursor.sql(f"select {listed} from {self.fresh} order by rowid").to_arrow_table()

    def remember(self, cursor: DuckDBPyConnection, gone: Sequence[tuple[Any, ...]]) -> None:
        """What `settle` left counts as seen, `gone` of the published rows no longer does."""
        same = " and ".join(f"seen.{quoted(name)} = gone.{quoted(name)}" for name in self._table.key)
        for name in (self._recent, self._earlier) if gone else ():
            cursor.execute(f"delete from {name} as seen using {self.gone} as gone where {same}")
        listed = ", ".join(map(quoted, self.columns))
        cursor.execute(f"insert into {self._recent} select {listed} from {self.fresh}")
        self._recent_rows += self._hashed.note(cursor.table(self.fresh))
        if self._recent_rows >= RECENT_ROWS:
            self._recent, self._earlier, self._recent_rows = self._earlier, self._recent, 0
            self._duckdb.execute(f"create or replace table {self._recent} ({self._types})")

    def forget(self, before: datetime) -> None:
        """Let go of windows that ended before; they are learned again should anything reach them. To be
        called while no micro-batch is on its way.
        """
        assert self._table.partition is not None
        bounds = self._table.partition.bounds
        self._drop([window for window in self._covered if bounds(window)[1] <= before])

    def _drop(self, windows: Sequence[str]) -> None:
        if not windows:
            return
        assert self._table.partition is not None
        self._hashed.drop(windows)
        for window in windows:
            del self._covered[window]
        key = partition_expression(self._table.partition)
        for name in (self._recent, self._earlier):
            self._duckdb.execute(f"delete from {name} where list_contains(?, {key})", [list(windows)])

    def _known_whole(self, window: str) -> Iterator[DuckDBPyRelation]:
        assert self._table.partition is not None
        by, (start, end) = quoted(self._table.partition.by), self._table.partition.bounds(window)
        for name in (self._recent, self._earlier):
            within = f"{by} >= '{start.isoformat()}' and {by} < '{end.isoformat()}'"
            yield self._duckdb.table(name).filter(within)

    def _near(self, window: str) -> Iterator[str]:
        """The window and those within the lookback of it."""
        partition, lookback = self._table.partition, self._table.lookback
        assert partition is not None
        start, end = partition.bounds(window)
        moment, last = moved(start, -lookback), moved(end, lookback)
        while moment < last:
            key = partition.key(moment)
            yield key
            moment = partition.bounds(key)[1]

    def _suspects(
        self, cursor: DuckDBPyConnection, reach: Iterable[str]
    ) -> Iterator[tuple[Sequence[str], pa.Table]]:
        """Windows, and the identities of those rows in `fresh` that may have a copy in one of them."""
        identities: pa.Table | None = None
        for windows, rows in self._hashed.candidates(cursor.sql(f"from {self.fresh} order by rowid"), reach):
            if identities is None:
                identities = self.identities(cursor)
            yield windows, identities.filter(pa.array(rows))

    def _told(self, cursor: DuckDBPyConnection, rows: pa.Table, number: int = 0) -> str:
        """A temporary table of rows that PostgreSQL told."""
        name = f"told_{self._table.name}_{number}"
        cursor.execute(f"create or replace temp table {name} ({self._types})")
        cursor.from_arrow(rows.select(list(self.columns))).insert_into(name)
        return name

    def _match(self, cursor: DuckDBPyConnection, known: str) -> str:
        """Take out of `fresh` what loses against a row of `known`; returns the query of those that lose
        against one of `fresh`.
        """
        by = quoted(self._table.partition.by) if self._table.partition else "null"
        days = self._table.lookback.days
        same = " and ".join(f"fresh.{quoted(name)} = seen.{quoted(name)}" for name in self._identity)
        kept = ", ".join(f"seen.{quoted(name)}" for name in self.columns)
        cursor.execute(
            f"create or replace temp table met as select fresh.rowid as newcomer, {kept}, "
            f"{self._order('fresh')} < {self._order('seen')} as wins from {self.fresh} as fresh "
            f"join {known} as seen on {same} "
            f"where abs(date_diff('day', fresh.{by}::date, seen.{by}::date)) <= {days}"
        )
        cursor.execute(f"delete from {self.fresh} where rowid in (select newcomer from met where not wins)")
        beaten = "select newcomer from met group by newcomer having bool_and(wins)"
        return f"select distinct * exclude (newcomer, wins) from met where newcomer in ({beaten})"

    def _gone_keys(self, cursor: DuckDBPyConnection) -> list[tuple[Any, ...]]:
        listed = ", ".join(map(quoted, self._table.key))
        return cursor.execute(f"select {listed} from {self.gone}").fetchall()

    def _settle_within(self, cursor: DuckDBPyConnection) -> None:
        listed = ", ".join(map(quoted, self._identity))
        repeated = f"select {listed} from {self.fresh} group by all having count(*) > 1"
        cursor.execute(
            f"delete from {self.fresh} where rowid in (select place from (select rowid as place, "
            f"row_number() over (partition by {listed} order by {self._order(self.fresh)}) as number "
            f"from {self.fresh} "
            f"where ({listed}) in ({repeated})) where number > 1)"
        )

    def _order(self, side: str) -> str:
        names = self._table.tie_break or self._table.key
        return f"({', '.join(f'{side}.{quoted(name)}' for name in names)})"
