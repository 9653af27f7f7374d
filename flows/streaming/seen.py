"""Which records a published table holds already: copies are found in memory, not in PostgreSQL's indexes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from duckdb import DuckDBPyConnection

from flows.build.inputs import partition_expression
from flows.stores.warehouse import Warehouse
from transforms.contract import Table, moved
from transforms.engine import quoted
from warehouse_ddl.statements import home


class Seen:
    """The identities of a table's rows within its lookback, in DuckDB: what does not fit into its memory
    limit is spilled.

    Of two copies the one with the lower tie-break counts, whichever came first, as in the batch. Safe for one
    thread.
    """

    def __init__(self, connection: DuckDBPyConnection, table: Table, identity: Sequence[str]) -> None:
        self._connection = connection
        self._table = table
        self._identity = tuple(identity)
        self._columns = tuple(dict.fromkeys((*identity, *table.key, *table.tie_break)))
        self._name = f"seen_{table.name}"
        self.fresh = f"fresh_{table.name}"
        """The temporary table of a cursor that holds the rows of one micro-batch."""
        self.gone = f"gone_{table.name}"
        """That of the published rows which no longer count since then, by identity and key."""
        self._covered: set[str] = set()
        types = ", ".join(f"{quoted(name)} {table.column(name).type}" for name in self._columns)
        connection.execute(f"create or replace table {self._name} ({types})")

    def cover(self, warehouse: Warehouse, windows: Iterable[str], leaves: Collection[str]) -> None:
        """Learn what is published in reach of these windows, where it is not known yet."""
        partition = self._table.partition
        assert partition is not None
        for window in sorted({near for given in windows for near in self._near(given)} - self._covered):
            self._covered.add(window)
            if self._table.leaf(window) in leaves:
                self._load(warehouse, *partition.bounds(window))

    def settle(self, cursor: DuckDBPyConnection) -> list[tuple[Any, ...]]:
        """Leave in `fresh` only rows that count; returns the keys of published rows that no longer do."""
        self._settle_within(cursor)
        by = quoted(self._table.partition.by) if self._table.partition else "null"
        days = self._table.lookback.days
        same = " and ".join(f"fresh.{quoted(name)} = seen.{quoted(name)}" for name in self._identity)
        known = dict.fromkeys((*self._identity, *self._table.key))
        keys = ", ".join(f"seen.{quoted(name)}" for name in known)
        cursor.execute(
            f"create or replace temp table met as select fresh.rowid as newcomer, {keys}, "
            f"{self._order('fresh')} < {self._order('seen')} as wins from {self.fresh} as fresh "
            f"join {self._name} as seen on {same} "
            f"where abs(date_diff('day', fresh.{by}::date, seen.{by}::date)) <= {days}"
        )
        cursor.execute(f"delete from {self.fresh} where rowid in (select newcomer from met where not wins)")
        listed = ", ".join(map(quoted, self._table.key))
        beaten = "select newcomer from met group by newcomer having bool_and(wins)"
        cursor.execute(
            f"create or replace temp table {self.gone} as "
            f"select * exclude (newcomer, wins) from met where newcomer in ({beaten})"
        )
        return cursor.execute(f"select {listed} from {self.gone}").fetchall()

    def remember(self, cursor: DuckDBPyConnection) -> None:
        """What `settle` left counts as seen, what it took out of the published rows no longer does."""
        same = " and ".join(f"seen.{quoted(name)} = gone.{quoted(name)}" for name in self._table.key)
        cursor.execute(f"delete from {self._name} as seen using {self.gone} as gone where {same}")
        listed = ", ".join(map(quoted, self._columns))
        cursor.execute(f"insert into {self._name} select {listed} from {self.fresh}")

    def forget(self, before: datetime) -> None:
        """Let go of windows that ended before; they are learned again should anything reach them. Bounds the
        memory.
        """
        assert self._table.partition is not None
        old = {window for window in self._covered if self._table.partition.bounds(window)[1] <= before}
        if old:
            self._covered -= old
            key = partition_expression(self._table.partition)
            self._connection.execute(f"delete from {self._name} where list_contains(?, {key})", [sorted(old)])

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

    def _load(self, warehouse: Warehouse, start: datetime, end: datetime) -> None:
        assert self._table.partition is not None
        by = quoted(self._table.partition.by)
        listed = ", ".join(
            f"{quoted(name)}::text" if self._table.column(name).type == "UUID" else quoted(name)
            for name in self._columns
        )
        query = (
            f"select {listed} from {home(self._table)}.{self._table.name} "
            f"where {by} >= '{start.isoformat()}' and {by} < '{end.isoformat()}'"
        )
        with warehouse.reading(query) as reader, closing(self._connection.cursor()) as cursor:
            cursor.from_arrow(reader).insert_into(self._name)

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
