"""One micro-batch: from messages to rows that are ready to be seen, once, whatever crashes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection

from flows.erasure.listed import Arriving
from flows.extract import DeadLetter
from flows.failpoints import failpoint
from flows.landed import LANDED_ON, STREAMED, with_place
from flows.planner import WHOLE
from flows.services import Services
from flows.stores.lake import SPILL
from flows.stores.manifest import LakeFile
from flows.streaming import counts, letters, rules
from flows.streaming.consumer import Records
from flows.streaming.counts import Counts
from flows.streaming.journal import Journaled
from flows.streaming.route import Route
from flows.streaming.seen import Seen
from flows.streaming.spread import spread
from flows.streaming.unbuilt import Unbuilt
from transforms import engine
from transforms.contract import Layer, Table
from transforms.engine import quoted
from transforms.entities import SourceEntity
from transforms.model import DEAD_LETTER_REASON


@dataclass(frozen=True)
class _Staged:
    """What the staging model of one topic gave."""

    table: Table
    rows: str
    """SQL for them, in the cursor of the micro-batch."""
    windows: Mapping[str, int]
    letters: Sequence[DeadLetter]
    copies: int
    """Records left out because the same one came twice in this micro-batch."""
    latest: Mapping[int, datetime]
    """Kafka partition → the latest event time in it."""
    entity: SourceEntity
    landed: pa.Table
    """The raw records, each at the place that `_seq` says."""


@dataclass(frozen=True)
class Content:
    """What one micro-batch changes in one published table. `gone` are keys of rows visible so far."""

    table: Table
    gone: Sequence[tuple[Any, ...]]
    windows: Sequence[str]
    rows: int
    copies: int
    """Rows left out, or taken out, because the same record was there."""
    relation: DuckDBPyRelation
    """The rows, in the cursor of the micro-batch."""
    reach: Sequence[str]
    """Windows that could hold copies of them."""


@dataclass
class MicroBatch:
    """One micro-batch on its way. Close it when it is done."""

    batch_id: str
    records: Records
    cursor: DuckDBPyConnection
    contents: Sequence[Content] = ()
    counts: Sequence[Counts] = ()
    letters: Sequence[DeadLetter] = ()
    staged: Mapping[str, _Staged] = field(default_factory=dict)
    """By raw table."""
    copies: int = 0
    """Messages that were left out, each the copy of another."""
    journaled: Sequence[Journaled] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step."""
    stepped_at: float = field(default_factory=time.perf_counter)
    """When its latest step ended, by the performance counter."""

    @property
    def messages(self) -> int:
        """Messages that were read."""
        return sum(rows.num_rows for rows in self.records.batches.values())

    def step(self, name: str) -> None:
        """Note how long it took since the last step."""
        now = time.perf_counter()
        self.seconds[name], self.stepped_at = now - self.stepped_at, now

    def open(self) -> None:
        """Give its cursor a schema of its own: views that the models make of its records go with it."""
        self.cursor.execute(f'create schema "{self.batch_id}"')
        self.cursor.execute(f"set search_path = '\"{self.batch_id}\",main'")

    def close(self) -> None:
        """Free its records and temporary tables."""
        self.cursor.execute("set search_path = 'main'")
        self.cursor.execute(f'drop schema "{self.batch_id}" cascade')
        self.cursor.close()


