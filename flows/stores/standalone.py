"""Tables nobody sees yet: loaded, indexed, frozen and read back in the schema `unpublished`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from duckdb import DuckDBPyRelation
from psycopg import Connection, errors, sql

from flows.failpoints import failpoint
from flows.stores import leaf_indexes
from flows.stores.locks import Blocked, oldest_snapshot
from flows.stores.warehouse import UNPUBLISHED, PostgresColumn, Warehouse
from flows.stores.warehouse_errors import WarehouseError
from transforms.contract import MAX_IDENTIFIER_BYTES, Table
from warehouse_ddl.statements import bounds, home

_SUMMED = {"int2", "int4", "int8", "numeric"}
_LOCK = "unpublished"
_SMALL_ROWS = 50_000
_FREEZE_TRIES = 10


class Workshop:
    """The unpublished tables of one publication.

    Their names end in its `suffix`, which a session lock protects from the sweep while the publication lives.
    """

    def __init__(self, warehouse: Warehouse, connection: Connection[Any], table: Table) -> None:
        self.warehouse = warehouse
        self.connection = connection
        self.table = table
        self.suffix = secrets.token_hex(4)
        self.parent = (home(table), table.name)
        """What the tables made here are like; a migration builds beside and names its own."""
        self.columns = warehouse.columns(connection, *self.parent)
        self.made: list[str] = []
        self._rows: dict[str, int] = {}

    def name(self, stem: str, what: str) -> str:
        """A name for one unpublished table, cut so that the suffix always fits."""
        tail = f"__{what}_{self.suffix}"
        return stem.encode()[: MAX_IDENTIFIER_BYTES - len(tail)].decode(errors="ignore") + tail

    def load(
        self, stem: str, what: str, relation: DuckDBPyRelation, bounds: sql.Composable | None = None
    ) -> str:
        """Create a table like the published one and COPY the relation into it; returns its name.

        `bounds` becomes a CHECK, so that attaching need not scan and no row of another window gets in. What
        has none is only read from and dropped again: it needs no place in the write-ahead log.
        """
        name = self.name(stem, what)
        keyed = set(relation.columns)
        columns = [column for column in self.columns if column.name in keyed]
        with self.connection.transaction():
            self.connection.execute(
                sql.SQL(
                    "CREATE {kind} {new} (LIKE {like} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS "
                    "EXCLUDING COMMENTS) WITH (autovacuum_enabled = false)"
                ).format(
                    kind=sql.SQL("UNLOGGED TABLE" if bounds is None else "TABLE"),
                    new=_unpublished(name),
                    like=sql.Identifier(*self.parent),
                )
            )
            for column in self.columns:
                if column.name not in keyed:
                    self.connection.execute(
                        sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(
                            _unpublished(name), sql.Identifier(column.name)
                        )
                    )
            if bounds is not None:
                self.connection.execute(
                    sql.SQL("ALTER TABLE {} ADD CONSTRAINT bounds CHECK ({})").format(
                        _unpublished(name), bounds
                    )
                )
        self.made.append(name)
        failpoint("publish.created")
        self._rows[name] = self.warehouse.copy(UNPUBLISHED, name, columns, relation)
        failpoint("publish.copied")
        return name

    def load_exactly(self, stem: str, what: str, relation: DuckDBPyRelation) -> str:
        """The same without bounds, read back. Raises WarehouseError where it is not what the lake has."""
        name = self.load(stem, what, relation)
        self.read_back(stem, name, relation)
        return name

    def stand_up(
        self, stem: str, rows: DuckDBPyRelation, partition: str | None, *, key_only: bool = False
    ) -> str:
        """Load rows, freeze them and read them back; a leaf (`partition`) gets its bounds and indexes, or of
        these its key alone.
        """
        bounds = bounds_check(self.table, partition) if partition is not None else None
        name = self.load(stem, "load", rows, bounds)
        if partition is not None:
            self.index(name, key_only=key_only)
        if self._is_small(name):
            self.freeze(name)
            self.read_back(stem, name, rows)
        else:
            with ThreadPoolExecutor(max_workers=1) as pool:
                frozen = pool.submit(self._freeze_beside, name)
                self.read_back(stem, name, rows)
                frozen.result()
        failpoint("publish.vacuumed")
        return name

    def index(self, name: str, *, key_only: bool) -> None:
        """Build the primary key and, if it is not `key_only`, the declared indexes; two at a time where that
        pays.
        """
        key = self.name(name, "pkey")
        statements = [
            sql.SQL("CREATE UNIQUE INDEX {} ON {} ({})").format(
                sql.Identifier(key), _unpublished(name), _listed(self.table.key)
            )
        ]
        if not key_only:
            statements += leaf_indexes.build_statements(self.table, UNPUBLISHED, name)
        leaf_indexes.build(self.warehouse, self.connection, statements, is_large=not self._is_small(name))
        self.connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY USING INDEX {}").format(
                _unpublished(name), sql.Identifier(key), sql.Identifier(key)
            )
        )
        failpoint("publish.indexed")

    def freeze(self, name: str) -> None:
        """VACUUM (FREEZE, ANALYZE): visible to every snapshot, index-only scans need no heap, plans fit."""
        self.connection.execute(_freeze(name))

    def _freeze_beside(self, name: str) -> None:
        """The same on a connection of its own: it is one process's work, and so is reading back."""
        with self.warehouse.connect() as other:
            other.execute(_freeze(name))

    def _is_small(self, name: str) -> bool:
        """Whether opening further connections would take longer than what they would do."""
        return self._rows.get(name, 0) < _SMALL_ROWS

    def wait_until_frozen(self, name: str) -> None:
        """What takes a published table's place must be visible to every snapshot: to one that is older than
        its rows, the place would be empty. Raises Blocked, with whose snapshot it is, when one stays.
        """
        for _ in range(_FREEZE_TRIES):
            if self._is_frozen(name):
                return
            time.sleep(0.1)
            self.freeze(name)
        if not self._is_frozen(name):
            raise Blocked(oldest_snapshot(self.connection))

    def _is_frozen(self, name: str) -> bool:
        """Whether every row is visible to snapshots of any age."""
        row = self.connection.execute(
            "SELECT relallvisible >= relpages FROM pg_class "
            "WHERE oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
            (UNPUBLISHED, name),
        ).fetchone()
        return bool(row and row[0])

    def read_back(self, stem: str, name: str, relation: DuckDBPyRelation) -> int:
        """Compare counts and sums of what was loaded, in the columns that it has, with the lake; returns the
        rows.

        Raises WarehouseError, which names what it was to be (`stem`).
        """
        columns = [column for column in self.columns if column.name in relation.columns]
        exact = self.warehouse.exact(columns, relation)
        summed = [column for column in columns if column.type in _SUMMED]
        sums = "".join(f", sum({_quoted(c)}{'' if c.type == 'numeric' else '::HUGEINT'})" for c in summed)
        ours = exact.aggregate(f"count(*){sums}").fetchall()[0]
        theirs = self.connection.execute(
            sql.SQL("SELECT count(*){} FROM {}").format(
                sql.SQL("").join(sql.SQL(", sum({})").format(sql.Identifier(c.name)) for c in summed),
                _unpublished(name),
            )
        ).fetchone() or (0,)
        for what, ours_value, theirs_value in zip(
            ["the number of rows", *(f"the sum of {c.name}" for c in summed)], ours, theirs, strict=True
        ):
            if ours_value != theirs_value:
                raise WarehouseError(
                    f"{stem}: {what} is {theirs_value} after COPY, {ours_value} in the lake. "
                    "Nothing was published; run again, and if it stays, report it with this line."
                )
        failpoint("publish.read_back")
        return int(ours[0])

    def drop(self) -> None:
        """Drop what is still unpublished; what something of others depends on is left to `sweep`."""
        for name in self.made:
            with suppress(errors.DependentObjectsStillExist), self.connection.transaction():
                self.connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_unpublished(name)))
        self.made.clear()
        failpoint("publish.dropped")


