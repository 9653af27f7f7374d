"""Topics of a Kafka cluster: every record from the given offsets to the ends taken at the start.

No consumer group takes part: partitions are assigned, and the offsets live in the ledger. Offsets are not
dense (transaction markers, aborted records and compaction leave gaps), so a partition is done by position,
never by count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from flows.extract import Extract, SourceAway, SourceError, SourceRefused, kafka_unread
from flows.extract.kafka_names import another
from flows.extract.kafka_records import SCHEMA, record_batch
from flows.garbage import not_looked_for
from flows.settling import settled
from transforms.entities import Kafka, SourceEntity

REQUEST_SECONDS = 15.0
"""How long one question to the broker may take."""
STALL_SECONDS = 60.0
"""How long reading may go on without getting anywhere."""

OWN_OFFSETS: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "check.crcs": True,
    # A broker sends the next message whole, however large: who refuses it asks for it for ever.
    "receive.message.max.bytes": 2_147_483_647,
}
"""Settings of a consumer whose offsets are kept by us and never jump; nothing overrides them."""

_BATCH_BYTES = 32 << 20
_MAX_RECORDS = 20_000
_log = logging.getLogger(__name__)


def read(
    entity: SourceEntity,
    bootstrap: str,
    positions: Mapping[str, Any],
    *,
    options: Mapping[str, str] | None = None,
    request_seconds: float = REQUEST_SECONDS,
    stall_seconds: float = STALL_SECONDS,
) -> Extract:
    """Read the entity's topic from `positions` to its present ends; nothing is connected before the first
    batch.

    `positions` is `{"topic_id": …, "offsets": {"0": next offset, …}}`, empty for a topic that was never read;
    partitions that are not in it are read from their beginning. `options` are further librdkafka settings
    (SASL, TLS). Raises PositionGone like `Topic.spans`, SourceError when the broker does not answer.
    """
    if not isinstance(entity.read, Kafka):
        raise TypeError(f"{entity.table} is not read from Kafka")
    extract = Extract(SCHEMA, iter(()), dict(positions))
    topic = Topic(entity.read.topic, bootstrap, options or {}, request_seconds)
    extract.batches = _batches(topic, extract, stall_seconds)
    return extract


def lag(
    bootstrap: str,
    topic: str,
    positions: Mapping[str, Any],
    *,
    options: Mapping[str, str] | None = None,
    request_seconds: float = 5.0,
    cure: str = "",
) -> dict[int, int]:
    """Partition → offsets between position and end: at most so many records wait. Raises SourceError."""
    spans = Topic(topic, bootstrap, options or {}, request_seconds, cure).spans(positions)
    return {partition: end - start for partition, (start, end) in spans.items()}


class PositionGone(SourceRefused):
    """The broker does not hold what comes after a position (any more); it takes a person to go on."""


class Topic:
    """Questions about one topic; every one ends within `request_seconds`.

    `cure`: the command that goes on where the broker has lost records, or the topic; '' of event topics.
    """

    def __init__(
        self, name: str, bootstrap: str, options: Mapping[str, str], request_seconds: float, cure: str = ""
    ) -> None:
        self.name = name
        self.cure = cure or f"python -m flows positions {name}"
        self._maker = cure or "create it, or correct its declaration"
        self.bootstrap = bootstrap
        self.seconds = request_seconds
        self.settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "client.id": "analytics-extract",
            "socket.timeout.ms": int(request_seconds * 1000),
            **options,
        }
        self.id = ""

    def held(self) -> dict[int, tuple[int, int]]:
        """Partition → (first offset, end), the end being the last stable one: behind it are open
        transactions. Raises SourceError when the broker does not answer or has no such topic.
        """
        with self.errors_told():
            admin = AdminClient(self.settings, logger=_log)
            found = admin.describe_topics(TopicCollection([self.name]), request_timeout=self.seconds)
            described = found[self.name].result(timeout=self.seconds + 5)
            self.id = str(described.topic_id)
            partitions = sorted(part.id for part in described.partitions)
            first = self._offsets(admin, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            end = self._offsets(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {part: (first[part], end[part]) for part in partitions}

    def spans(self, positions: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
        """Partition → (first offset to read, end) as `held` has it.

        Raises PositionGone when the positions do not fit what the broker holds.
        """
        held = self.held()
        known = positions.get("topic_id")
        if known and known != self.id:
            with self.errors_told():
                raise PositionGone(another(self, known))
        offsets = {int(partition): int(offset) for partition, offset in positions.get("offsets", {}).items()}
        for partition, offset in sorted(offsets.items()):
            if partition not in held:
                raise PositionGone(
                    f"Topic {self.name} at {self.bootstrap} has lost partition {partition}, which was read "
                    "before; nothing was landed. Restore the topic; if that can't be, what is lost, and the "
                    f"way on: {self.cure}"
                )
            first, end = held[partition]
            if offset < first:
                raise PositionGone(
                    f"Topic {self.name}, partition {partition}: offsets {offset} to {first - 1} were deleted "
                    "by the broker before they were read; nothing was landed. Lengthen the topic's "
                    "retention; produce the missing records again if somebody has them. To accept the loss: "
                    f"{self.cure}"
                )
            if offset > end:
                raise PositionGone(
                    f"Topic {self.name}, partition {partition}: it was read up to offset {offset}, but ends "
                    f"at {end} now: the broker has lost records (or this is another cluster). Nothing was "
                    "landed; check ANALYTICS_KAFKA_BOOTSTRAP and the broker. If they are right, the way on: "
                    f"{self.cure}"
                )
        return {part: (offsets.get(part, first), end) for part, (first, end) in held.items()}

    def first_at(self, moment: datetime) -> dict[int, int]:
        """Partition → the first offset whose record the broker got then or later; none where there is none.

        Raises SourceError when the broker does not answer.
        """
        # No record is from before 1970, and the client takes what is below zero for words of its own.
        spec = OffsetSpec.for_timestamp(max(0, int(moment.timestamp() * 1000)))
        with self.errors_told():
            admin = AdminClient(self.settings, logger=_log)
            found = admin.describe_topics(TopicCollection([self.name]), request_timeout=self.seconds)
            described = found[self.name].result(timeout=self.seconds + 5)
            asked = self._offsets(admin, [part.id for part in described.partitions], spec)
        return {partition: offset for partition, offset in asked.items() if offset >= 0}

    def _offsets(self, admin: AdminClient, partitions: Sequence[int], spec: OffsetSpec) -> dict[int, int]:
        def ask() -> dict[int, int]:
            asked = admin.list_offsets(
                {TopicPartition(self.name, partition): spec for partition in partitions},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self.seconds,
            )
            return {key.partition: int(found.result(self.seconds + 5).offset) for key, found in asked.items()}

        return settled(ask, self.seconds)

    @contextmanager
    def errors_told(self) -> Iterator[None]:
        """Turn what the client raises into a SourceError that says what to do."""
        try:
            yield
        except KafkaException as error:
            raise self.told(error.args[0]) from None
        except TimeoutError:
            raise self.told(KafkaError(KafkaError._TIMED_OUT)) from None

    def told(self, error: KafkaError) -> SourceError:
        """One error of the broker or the client as a sentence."""
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return SourceRefused(
                f"There is no topic {self.name} at {self.bootstrap}. The way on: {self._maker}."
            )
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            return SourceRefused(
                f"Topic {self.name} at {self.bootstrap}: the broker deleted records while they were being "
                "read. Nothing of them was landed; lengthen the topic's retention. What is lost, and the way "
                f"on: {self.cure}"
            )
        return SourceAway(
            f"Topic {self.name} can't be read from {self.bootstrap}: {error.str()}. Nothing was landed; "
            "check that the broker is up and ANALYTICS_KAFKA_BOOTSTRAP and ANALYTICS_KAFKA_OPTIONS are "
            "right, then run again."
        )


def _batches(topic: Topic, extract: Extract, stall_seconds: float) -> Iterator[pa.RecordBatch]:
    spans = topic.spans(extract.positions)
    ends = {partition: end for partition, (start, end) in spans.items() if start < end}
    if ends:
        records = reread(topic, {part: [spans[part]] for part in ends}, stall_seconds)
        yield from kafka_unread.telling(records, extract.warnings)
    extract.offsets = {part: span for part, span in spans.items() if span[0] < span[1]}
    extract.positions = {
        "topic_id": topic.id,
        "offsets": {str(partition): end for partition, (_, end) in spans.items()},
    }


def reread(
    topic: Topic, spans: Mapping[int, Sequence[tuple[int, int]]], stall_seconds: float = STALL_SECONDS
) -> Generator[pa.RecordBatch]:
    """What the broker has at these offsets, partition → spans [first, after) in their order.

    They have to lie between the topic's ends. Raises SourceError like `read`.
    """
    consumer = Consumer(
        {
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": _BATCH_BYTES >> 10,
            **topic.settings,
            **OWN_OFFSETS,
            "group.id": "analytics-extract",
        },
        logger=_log,
    )
    try:
        with topic.errors_told():
            for number in range(max(map(len, spans.values()), default=0)):
                turn = {part: there[number] for part, there in spans.items() if number < len(there)}
                consumer.assign([TopicPartition(topic.name, part, turn[part][0]) for part in turn])
                ends = {part: after for part, (_, after) in turn.items()}
                yield from _until(consumer, topic, ends, stall_seconds)
    finally:
        consumer.close()


def _until(
    consumer: Consumer, topic: Topic, ends: dict[int, int], stall_seconds: float
) -> Iterator[pa.RecordBatch]:
    """Batches until every partition's position is at its end."""
    deadline = time.monotonic() + stall_seconds
    wanted = 1_000
    while ends:
        has_come, batch = _consumed(consumer, topic, ends, wanted)
        if batch is not None:
            # A record can be large: what one call fetches is bounded in bytes, not in records alone.
            wanted = max(1, min(_MAX_RECORDS, _BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)))
            yield batch
        if has_come:
            deadline = time.monotonic() + stall_seconds
        elif time.monotonic() > deadline:
            waiting = ", ".join(str(partition) for partition in sorted(ends))
            raise SourceError(
                f"Topic {topic.name} at {topic.bootstrap}: no record for {timedelta(seconds=stall_seconds)} "
                f"though partition {waiting} has more. Nothing was landed; check the broker, then run again."
            )


@not_looked_for()
def _consumed(
    consumer: Consumer, topic: Topic, ends: dict[int, int], wanted: int
) -> tuple[bool, pa.RecordBatch | None]:
    """Whether anything has come, and the records of it; of `ends` go the partitions whose end is reached.
    Its messages are gone before garbage is looked for again, and looked through one by one.
    """
    messages = consumer.consume(wanted, timeout=0.2)
    records: list[Message] = []
    for message in messages:
        partition, offset, error = message.partition(), message.offset(), message.error()
        end = None if partition is None else ends.get(partition)
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if error.fatal() or not error.retriable():
                raise topic.told(error)
            continue
        if end is None or partition is None or offset is None:
            continue
        if error is None and offset < end:
            records.append(message)
            offset += 1
        if offset >= end:
            del ends[partition]
            consumer.incremental_unassign([TopicPartition(topic.name, partition)])
    return bool(messages), record_batch(records) if records else None
