"""The change topics of one connector, read together: what one transaction changed is handed on together.

Each table's changes are in order in a topic of their own, and nothing orders one topic beside another.
Debezium tells in a topic of its own which transactions ended and how many changes of which table each of
them made. What is handed on is cut there: all of the transactions that are in whole, in the order of their
commits, nothing of any other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from duckdb import DuckDBPyConnection

from flows.cdc.consuming import behind, change_topic, consuming, runs
from flows.cdc.pending import REMEMBERED, Cut, Pending
from flows.cdc.reach import Reach
from flows.cdc.snapshots import FirstRead, are_whole
from flows.extract import Extract, SourceAway, SourceError, cdc, debezium, kafka_records
from flows.extract.kafka import Topic
from flows.extract.kafka_ends import end_now
from flows.extract.kafka_lost import Hearing
from flows.extract.kafka_records import record_batch
from flows.garbage import not_looked_for
from flows.settings import Settings
from transforms.entities import Postgres, SourceEntity

_CUT_AGAIN_SECONDS = 1.0
"""How soon it is looked again for what can be handed on though nothing came."""
_TIMES_A_LOOK = 4.0
"""So many times what looking in vain took are read first, or it would grow with a transaction's messages."""
_MAX_RECORDS = 10_000
_BATCH_BYTES = 32 << 20


@dataclass
class _Table:
    entity: SourceEntity
    topic: Topic
    first: int
    """The first offset that was not handed on yet."""
    reach: Reach
    landed: int
    """Transactions that ended before this offset of their topic were landed of this table."""
    first_read: FirstRead


