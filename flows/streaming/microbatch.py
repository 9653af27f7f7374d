"""One micro-batch: from messages to rows that everybody sees, once, whatever crashes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection, sql

from flows import deadletters
from flows.build.inputs import partition_expression
from flows.extract import DeadLetter
from flows.failpoints import failpoint
from flows.landing import LANDED_ON
from flows.planner import WHOLE
from flows.services import Services
from flows.stores import apply
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile
from flows.stores.standalone import Workshop
from flows.stores.warehouse import PUBLISHED, UNPUBLISHED
from flows.streaming.journal import Claim, Journal, Journaled
from flows.streaming.route import Route
from flows.streaming.seen import Seen
from transforms import engine
from transforms.contract import Layer, Table
from transforms.engine import DEAD_LETTER_REASON

_LANDED = (
    pa.field("_batch_id", pa.string()),
    pa.field("_landed_at", pa.timestamp("us", tz="UTC")),
    pa.field("_seq", pa.int64()),
)


@dataclass
class Taken:
    """What one micro-batch did."""

    batch_id: str
    messages: int = 0
    rows: int = 0
    copies: int = 0
    """Rows that were left out because the same record was there, or came twice."""
    dead_letters: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step."""


@dataclass(frozen=True)
class _Staged:
    """What the staging model of one topic gave."""

    table: Table
    rows: DuckDBPyRelation
    windows: Mapping[str, int]
    letters: Sequence[DeadLetter]


@dataclass(frozen=True)
class _Content:
    """What one micro-batch changes in one published table. `gone` are keys of rows visible so far."""

    table: Table
    gone: Sequence[tuple[Any, ...]]
    windows: Sequence[str]
    rows: int
    copies: int