class MicroBatches:
    """Makes micro-batches ready, one at a time; holds what stays between them: one DuckDB, and what is known
    of the rows that are published.

    The effects of a micro-batch, in this order; a crash before 5 leaves nothing that anybody trusts, and the
    same offsets are read again; a crash after it leaves nothing to be done:

    1. A raw file a topic in the lake, final and trusted by nobody yet; of erased people without what names
       them.
    2. The staging models of the topics and the facts made of them run over exactly these records. What a
       model can't read, and what breaks a rule that judges a row by itself, becomes a dead letter. Rows of
       days that are past their retention are left to the batch.
    3. Copies go: within the micro-batch, and of what is published within the lookback. The one with the lower
       tie-break counts, as in the batch. What is left is remembered, and counted by the windowed tables.
       Copies of what others have landed and nobody has published yet are left to the batch.
    4. Leaves that are missing are made and attached, empty.
    5. One transaction: offsets compared and moved, raw files journaled, dead letters, 3 once more where
       another stream has written (`flows.streaming.others`), copies that no longer count out, rows in by
       COPY, what they add to windows, partitions marked as hot. Its commit is the moment everybody sees it.
    6. The broker is told the offsets, as a courtesy.
    7. The keeper of the windows, within a second and beside the next: merges what was added, a revision and a
       message of the outbox for each count that changed; then the messages, once, to their topic.

    `ready` does 1 to 3, `Visible.show` 4 and 5 of the one before meanwhile. When these fail, everything that
    was made ready is given up with this object.
    """

    def __init__(
        self,
        services: Services,
        connection: Connection[Any],
        route: Route,
        arriving: Mapping[str, Arriving],
    ) -> None:
        """`connection` to the warehouse is nobody else's. `arriving`: raw table → what lands of its records;
        asked for once this stream had joined the journal.
        """
        self._services = services
        self._route = route
        self._arriving = arriving
        spill = services.lake.root / SPILL
        self._duckdb = engine.connect(memory_limit=services.settings.memory_limit, temp_directory=spill)
        self._rules = {table.name: rules.row_rules(table) for table in route.facts}
        self.seen = {
            table.name: Seen(self._duckdb, services.warehouse, connection, table, route.identity)
            for table in route.facts
        }
        """By published table."""
        self._unbuilt = {
            table.name: Unbuilt(services, connection, self._duckdb, route, table) for table in route.facts
        }

    def close(self) -> None:
        """Free DuckDB."""
        for seen in self.seen.values():
            seen.close()
        self._duckdb.close()

    def tidy(self) -> None:
        """Let go of windows that records hardly reach any more; not while a micro-batch is on its way."""
        for table in self._route.facts:
            self.seen[table.name].forget(self._services.settings.now() - 2 * table.lookback)

    def assigned(self) -> None:
        """Partitions have changed hands: what others wrote is learned anew. To be called while no micro-batch
        is on its way.
        """
        for seen in self.seen.values():
            seen.unlearn()

    def ready(self, records: Records) -> MicroBatch:
        """Steps 1 to 3 for what was read. To be called in the order of reading."""
        batch = MicroBatch(f"{STREAMED}{secrets.token_hex(10)}", records, self._duckdb.cursor())
        batch.open()
        cursor, step = batch.cursor, batch.step
        now = self._services.settings.now()
        landed = {
            name: pa.Table.from_batches([with_place(self._arriving[name](rows), batch.batch_id, now)])
            for name, rows in records.batches.items()
        }
        files = {name: self._write_raw(batch.batch_id, name, rows) for name, rows in landed.items()}
        failpoint("stream.raw_written")
        step("raw")
        staged = batch.staged = {name: self._stage(cursor, name, rows) for name, rows in landed.items()}
        refused = [letter for one in staged.values() for letter in one.letters]
        batch.contents = [self._content(cursor, table, staged, refused) for table in self._route.facts]
        batch.letters = refused
        batch.copies = sum(one.copies for one in staged.values())
        batch.copies += sum(content.copies for content in batch.contents)
        batch.journaled = [
            Journaled(
                batch.batch_id,
                name,
                records.topic_ids[name],
                records.spans[name],
                staged[name].windows,
                file,
                latest=staged[name].latest,
            )
            for name, file in sorted(files.items())
        ]
        batch.counts = list(self._counts(cursor, staged, batch.contents))
        for content in batch.contents:
            self.seen[content.table.name].remember(cursor, content.gone)
        step("models")
        return batch

    def meet(self, batch: MicroBatch, table: Table, others: pa.Table) -> None:
        """Step 3 once more, against copies that other streams have published. May be called while the next
        one is made ready.
        """
        gone = self.seen[table.name].meet(batch.cursor, others)
        windows = self._windows(batch.cursor, table)
        rows = sum(windows.values())
        contents = []
        for before in batch.contents:
            if before.table is table:
                more = before.rows - rows + len(gone) - len(before.gone)
                batch.copies += more
                contents.append(
                    replace(
                        before, gone=gone, windows=sorted(windows), rows=rows, copies=before.copies + more
                    )
                )
            else:
                contents.append(before)
        batch.contents = contents
        batch.counts = list(self._counts(batch.cursor, batch.staged, contents))

    # --------------------------------------------------------------------------------------------- the steps

    def _write_raw(self, batch_id: str, name: str, rows: pa.Table) -> LakeFile:
        """Step 1."""
        landed_at = rows["_landed_at"][0].as_py()
        return self._services.lake.write(
            Layer.RAW.value,
            name,
            LANDED_ON,
            f"{landed_at:%Y-%m-%d}",
            batch_id,
            rows,
            measured="_landed_at",
        )

    def _stage(self, cursor: DuckDBPyConnection, raw: str, rows: pa.Table) -> _Staged:
        """Step 2 for one topic."""
        table, entity = self._route.staging[raw], self._route.entities[raw]
        computed = engine.compute(table, cursor, {raw: cursor.from_arrow(rows)})
        windows, latest = spread(cursor, computed.query, table, quoted(table.tie_break[0]))
        if rest := rows.num_rows - windows.total():
            windows[WHOLE] += rest  # what can't be read belongs to no window that anybody knows
        refused: list[DeadLetter] = []
        if computed.rejected is not None:
            query = f"select _seq, {DEAD_LETTER_REASON} from ({computed.rejected})"
            refused += letters.by_seq(entity, rows, dict(cursor.execute(query).fetchall()))
        return _Staged(table, computed.query, windows, refused, rest - len(refused), latest, entity, rows)

    def _content(
        self,
        cursor: DuckDBPyConnection,
        table: Table,
        staged: Mapping[str, _Staged],
        refused: list[DeadLetter],
    ) -> Content:
        """Steps 2 and 3 for one published table: its rows stay in a temporary table of the cursor, what is
        no row of it is added to `refused`.
        """
        seen = self.seen[table.name]
        rows_of: dict[str, Any] = {one.table.name: one.rows for one in staged.values()}
        computed = engine.compute(table, cursor, {name: rows_of.get(name) for name in table.upstreams})
        computed.store(seen.fresh)
        place = (*self._route.identity, *table.tie_break)
        if rejected := rules.reject(cursor, table, self._rules[table.name], seen.fresh, place):
            refused += self._broken(cursor, table, staged.values(), rejected)
        given, now = self._windows(cursor, table), self._services.settings.now()
        given = rules.leave_out_past(cursor, table, given, now, seen.fresh)
        reach = seen.cover(given, sum(given.values()))
        self._unbuilt[table.name].leave_out(cursor, seen.fresh)
        gone = seen.settle(cursor, reach)
        left = self._windows(cursor, table)
        rows = sum(left.values())
        copies = sum(given.values()) - rows + len(gone)
        return Content(table, gone, sorted(left), rows, copies, cursor.table(seen.fresh), reach)

    def _broken(
        self,
        cursor: DuckDBPyConnection,
        table: Table,
        staged: Iterable[_Staged],
        reasons: Mapping[tuple[Any, ...], str],
    ) -> Iterator[DeadLetter]:
        """The records of rows that broke a rule: each of the topic that the model makes it of."""
        place = (*self._route.identity, *table.tie_break)
        where = [place.index(name) for name in ("kafka_partition", "kafka_offset")]
        for one in staged:
            alone = {name: one.rows if name == one.table.name else None for name in table.upstreams}
            made = engine.compute(table, cursor, alone).query
            rows = cursor.execute(f"select {', '.join(map(quoted, place))} from ({made})").fetchall()
            found = {(row[where[0]], row[where[1]]): reasons[row] for row in rows if row in reasons}
            yield from letters.by_offset(one.entity, one.landed, found)

    def _counts(
        self, cursor: DuckDBPyConnection, staged: Mapping[str, _Staged], contents: Sequence[Content]
    ) -> Iterator[Counts]:
        """What is left of a topic, as the windowed tables count it."""
        for table in self._route.windows:
            one = staged.get(self._route.counted(table).table)
            content = next((c for c in contents if one and one.table.name in c.table.upstreams), None)
            if one is None or content is None:
                continue
            identity, fact = self._route.identity, content.table
            seen = self.seen[fact.name]
            rows = counts.of_topic(one.table, one.rows, fact, seen.fresh, identity)
            added = counts.count(cursor, table, one.table, rows)
            beaten: set[Any] = set()
            if content.gone:
                gone = counts.beaten(one.table, rows, fact, seen.fresh, seen.gone, identity)
                beaten = set(cursor.execute(gone).fetchall())
            windows = counts.touched(table, added)
            yield Counts(table, one.table, fact, added, windows, beaten)

    def _windows(self, cursor: DuckDBPyConnection, table: Table) -> dict[str, int]:
        """Window → rows of the micro-batch."""
        windows, _ = spread(cursor, f"from {self.seen[table.name].fresh}", table)
        return dict(windows)