@contextmanager
def workshop(warehouse: Warehouse, connection: Connection[Any], table: Table) -> Iterator[Workshop]:
    """A workshop whose tables are dropped at the end, unless they were published or the process dies."""
    shop = Workshop(warehouse, connection, table)
    connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"{_LOCK}:{shop.suffix}",))
    try:
        yield shop
    finally:
        if not connection.broken and not connection.closed:
            shop.drop()
            connection.execute(
                "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (f"{_LOCK}:{shop.suffix}",)
            )


def sweep(connection: Connection[Any]) -> list[str]:
    """Drop the unpublished tables of publications that died (living ones hold their lock); returns names.

    A session that such a publication had beside its own knows of the death once its statement is done: an
    index or a VACUUM on which it works goes on, and holds the table. That one is left to the next sweep, as
    is a leaf of before that somebody's own view reads.
    """
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p') "
        "ORDER BY relname",
        (UNPUBLISHED,),
    ).fetchall()
    dropped = []
    for (name,) in rows:
        lock = f"{_LOCK}:{name.rpartition('_')[2]}"
        try:
            with connection.transaction():
                free = connection.execute(
                    "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (lock,)
                ).fetchone()
                if not (free and free[0]):
                    continue
                connection.execute("SET LOCAL lock_timeout = '1s'")
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_unpublished(name)))
        except (errors.LockNotAvailable, errors.DependentObjectsStillExist):
            continue
        dropped.append(name)
    return dropped


def bounds_check(table: Table, partition: str) -> sql.Composable | None:
    """The condition that attaching a partition would have to prove; None for a table without partitions."""
    if table.partition is None:
        return None
    low, high = map(sql.Literal, bounds(table, partition))
    by = sql.Identifier(table.partition.by)
    return sql.SQL("{by} IS NOT NULL AND {by} >= {low} AND {by} < {high}").format(by=by, low=low, high=high)


def _freeze(name: str) -> sql.Composed:
    return sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(_unpublished(name))


def _listed(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _unpublished(name: str) -> sql.Identifier:
    return sql.Identifier(UNPUBLISHED, name)


def _quoted(column: PostgresColumn) -> str:
    return '"' + column.name.replace('"', '""') + '"'