class MicroBatches:
    """Takes micro-batches in, one at a time; holds what stays between them: one DuckDB, one session of
    PostgreSQL, one unlogged table to COPY into, the identities of what is published.
    """

    def __init__(
        self, services: Services, route: Route, connection: Connection[Any], shops: Sequence[Workshop]
    ) -> None:
        self._services = services
        self._route = route
        self._connection = connection
        self._journal = Journal(connection)
        spill = services.lake.root / ".spill"
        self._duckdb = engine.connect(memory_limit=services.settings.memory_limit, temp_directory=spill)
        self._shops = {shop.table.name: shop for shop in shops}
        self._seen = {table.name: Seen(self._duckdb, table, route.identity) for table in route.facts}
        self._leaves = {table.name: apply.leaves(connection, table.name) for table in route.facts}
        for shop in shops:
            _create(shop)

    def close(self) -> None:
        """Free DuckDB; the workshops drop their own tables."""
        self._duckdb.close()

    def tidy(self) -> None:
        """Let go of what is known about windows that records hardly reach any more."""
        for table in self._route.facts:
            self._seen[table.name].forget(self._services.settings.now() - 2 * table.lookback)

    def take_in(
        self,
        batch_id: str,
        records: Mapping[str, pa.RecordBatch],
        spans: Mapping[str, Mapping[int, tuple[int, int]]],
        claims: Mapping[str, Mapping[int, Claim]],
        topic_ids: Mapping[str, str],
    ) -> Taken:
        """Make one micro-batch true. `records` are by raw table, in the schema of `extract.kafka`; `spans`
        are the offsets [first, next) they cover by partition.

        Its effects, in this order; a crash before 6 leaves nothing that anybody trusts, and the same offsets
        are read again; a crash after it leaves nothing to be done:

        1. A raw file a topic in the lake, final and trusted by nobody yet.
        2. The staging models of the topics and the facts made of them run over exactly these records.
        3. Copies go: within the micro-batch, and of what is published within the lookback. The one with the
           lower tie-break counts, as in the batch.
        4. COPY of what is left into an unlogged table of this process.
        5. Leaves that are missing are made and attached, empty.
        6. One transaction: offsets compared and moved, raw files journaled, dead letters, copies that no
           longer count out, rows in, partitions marked as hot. Its commit is the moment everybody sees it.
        7. The identities of the rows are remembered.

        Broker offsets are the caller's, and come last. Raises Fenced when a partition is somebody else's now
        (nothing happened), WarehouseError when PostgreSQL is not there (ask the journal whether 6 happened).
        """
        taken = Taken(batch_id, messages=sum(batch.num_rows for batch in records.values()))
        clock = _Clock(taken.seconds)
        landed = {name: self._with_place(batch_id, batch) for name, batch in records.items()}
        with closing(self._duckdb.cursor()) as cursor:
            cursor.execute("set TimeZone = 'UTC'")
            files = {name: self._write_raw(cursor, batch_id, name, rows) for name, rows in landed.items()}
            failpoint("stream.raw_written")
            clock.step("raw")
            staged = {name: self._stage(cursor, name, rows) for name, rows in landed.items()}
            letters = [letter for one in staged.values() for letter in one.letters]
            contents = [self._content(cursor, table, staged) for table in self._route.facts]
            clock.step("models")
            for content in contents:
                if content.rows:
                    shop = self._shops[content.table.name]
                    fresh = cursor.table(self._seen[content.table.name].fresh)
                    self._services.warehouse.copy(UNPUBLISHED, _loading(shop), shop.columns, fresh)
            failpoint("stream.copied")
            clock.step("copy")
            for content in contents:
                self._attach_missing(content)
            failpoint("stream.attached")
            journaled = [
                Journaled(batch_id, name, topic_ids[name], spans[name], staged[name].windows, file)
                for name, file in files.items()
            ]
            self._commit(contents, journaled, claims, letters)
            failpoint("stream.committed")
            clock.step("commit")
            for content in contents:
                self._seen[content.table.name].remember(cursor, content.gone)
        taken.rows = sum(content.rows for content in contents)
        taken.dead_letters = len(letters)
        taken.copies = sum(content.copies for content in contents)
        return taken

    # --------------------------------------------------------------------------------------------- the steps

    def _with_place(self, batch_id: str, batch: pa.RecordBatch) -> pa.Table:
        count = batch.num_rows
        places = [
            pa.repeat(pa.scalar(batch_id), count),
            pa.repeat(pa.scalar(self._services.settings.now(), _LANDED[1].type), count),
            pa.array(range(count), pa.int64()),
        ]
        return pa.table([*batch.columns, *places], schema=pa.schema([*batch.schema, *_LANDED]))

    def _write_raw(self, cursor: DuckDBPyConnection, batch_id: str, name: str, rows: pa.Table) -> LakeFile:
        """Step 1."""
        landed_at = rows["_landed_at"][0].as_py()
        return self._services.lake.write(
            Layer.RAW.value,
            name,
            LANDED_ON,
            f"{landed_at:%Y-%m-%d}",
            batch_id,
            cursor.from_arrow(rows),
            measured="_landed_at",
        )

    def _stage(self, cursor: DuckDBPyConnection, raw: str, rows: pa.Table) -> _Staged:
        """Step 2 for one topic."""
        table, entity = self._route.staging[raw], self._route.entities[raw]
        computed = engine.compute(table, cursor, {raw: cursor.from_arrow(rows)})
        key = partition_expression(table.partition) if table.partition else "''"
        windows: Counter[str] = Counter(dict(computed.rows.aggregate(f"{key}, count(*)", key).fetchall()))
        if rest := rows.num_rows - windows.total():
            windows[WHOLE] += rest  # what can't be read belongs to no window that anybody knows
        letters = []
        if computed.dead_letters is not None:
            for seq, reason in computed.dead_letters.project(f"_seq, {DEAD_LETTER_REASON}").fetchall():
                (row,) = rows.slice(int(seq), 1).to_pylist()
                letters.append(
                    DeadLetter(
                        source=entity.source,
                        entity=entity.name,
                        reason=str(reason),
                        payload=row["value"] or b"",
                        received_at=row["_landed_at"],
                        topic=row["topic"],
                        kafka_partition=row["kafka_partition"],
                        kafka_offset=row["kafka_offset"],
                        batch_id=row["_batch_id"],
                        seq=row["_seq"],
                    )
                )
        return _Staged(table, computed.rows, windows, letters)

    def _content(self, cursor: DuckDBPyConnection, table: Table, staged: Mapping[str, _Staged]) -> _Content:
        """Steps 2 and 3 for one published table: its rows stay in a temporary table of the cursor."""
        seen = self._seen[table.name]
        rows_of: dict[str, Any] = {one.table.name: one.rows for one in staged.values()}
        computed = engine.compute(table, cursor, {name: rows_of.get(name) for name in table.upstreams})
        cursor.execute(f"create or replace temp table {seen.fresh} as {computed.rows.sql_query()}")
        given = self._windows(cursor, table)
        seen.cover(self._services.warehouse, given, self._leaves[table.name])
        gone = seen.settle(cursor)
        left = self._windows(cursor, table)
        rows = sum(left.values())
        return _Content(table, gone, sorted(left), rows, copies=sum(given.values()) - rows + len(gone))

    def _windows(self, cursor: DuckDBPyConnection, table: Table) -> dict[str, int]:
        """Window → rows of the micro-batch."""
        key = partition_expression(table.partition) if table.partition else "''"
        rows = cursor.table(self._seen[table.name].fresh).aggregate(f"{key}, count(*)", key).fetchall()
        return dict(rows)

    def _attach_missing(self, content: _Content) -> None:
        """Step 5. Somebody else may attach the same leaf at the same moment: then it is there."""
        table, leaves = content.table, self._leaves[content.table.name]
        shop = self._shops[table.name]
        for window in content.windows:
            if table.leaf(window) in leaves:
                continue
            with Ledger(self._connection).locked("publish", table.name):
                leaves |= apply.leaves(self._connection, table.name)
                if table.leaf(window) not in leaves:
                    with closing(self._duckdb.cursor()) as cursor:
                        none = engine.empty(table.columns, cursor)
                        standing = shop.stand_up(table.leaf(window), none, window)
                    with self._connection.transaction():
                        apply.attach(self._connection, table, window, standing)
                        self._mark_hot(table, [window])
                    leaves.add(table.leaf(window))

    def _commit(
        self,
        contents: Sequence[_Content],
        journaled: Sequence[Journaled],
        claims: Mapping[str, Mapping[int, Claim]],
        letters: Sequence[DeadLetter],
    ) -> None:
        """Step 6."""
        with self._connection.transaction():
            for batch in sorted(journaled, key=lambda batch: batch.entity):
                self._journal.enter(batch, claims[batch.entity])
            deadletters.enter(self._connection, letters)
            for content in contents:
                self._take_back(content)
                if content.rows:
                    self._mark_hot(content.table, content.windows)
                    self._insert(content)
            failpoint("stream.before_commit")

    def _mark_hot(self, table: Table, windows: Sequence[str]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO ops.hot_partition (table_name, partition) VALUES (%s, %s) "
                "ON CONFLICT DO NOTHING",
                [(table.name, window) for window in windows],
            )

    def _take_back(self, content: _Content) -> None:
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

    def _insert(self, content: _Content) -> None:
        shop = self._shops[content.table.name]
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in shop.columns)
        loading = sql.Identifier(UNPUBLISHED, _loading(shop))
        self._connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
                sql.Identifier(PUBLISHED, content.table.name), names, names, loading
            )
        )
        self._connection.execute(sql.SQL("TRUNCATE {}").format(loading))


class _Clock:
    """Notes how long each step took."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def step(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = now - self._last
        self._last = now


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