class ChangeFeed:
    """Reads the topics from the positions given. For one thread. What has no room in memory is kept below
    `folder`.

    `failed` says of which tables nothing is read, and why. `since`: of tables that nothing was landed of
    since the connector was registered, the LSN from which on its records are. Raises SourceAway when the
    broker does not answer.
    """

    def __init__(
        self,
        settings: Settings,
        positions: Mapping[SourceEntity, Mapping[str, Any]],
        connection: DuckDBPyConnection,
        folder: Path,
        since: Mapping[SourceEntity, int] | None = None,
    ) -> None:
        self._settings = settings
        self._since = since or {}
        self._pending = Pending(connection, folder)
        self.failed: dict[str, SourceError] = {}
        self._tables: dict[str, _Table] = {}
        self._ends: Topic | None = None
        self.untold: SourceError | None = None
        """Why nobody tells which transactions ended: then what was read is handed on as it comes."""
        self._ends_reach = Reach(0, 0, lambda: None)
        self._ends_from = self._ends_begin = 0
        self._consumer: Consumer | None = None
        self._hearing: Hearing
        self._cut_again_at = self._news_at = 0.0
        self._wanted = 1_000
        for entity, position in positions.items():
            self._find(entity, position)
        if self._tables:
            self._find_ends()
            self._consumer = self._consume()
            topic = next(iter(self._tables.values())).topic
            self._hearing = Hearing(topic.settings, topic.name)

    def close(self) -> None:
        """Let go of the broker, and of what was read."""
        self._pending.close()
        if self._consumer is not None:
            self._consumer.close()

    # ------------------------------------------------------------------------------------------- beginning

    def _find(self, entity: SourceEntity, position: Mapping[str, Any]) -> None:
        name = self.topic(entity)
        topic = change_topic(self._settings, name)
        try:
            spans = topic.spans(position)
        except SourceAway:
            raise
        except SourceError as error:
            self.failed[entity.table] = error
            return
        if len(spans) > 1:
            self.failed[entity.table] = SourceError(
                f"Topic {name} has {len(spans)} partitions, and changes keep their order in one only; "
                "nothing was landed. Make the topic anew with one partition (`python -m flows cdc register` "
                "does), then `python -m flows cdc resnapshot`."
            )
            return
        first, end = spans[0]
        landed = int(position.get(cdc.TRANSACTIONS, 0))
        first_read = FirstRead(self._since.get(entity))
        self._tables[name] = _Table(entity, topic, first, self._reach(name, first, end), landed, first_read)

    def _find_ends(self) -> None:
        """Transactions are told from where the table has got to that is furthest behind, of those that have
        something to read: what ended before was landed of the others with it. Those that ended last before
        are read once more, for a connector may send some of their changes again.
        """
        topic = change_topic(self._settings, debezium.names(self._settings).transactions)
        try:
            first, end = topic.spans({})[0]
        except SourceAway:
            raise
        except SourceError:
            self.untold = SourceError(
                f"Topic {topic.name} at {topic.bootstrap}, which tells of the transactions that ended, is "
                "gone; nothing was landed. Make it again: python -m flows cdc register."
            )
            return
        tables = self._tables.values()
        for table in tables:
            if table.landed > end:  # the topic was made anew: its offsets say nothing of the old one's
                table.landed = 0
        behind = [table.landed for table in tables if table.reach.position < table.reach.end]
        begin = min(behind or [max(table.landed for table in tables)])
        for table in tables:
            table.landed = max(table.landed, begin)
        self._ends = topic
        self._ends_reach = self._reach(topic.name, min(max(first, begin), end), end)
        self._ends_begin = self._ends_reach.position
        self._ends_from = max(first, self._ends_begin - REMEMBERED)

    def _reach(self, name: str, position: int, end: int) -> Reach:
        return Reach(position, end, partial(self._end_now, name))

    def _end_now(self, name: str) -> int | None:
        return end_now(self._consumer, name, 0) if self._consumer is not None else None

    def _consume(self) -> Consumer:
        begins = {name: table.first for name, table in self._tables.items()}
        if self._ends is not None:
            begins[self._ends.name] = self._ends_from
        return consuming(next(iter(self._tables.values())).topic, begins)

    # --------------------------------------------------------------------------------------------- reading

    @property
    def entities(self) -> list[SourceEntity]:
        """The tables that are read."""
        return [table.entity for table in self._tables.values()]

    @property
    def waiting(self) -> int:
        """Records that were read and not handed on."""
        return len(self._pending)

    @property
    def waiting_bytes(self) -> int:
        """How large they are."""
        return self._pending.bytes

    @property
    def is_at_end(self) -> bool:
        """Whether all that the topics held at the beginning was read."""
        reaches = [self._ends_reach, *(table.reach for table in self._tables.values())]
        return all(reach.position >= reach.end for reach in reaches)

    @property
    def is_read(self) -> bool:
        """Whether nothing is left to read now."""
        return all(table.reach.is_at_end for table in self._tables.values())

    @property
    def is_done(self) -> bool:
        """Whether all that the topics held at the beginning was handed on."""
        if not self.is_at_end:
            return False
        firsts = self._pending.firsts()
        # Behind the last record a topic can hold markers of transactions, which are nothing to hand on.
        return all(firsts.get(name, one.reach.end) >= one.reach.end for name, one in self._tables.items())

    def are_read(self, entities: Iterable[SourceEntity]) -> bool:
        """Whether the connector's first read of these tables is here whole, as far as their records tell."""
        wanted = {*entities}
        return are_whole([table.first_read for table in self._tables.values() if table.entity in wanted])

    def is_all_told(self, entity: SourceEntity) -> bool:
        """Whether its topic has told of every row that ever went: see `FirstRead.is_all`."""
        return self._tables[self.topic(entity)].first_read.is_all

    def look_again(self) -> None:
        """Go on to the ends that the topics have now: where the first read is whole, what is here is enough.

        Raises SourceError like `poll`.
        """
        for table in self._tables.values():
            is_whole = table.first_read.is_whole
            table.reach.end = table.reach.position if is_whole else table.topic.spans({})[0][1]

    def topic(self, entity: SourceEntity) -> str:
        """The change topic of a table."""
        assert isinstance(entity.read, Postgres)
        return debezium.topic(self._settings, entity.read)

    def poll(self, seconds: float) -> int:
        """Read what comes within so many seconds; returns the number of messages, ends of transactions too
        unless they were landed.

        Raises SourceError when a topic can't be read on, SourceAway when the broker does not answer, or only
        another consumer would still get anything.
        """
        if self._consumer is None:
            return 0
        batches, told, landed = self._consumed(self._consumer, seconds)
        count: int = sum(batch.num_rows for batch in [*batches.values(), *told])
        if not count:
            self._hearing.check(self._consumer)
            return 0
        self._hearing.note()
        # A record can be large: what one call fetches is bounded in bytes, not in records alone.
        size = sum(batch.nbytes for batch in [*batches.values(), *told])
        self._wanted = max(1, min(_MAX_RECORDS, _BATCH_BYTES * count // max(1, size)))
        for name, batch in batches.items():
            first_read = self._tables[name].first_read
            first_read.note(self._pending.keep(batch, is_first=first_read.since is not None))
        for batch in told:
            self._pending.note_ends(batch, self._collections())
        self._cut_again_at = self._news_at
        return count - landed

    @not_looked_for()
    def _consumed(
        self, consumer: Consumer, seconds: float
    ) -> tuple[dict[str, pa.RecordBatch], list[pa.RecordBatch], int]:
        """What comes: changes by their topic, ends of transactions, and how many of these were landed. Its
        messages are gone before garbage is looked for again.
        """
        records: dict[str, list[Message]] = {}
        for name, is_error, messages in runs(consumer.consume(self._wanted, timeout=seconds)):
            if is_error:
                self._note_errors(name, messages)
            elif reach := self._reach_of(name):
                reach.note(behind(messages), is_end=False)
                records.setdefault(name, []).extend(messages)
        ends = records.pop(self._ends.name, []) if self._ends is not None else []
        batches = {name: record_batch(messages, (name, 0)) for name, messages in records.items()}
        told = [record_batch(ends)] if ends else []
        landed = sum((message.offset() or 0) < self._ends_begin for message in ends)
        return batches, told, landed

    def _note_errors(self, name: str, messages: Iterable[Message]) -> None:
        for message in messages:
            error, offset = message.error(), message.offset()
            assert error is not None
            if error.code() == KafkaError._PARTITION_EOF:
                if offset is not None and (reach := self._reach_of(name)):
                    reach.note(offset, is_end=True)
            elif error.fatal() or not error.retriable():
                raise self._told(name, error)

    def _reach_of(self, name: str) -> Reach | None:
        """How far a topic was read; None of one that is left out."""
        if table := self._tables.get(name):
            return table.reach
        return self._ends_reach if self._ends is not None and name == self._ends.name else None

    def _collections(self) -> dict[str, tuple[str, int]]:
        found = {}
        for name, table in self._tables.items():
            assert isinstance(table.entity.read, Postgres)
            found[debezium.collection(table.entity.read)] = name, table.landed
        return found

    def _told(self, name: str, error: KafkaError) -> SourceError:
        table = self._tables.get(name)
        topic = table.topic if table else self._ends or next(iter(self._tables.values())).topic
        return topic.told(error)

    # ------------------------------------------------------------------------------------------ handing on

    def cut(self) -> Cut | None:
        """All of the transactions that are in whole; None when there is nothing to hand on.

        One of which the end or a change does not come is handed on after a while and named as incomplete: see
        `Pending.cut`.
        """
        begun = time.monotonic()
        if begun < self._cut_again_at:
            return None
        reaches = {name: table.reach for name, table in self._tables.items()}
        cut = self._pending.cut(reaches, self._ends_reach if self._ends else None)
        ended = time.monotonic()
        self._cut_again_at = ended + _CUT_AGAIN_SECONDS
        self._news_at = 0.0 if cut else min(ended + _TIMES_A_LOOK * (ended - begun), self._cut_again_at)
        return cut

    def quiet(self) -> list[SourceEntity]:
        """The tables that were read to their ends and of which nothing waits."""
        waiting, tables = self._pending.firsts(), self._tables.items()
        return [one.entity for name, one in tables if one.reach.is_at_end and name not in waiting]

    def passed(self) -> Cut:
        """What there is to say of tables without news: where nothing waits, which transactions have ended."""
        is_told = self._ends is not None and not len(self._pending)
        return Cut(transactions=self._pending.bound(self._ends_reach.position) if is_told else 0)

    def records(self, entity: SourceEntity, cut: Cut) -> Extract:
        """The records of one table before the cut, as `kafka.read` gives them."""
        name = self.topic(entity)
        table, after = self._tables[name], cut.after.get(name, self._tables[name].first)
        extract = Extract(kafka_records.SCHEMA, self._pending.records(name, after))
        extract.offsets = {0: (table.first, after)} if table.first < after else {}
        extract.positions = {
            "topic_id": table.topic.id,
            "offsets": {"0": after},
            cdc.TRANSACTIONS: max(cut.transactions, table.landed),
        }
        return extract

    def done(self, cut: Cut) -> None:
        """What was handed on is landed: forget it."""
        self._pending.forget(cut.after, cut.transactions)
        for name, table in self._tables.items():
            table.first = cut.after.get(name, table.first)
            table.landed = max(table.landed, cut.transactions)

    def leave_out(self, entity: SourceEntity, error: SourceError) -> None:
        """Read this table no more: it can't be landed."""
        name = self.topic(entity)
        del self._tables[name]
        self.failed[entity.table] = error
        self._pending.leave_out(name)
        if self._consumer is not None:
            self._consumer.incremental_unassign([TopicPartition(name, 0)])
