"""The stream's side of the broker: a member of a consumer group whose offsets are the journal's."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from flows.extract.kafka import OWN_OFFSETS, Topic
from flows.extract.kafka_ends import end_now
from flows.extract.kafka_lost import Hearing
from flows.extract.kafka_records import record_batch
from flows.garbage import not_looked_for
from flows.hung import within
from flows.streaming.journal import Claim, Journal
from flows.streaming.route import Route
from flows.streaming.same_topics import SameTopics

MOST_MESSAGES = 100_000
FEWEST_MESSAGES = 1_000
BATCH_BYTES = 64 << 20
"""What one micro-batch may hold: messages can be large, so what is asked for follows their size."""

LEAVE_SECONDS = 10.0
"""How long leaving the group may take."""
_REQUEST_SECONDS = 15.0
_WITHOUT_SECONDS = 15.0
"""So long after the group was last made up a member counts as one without partitions: while others leave it,
it is made up again and again."""
_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._MAX_POLL_EXCEEDED,
}
"""What the client only tells: it goes on by itself when the broker is there again."""
_NOT_THERE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
"""The broker does not hold the offset that comes next."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """What was read at once: record batches by raw table, and the offsets [first, next) by partition."""

    batches: Mapping[str, pa.RecordBatch] = field(default_factory=dict)
    spans: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    claims: Mapping[str, Mapping[int, Claim]] = field(default_factory=dict)
    """Raw table → partition → the claim it was read under."""
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    oldest: float | None = None
    """When the broker got the oldest of them, seconds since 1970; None where no record says."""

    def __bool__(self) -> bool:
        return bool(self.batches)


class StreamConsumer:
    """Reads the topics of a route. Partitions come and go by the group's rules; each is claimed in the
    journal when it comes, and read from where the journal says.

    For one thread: the group's callbacks run inside `read`, on the journal's connection. `settle` is called
    before they use it: what was read so far must be committed, or given up, before partitions change hands.
    `assigned` is called once they are claimed: nobody else commits what comes of them any more.
    """

    def __init__(
        self,
        route: Route,
        journal: Journal,
        bootstrap: str,
        options: Mapping[str, str],
        owner: str,
        settle: Callable[[], None],
        assigned: Callable[[], None],
    ) -> None:
        self._claims: dict[str, dict[int, Claim]] = {name: {} for name in route.entities}
        self._topic_ids: dict[str, str] = {}
        self._settle = settle
        self._tell_assigned = assigned
        self._entities = route.topics
        self._journal = journal
        self._owner = owner
        self._wanted = FEWEST_MESSAGES
        self._at_end: dict[tuple[str, int], int] = {}
        self._is_left = False
        self._assigned_at = math.inf
        self._topics = {name: Topic(name, bootstrap, options, _REQUEST_SECONDS) for name in self._entities}
        self._same = SameTopics(bootstrap, options, owner)
        self._hearing = Hearing({"bootstrap.servers": bootstrap, **options}, next(iter(self._entities)))
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": owner,
                "fetch.wait.max.ms": 10,
                "queued.max.messages.kbytes": BATCH_BYTES >> 11,
                # So soon the client looks again at a queue that was full: after a second a read would starve.
                "fetch.queue.backoff.ms": 20,
                # So soon the group learns of partitions that a topic was given, and of a topic that is gone.
                "topic.metadata.refresh.interval.ms": 5_000,
                "session.timeout.ms": 6_000,
                "heartbeat.interval.ms": 1_000,
                **options,
                **OWN_OFFSETS,
                "group.id": route.group,
            },
            logger=_log,
        )
        self._consumer.subscribe(
            list(self._entities), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def close(self) -> None:
        """Leave the group, so that others need not wait for a timeout.

        A client that has lost its broker with a commit under way asks for the group's coordinator without end
        (confluentinc/librdkafka#3740): after LEAVE_SECONDS it is left to itself, and its partitions go to
        others as those of a dead member do.
        """
        try:
            within(LEAVE_SECONDS, self._consumer.close)
        except TimeoutError:
            self._is_left = True
            _log.warning("The broker did not let the stream leave its group within %g s.", LEAVE_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether every partition of ours has been read to its present end; or the group has had none for us
        for a while, since there are more members than partitions.
        """
        ours = {(name, partition) for name, claims in self._claims.items() for partition in claims}
        if not ours:
            return time.monotonic() - self._assigned_at > _WITHOUT_SECONDS
        return ours <= self._at_end.keys()

    @property
    def is_behind(self) -> bool:
        """Whether so much is waiting that whole micro-batches come at once."""
        return self._wanted >= MOST_MESSAGES // 4

    @property
    def lag(self) -> int:
        """Messages that wait in our partitions, as far as the broker has told."""
        waiting = 0
        for topic, entity in self._entities.items():
            for partition, claim in self._claims[entity.table].items():
                _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
                waiting += max(0, end - claim.next_offset)
        return waiting

    def ended(self, asked: Collection[tuple[str, int]]) -> dict[tuple[str, int], Claim]:
        """Which of these partitions (topic's table, number) are ours and have nothing to read at this moment.

        The broker is asked, because what it told earlier is no longer true when messages have come that it
        has not delivered yet. While it does not answer there are none.
        """
        topics = {entity.table: topic for topic, entity in self._entities.items()}
        found: dict[tuple[str, int], Claim] = {}
        for name, partition in asked:
            claim, seen = self._claims[name].get(partition), self._at_end.get((name, partition))
            if claim is None or seen is None:
                continue
            end = end_now(self._consumer, topics[name], partition)
            if end is None:
                break
            # Markers of transactions take offsets too: our position is behind them, our last message is not.
            if end <= max(seen, claim.next_offset):
                found[name, partition] = claim
        return found

    def look(self) -> None:
        """Raises PositionGone when a topic was made anew since it was assigned. Any thread may call it."""
        ids = [(name, self._topic_ids.get(entity.table)) for name, entity in self._entities.items()]
        self._same.look({name: known for name, known in ids if known})

    def read(self, seconds: float) -> Records:
        """What has come, at the latest after so many seconds; at once when much is waiting.

        Raises SourceError when the topics can't be read, or no longer hold what was not read yet; SourceAway
        when only another consumer would still get anything.
        """
        with not_looked_for():
            messages = self._consumer.consume(self._wanted, timeout=seconds)
            told = [message for message in messages if message.error() is not None]
            if told:
                messages = [message for message in messages if message.error() is None]
            came = len(messages)
            rows = record_batch(messages) if messages else None
            del messages  # what follows takes longer than they are needed
        records = self._records(rows) if rows is not None else Records()
        self._note(told)
        if came:
            self._hearing.note()
        else:
            self._hearing.check(self._consumer)
        self._adapt(came, records)
        return records

    def tell_broker(self, records: Records) -> None:
        """After the commit: a courtesy to those who watch the group's offsets."""
        topics = {entity.table: topic for topic, entity in self._entities.items()}
        offsets = [
            TopicPartition(topics[name], partition, after)
            for name, spans in records.spans.items()
            for partition, (_, after) in spans.items()
            if partition in self._claims[name]
        ]
        if offsets:
            self._consumer.commit(offsets=offsets, asynchronous=True)

    # ---------------------------------------------------------------------------------------------- inside

    def _note(self, told: Iterable[Message]) -> None:
        """Ends of partitions that were reached; errors that do not pass are raised."""
        for message in told:
            topic, partition, error = message.topic(), message.partition(), message.error()
            assert error is not None
            if error.code() == KafkaError._PARTITION_EOF and topic is not None and partition is not None:
                name = self._entities[topic].table
                claim, end = self._claims[name].get(partition), message.offset()
                if claim is not None and end is not None and claim.next_offset <= end:
                    self._at_end[name, partition] = end
            elif error.fatal() or not (error.retriable() or error.code() in _PASSING):
                one = self._topics[topic or next(iter(self._topics))]
                if error.code() in _NOT_THERE:
                    self._settle()
                    one.spans(self._journal.positions(self._entities[one.name].table))  # tells why
                raise one.told(error)

    def _records(self, rows: pa.RecordBatch) -> Records:
        """By topic; column by column, because a loop over messages would cost more than all that follows."""
        places = pa.table([rows["topic"], rows["kafka_partition"], rows["kafka_offset"]], ["t", "p", "o"])
        last = places.group_by(["t", "p"]).aggregate([("o", "max")]).to_pydict()
        batches, spans, claims = {}, {}, {}
        for topic in set(last["t"]):
            name = self._entities[topic].table
            after = {
                partition: offset + 1
                for there, partition, offset in zip(last["t"], last["p"], last["o_max"], strict=True)
                if there == topic and partition in self._claims[name]
            }
            if not after:
                continue
            if len(after) == len(last["t"]):  # all of them: no copy
                batches[name] = rows
            else:
                mine = pc.and_(
                    pc.equal(rows["topic"], topic),
                    pc.is_in(rows["kafka_partition"], pa.array([*after], pa.int32())),
                )
                batches[name] = rows.filter(mine)
            claims[name] = {partition: self._claims[name][partition] for partition in after}
            spans[name] = {part: (claims[name][part].next_offset, end) for part, end in after.items()}
            for partition, end in after.items():
                self._at_end.pop((name, partition), None)
                self._claims[name][partition] = Claim(claims[name][partition].generation, end)
        oldest = pc.min(rows["kafka_timestamp"]).as_py()
        return Records(
            batches, spans, claims, dict(self._topic_ids), oldest.timestamp() if oldest is not None else None
        )

    def _adapt(self, came: int, records: Records) -> None:
        """Little at once for latency, much when behind, and never more bytes than one batch may hold."""
        size = sum(batch.nbytes for batch in records.batches.values())
        wanted = self._wanted * 4 if came >= self._wanted else max(FEWEST_MESSAGES, self._wanted // 2)
        fitting = BATCH_BYTES * came // size if size else MOST_MESSAGES
        self._wanted = max(1, min(wanted, MOST_MESSAGES, fitting))

    # What these raise comes out of `read`, or of `close`.

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._is_left:
            return
        self._settle()
        by_topic: dict[str, list[int]] = {}
        for partition in partitions:
            by_topic.setdefault(partition.topic, []).append(partition.partition)
        starts = []
        for name, wanted in by_topic.items():
            entity = self._entities[name].table
            spans = self._topics[name].spans(self._journal.positions(entity))
            self._topic_ids[entity] = self._topics[name].id
            self._journal.know(entity, {part: start for part, (start, _) in spans.items()}, self._owner)
            claims = self._journal.take(entity, {part: spans[part][0] for part in wanted}, self._owner)
            self._claims[entity].update(claims)
            starts += [TopicPartition(name, part, claim.next_offset) for part, claim in claims.items()]
        consumer.assign(starts)
        self._assigned_at = time.monotonic()
        self._tell_assigned()

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if self._is_left:
            return
        self._settle()
        for partition in partitions:
            entity = self._entities[partition.topic].table
            self._claims[entity].pop(partition.partition, None)
            self._at_end.pop((entity, partition.partition), None)
