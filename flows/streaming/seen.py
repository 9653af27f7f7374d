"""Which records a published table holds already: found without asking its indexes for each that comes.

What other streams publish meanwhile is not in it; `flows.streaming.others` has the rule for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection

from flows.build.inputs import partition_expression
from flows.stores.warehouse import Warehouse
from flows.streaming.membership import Hashes, Membership, Probes
from flows.streaming.others import last_batches_read, standing
from transforms.contract import Table, moved
from transforms.engine import quoted
from warehouse_ddl.statements import home

RECENT_ROWS = 250_000
"""Twice as many at most are known whole. More than micro-batches on their way can hold: PostgreSQL does not
show those yet."""
MOST_BYTES = 256 * 1024 * 1024
"""Memory for what is known of the others by their hashes alone: 85,000,000 identities."""


class Seen:
    """The identities of a table's rows within its lookback, in bounded memory.

    The latest rows are known whole, in DuckDB. Of the others their hashes are known, by window: a record
    that may be a copy is looked for in PostgreSQL, in the key's index of that window. Where there is no
    memory left for the hashes of a window, each record in reach of it is looked for.

    Of two copies the one with the lower tie-break counts, whichever came first, as in the batch. Safe for one
    thread; another may call `strange`, `wrote` and `meet` meanwhile.
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
        of_type = ", ".join(f"{quoted(name)}::{table.column(name).type}" for name in identity)
        self._hash = f"hash({of_type})"
        self.fresh = f"fresh_{table.name}"
        """The temporary table of a cursor that holds the rows of one micro-batch."""
        self.gone = f"gone_{table.name}"
        """That of the published rows which no longer count since then, by identity and key."""
        self._covered: dict[str, str | None] = {}
        """Window → the micro-batch that wrote into it last, as far as its rows are known here."""
        self._hashes: dict[str, Membership] = {}
        """Window that is covered → its rows; none where memory did not suffice."""
        for name in (self._recent, self._earlier):
            duckdb.execute(f"create or replace table {name} ({self._types})")

    def cover(self, windows: Iterable[str]) -> list[str]:
        """Learn what is published in reach of these windows, where it is not known yet; returns all of them
        that are in reach.
        """
        partition = self._table.partition
        assert partition is not None
        reach = sorted({near for given in windows for near in self._near(given)})
        if unknown := [window for window in reach if window not in self._covered]:
            written = last_batches_read(self._warehouse, self._table)
            spans: list[tuple[datetime, datetime]] = []
            for start, end in map(partition.bounds, unknown):
                if spans and spans[-1][1] == start:
                    spans[-1] = (spans[-1][0], end)
                else:
                    spans.append((start, end))
            self._hashes |= {window: Membership() for window in unknown}
            for span in spans:
                self._load(*span)
            self._covered |= {window: written.get(window) for window in unknown}
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
        for window, suspects in self._suspects(cursor, reach):
            there = standing(self._connection, self._table, self.columns, suspects, [window])
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
        self._recent_rows += self._learn(cursor.table(self.fresh))
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
        for window in windows:
            del self._covered[window]
            self._hashes.pop(window, None)
        key = partition_expression(self._table.partition)
        for name in (self._recent, self._earlier):
            self._duckdb.execute(f"delete from {name} where list_contains(?, {key})", [list(windows)])

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

    def _load(self, start: datetime, end: datetime) -> None:
        assert self._table.partition is not None
        by = quoted(self._table.partition.by)
        listed = ", ".join(map(quoted, dict.fromkeys((*self._identity, self._table.partition.by))))
        query = (
            f"select {listed} from {home(self._table)}.{self._table.name} "
            f"where {by} >= '{start.isoformat()}' and {by} < '{end.isoformat()}'"
        )
        with self._warehouse.reading(query) as reader:
            for batch in reader:
                self._learn(self._duckdb.from_arrow(pa.Table.from_batches([batch])))

    def _learn(self, rows: DuckDBPyRelation) -> int:
        """The hashes of these rows, each in its window; returns how many they are."""
        count = 0
        for window, hashes in self._by_window(rows):
            count += hashes.size
            if window in self._hashes:
                self._hashes[window].add(hashes)
        while sum(known.bytes for known in self._hashes.values()) > MOST_BYTES:
            del self._hashes[max(self._hashes, key=lambda window: self._hashes[window].bytes)]
        return count

    def _by_window(self, rows: DuckDBPyRelation) -> Iterator[tuple[str, Hashes]]:
        partition = self._table.partition
        assert partition is not None
        by = quoted(partition.by)
        ((first, last),) = rows.aggregate(f"min({by}), max({by})").fetchall()
        if first is None:
            return
        # Most micro-batches have one window: a key for every row would cost more than all the rest here.
        if partition.key(first) == partition.key(last):
            yield partition.key(first), rows.project(self._hash).to_arrow_table()[0].to_numpy()
            return
        key = partition_expression(partition)
        by_window = rows.aggregate(f"{key}, list({self._hash})", key).to_arrow_table()
        for window, hashes in zip(by_window[0].to_pylist(), by_window[1], strict=True):
            yield window, hashes.values.to_numpy()

    def _suspects(self, cursor: DuckDBPyConnection, reach: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
        """Window → the identities of those rows in `fresh` that may have a copy in it."""
        fresh = cursor.sql(f"select {self._hash} from {self.fresh} order by rowid").to_arrow_table()
        probes = Probes.of(fresh[0].to_numpy())
        anything = np.ones(fresh.num_rows, np.bool_)
        found = {
            window: self._hashes[window].may_hold(probes) if window in self._hashes else anything
            for window in reach
        }
        if not any(rows.any() for rows in found.values()):
            return
        identities = self.identities(cursor)
        for window, rows in found.items():
            if rows.any():
                yield window, identities.filter(pa.array(rows))

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
        kept = dict.fromkeys((*self._identity, *self._table.key))
        keys = ", ".join(f"seen.{quoted(name)}" for name in kept)
        cursor.execute(
            f"create or replace temp table met as select fresh.rowid as newcomer, {keys}, "
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
