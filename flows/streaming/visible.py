"""Micro-batches becoming visible: what is ready is copied, and shown in one transaction with its offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql

from flows import deadletters
from flows.failpoints import failpoint
from flows.stores import apply
from flows.stores.difference import duckdb_session
from flows.stores.ledger import Ledger
from flows.stores.standalone import Workshop
from flows.stores.warehouse import PUBLISHED, UNPUBLISHED, Warehouse
from flows.streaming.journal import Journal
from flows.streaming.microbatch import Content, MicroBatch
from transforms import engine
from transforms.contract import Table


class Visible:
    """The PostgreSQL side of one stream: its session, and for each published table an unlogged one to COPY
    into. For one thread at a time.
    """

    def __init__(self, warehouse: Warehouse, connection: Connection[Any], shops: Sequence[Workshop]) -> None:
        self._warehouse = warehouse
        self._connection = connection
        self._journal = Journal(connection)
        self._shops = {shop.table.name: shop for shop in shops}
        self.leaves = {name: apply.leaves(connection, name) for name in self._shops}
        """Published table → its leaves, as far as this stream knows."""
        for shop in shops:
            _create(shop)

    def show(self, batch: MicroBatch) -> None:
        """Steps 4 to 6 of `MicroBatches`.

        Raises Fenced when a partition is somebody else's now (nothing happened then), WarehouseError when
        PostgreSQL is not there (the offsets in the journal say whether 6 happened).
        """
        for content in batch.contents:
            if content.rows:
                shop = self._shops[content.table.name]
                self._warehouse.copy(UNPUBLISHED, _loading(shop), shop.columns, content.relation)
        failpoint("stream.copied")
        batch.step("copy")
        for content in batch.contents:
            self._attach_missing(content)
        failpoint("stream.attached")
        self._commit(batch)
        failpoint("stream.committed")
        batch.step("commit")
        batch.close()

    def _attach_missing(self, content: Content) -> None:
        """Step 5. Somebody else may attach the same leaf at the same moment: then it is there."""
        table, leaves = content.table, self.leaves[content.table.name]
        shop = self._shops[table.name]
        for window in content.windows:
            if table.leaf(window) in leaves:
                continue
            with Ledger(self._connection).locked("publish", table.name):
                leaves |= apply.leaves(self._connection, table.name)
                if table.leaf(window) not in leaves:
                    with duckdb_session() as session:
                        nothing = engine.empty(table.columns, session)
                        standing = shop.stand_up(table.leaf(window), nothing, window)
                    with self._connection.transaction():
                        apply.attach(self._connection, table, window, standing)
                        self._mark_hot(table, [window])
                    leaves.add(table.leaf(window))

    def _commit(self, batch: MicroBatch) -> None:
        """Step 6."""
        with self._connection.transaction():
            for journaled in batch.journaled:
                self._journal.enter(journaled, batch.records.claims[journaled.entity])
            deadletters.enter(self._connection, batch.letters)
            for content in batch.contents:
                self._take_back(content)
                if content.rows:
                    self._mark_hot(content.table, content.windows)
                    self._insert(content)
            failpoint("stream.before_commit")

    def _mark_hot(self, table: Table, windows: Sequence[str]) -> None:
        """The update changes nothing but locks the row: sealing a partition waits for our commit."""
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO ops.hot_partition AS hot_partition (table_name, partition) VALUES (%s, %s) "
                "ON CONFLICT (table_name, partition) DO UPDATE SET since = hot_partition.since",
                [(table.name, window) for window in windows],
            )

    def _take_back(self, content: Content) -> None:
        """Copies that were visible and lost against one that came later."""
        if not content.gone:
            return
        table = content.table
        types = {column.name: column.type for column in self._shops[table.name].columns}
        arrays = sql.SQL(", ").join(sql.SQL("%s::{}[]").format(sql.SQL(types[name])) for name in table.key)
        names = sql.SQL(", ").join(map(sql.Identifier, table.key))
        same = sql.SQL(" AND ").join(
            sql.SQL("t.{n} = gone.{n}").format(n=sql.Identifier(name)) for name in table.key
        )
        self._connection.execute(
            sql.SQL("DELETE FROM {} t USING unnest({}) AS gone({}) WHERE {}").format(
                sql.Identifier(PUBLISHED, table.name), arrays, names, same
            ),
            [list(values) for values in zip(*content.gone, strict=True)],
        )

    def _insert(self, content: Content) -> None:
        shop = self._shops[content.table.name]
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in shop.columns)
        loading = sql.Identifier(UNPUBLISHED, _loading(shop))
        self._connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
                sql.Identifier(PUBLISHED, content.table.name), names, names, loading
            )
        )
        self._connection.execute(sql.SQL("TRUNCATE {}").format(loading))


def _loading(shop: Workshop) -> str:
    return shop.name(shop.table.name, "stream")


def _create(shop: Workshop) -> None:
    """The table that micro-batches are copied into: unlogged, since a crash makes it worthless anyway."""
    name = _loading(shop)
    shop.connection.execute(
        sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {}) WITH (autovacuum_enabled = false)").format(
            sql.Identifier(UNPUBLISHED, name), sql.Identifier(*shop.parent)
        )
    )
    shop.made.append(name)
