"""Micro-batches becoming visible: rows, and what belongs to them, in one transaction with their offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row

from flows import deadletters
from flows.failpoints import failpoint
from flows.stores import apply, binary_copy, streamed
from flows.stores.ledger import Ledger
from flows.stores.standalone import Workshop
from flows.stores.warehouse import Warehouse
from flows.streaming import counts, others
from flows.streaming.journal import Journal
from flows.streaming.microbatch import Content, MicroBatch, MicroBatches
from flows.streaming.route import Route
from transforms import engine
from transforms.contract import Table
from transforms.engine import quoted
from warehouse_ddl.statements import home


def attach_hot(connection: Connection[Any], shop: Workshop, window: str) -> bool:
    """Attach an empty leaf that the stream writes into, with its key alone: its other indexes are built when
    it is sealed. False when somebody else was quicker.
    """
    table = shop.table
    with Ledger(connection).locked("publish", table.name):
        if table.leaf(window) in apply.leaves(connection, table):
            return False
        with engine.connect() as session:
            nothing = engine.empty(table.columns, session)
            standing = shop.stand_up(table.leaf(window), nothing, window, key_only=True)
        with connection.transaction():
            apply.attach(connection, table, window, standing)
            _mark_hot(connection, table, [window])
        return True


def _mark_hot(
    connection: Connection[Any], table: Table, windows: Sequence[str], batch_id: str | None = None
) -> None:
    """`batch_id` changed rows of it. The update locks the row, as does a publish after it has written: to be
    called after that, or each could wait for the other.
    """
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO ops.hot_partition AS hot_partition (table_name, partition, last_batch) "
            "VALUES (%s, %s, %s) ON CONFLICT (table_name, partition) DO UPDATE SET sealed_at = NULL, since = "
            "CASE WHEN hot_partition.sealed_at IS NULL THEN hot_partition.since ELSE excluded.since END, "
            "last_batch = coalesce(excluded.last_batch, hot_partition.last_batch)",
            [(table.name, window, batch_id) for window in windows],
        )


def _touched(content: Content) -> list[str]:
    """Windows that rows come into, or go from."""
    partition = content.table.partition
    assert partition is not None
    when = content.table.key.index(partition.by)
    return sorted({*content.windows, *(partition.key(key[when]) for key in content.gone)})


class Visible:
    """The PostgreSQL side of one stream. For one thread at a time."""

    def __init__(
        self,
        warehouse: Warehouse,
        connection: Connection[Any],
        way: Route,
        shops: Sequence[Workshop],
        batches: MicroBatches,
    ) -> None:
        self._batches = batches
        self._warehouse = warehouse
        self._connection = connection
        self._identity = way.identity
        self._journal = Journal(connection)
        self._shops = {shop.table.name: shop for shop in shops}
        self._leaves = {name: apply.leaves(connection, shop.table) for name, shop in self._shops.items()}

    def show(self, batch: MicroBatch) -> None:
        """Steps 4 and 5 of `MicroBatches`.

        Raises Fenced when a partition is somebody else's now (nothing happened then), WarehouseError when
        PostgreSQL is not there (the offsets in the journal say whether 5 happened).
        """
        for content in batch.contents:
            self._attach_missing(content.table, content.windows)
        for counted in batch.counts:
            self._attach_missing(counted.table, counted.windows)
        failpoint("stream.attached")
        batch.step("attach")
        self._commit(batch)
        failpoint("stream.committed")
        batch.step("commit")
        batch.close()

    def _attach_missing(self, table: Table, windows: Sequence[str]) -> None:
        """Step 4, with its key alone: its other indexes are built when it is sealed. Somebody else may attach
        the same leaf at the same moment: then it is there.
        """
        leaves, shop = self._leaves[table.name], self._shops[table.name]
        for window in windows:
            if table.leaf(window) not in leaves:
                attach_hot(self._connection, shop, window)
                leaves |= apply.leaves(self._connection, table)

    def _commit(self, batch: MicroBatch) -> None:
        """Step 5."""
        strange: dict[str, Sequence[str]] = {}
        with self._connection.transaction():
            for content in batch.contents:
                if content.rows:
                    streamed.lock(self._connection, content.table)
            for journaled in batch.journaled:
                self._journal.enter(journaled, batch.records.claims[journaled.entity])
            deadletters.enter(self._connection, batch.letters)
            for content in batch.contents:
                strange[content.table.name] = self._meet_others(batch, content)
            for content in batch.contents:
                self._take_back(batch, content)
                if content.rows:
                    self._copy(content)
                    _mark_hot(self._connection, content.table, _touched(content), batch.batch_id)
            for one in batch.counts:
                _mark_hot(self._connection, one.table, one.windows, batch.batch_id)
                counts.enter(self._connection, one.table, one.added)
            failpoint("stream.before_commit")
        for content in batch.contents:
            known = [window for window in _touched(content) if window not in strange[content.table.name]]
            self._batches.seen[content.table.name].wrote(batch.batch_id, known)

    def _meet_others(self, batch: MicroBatch, content: Content) -> Sequence[str]:
        """Settle copies of what other streams have published since this one looked; what is left of the
        content stands in the micro-batch. Returns the windows in reach that others wrote into.
        """
        if not content.rows:
            return []
        table, seen = content.table, self._batches.seen[content.table.name]
        written = others.last_batches(self._connection, table, content.reach)
        if strange := seen.strange(content.reach, written):
            identities = seen.identities(batch.cursor)
            there = others.standing(self._connection, table, seen.columns, identities, strange)
            if there is not None:
                self._batches.meet(batch, table, there)
        return strange

    def _take_back(self, batch: MicroBatch, content: Content) -> None:
        """Copies that were visible and lost against one that came later; windows count them no more. Their
        days wait for the batch as those of the new rows do: it knows no sooner that they went.
        """
        if not content.gone:
            return
        table = content.table
        self._journal.touch(batch.batch_id, _touched(content))
        types = {column.name: column.type for column in self._shops[table.name].columns}
        arrays = sql.SQL(", ").join(sql.SQL("%s::{}[]").format(sql.SQL(types[name])) for name in table.key)
        names = sql.SQL(", ").join(map(sql.Identifier, table.key))
        same = sql.SQL(" AND ").join(
            sql.SQL("t.{n} = gone.{n}").format(n=sql.Identifier(name)) for name in table.key
        )
        affected = [one for one in batch.counts if one.fact is table]
        place = (*self._identity, *table.tie_break)
        told = [sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in place]
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                sql.SQL("DELETE FROM {} t USING unnest({}) AS gone({}) WHERE {} RETURNING {}").format(
                    sql.Identifier(home(table), table.name),
                    arrays,
                    names,
                    same,
                    sql.SQL(", ").join(
                        [sql.SQL("ARRAY[{}] AS _place").format(sql.SQL(", ").join(told))]
                        + [sql.SQL("t.{}").format(name) for name in counts.returned(affected)]
                    ),
                ),
                [list(values) for values in zip(*content.gone, strict=True)],
            )
            gone = cursor.fetchall()
        for one in affected:
            beaten = [row for row in gone if tuple(row["_place"]) in one.beaten]
            if beaten:
                off = counts.taken_off(batch.cursor, one, beaten)
                _mark_hot(self._connection, one.table, counts.touched(one.table, off), batch.batch_id)
                counts.enter(self._connection, one.table, off)

    def _copy(self, content: Content) -> None:
        """In the order of the key: entries of its index that stand side by side are made one after another,
        which takes a quarter off a large COPY.
        """
        table = content.table
        columns = self._shops[table.name].columns
        ordered = content.relation.order(", ".join(map(quoted, table.key)))
        rows = self._warehouse.exact(columns, ordered).to_arrow_reader(binary_copy.BATCH_ROWS)
        binary_copy.copy(self._connection, sql.Identifier(home(table), table.name), columns, rows)
        failpoint("stream.copied")
