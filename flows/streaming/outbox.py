"""The outbox's way to its topic: every message once and in order, whatever crashes between two systems."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg import Connection

from flows.extract import SourceAway, SourceRefused
from flows.extract.kafka import OWN_OFFSETS
from flows.failpoints import failpoint
from flows.hung import within

MOST_AT_ONCE = 50_000
_SECONDS = 30.0
_OFFSETS_SECONDS = 10.0
"""How long the sequence may take into a transaction. A broker that goes meanwhile can keep librdkafka waiting
for ever, whatever time it is given: confluentinc/librdkafka#5456.
"""
_LACKING = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
"""The broker is there, and somebody has to give a right."""
_log = logging.getLogger(__name__)


class Emitter:
    """One topic's transactional producer.

    The sequence of the last message is committed inside the same Kafka transaction, as the offset of a group
    that reads nothing, with a digest of the message, and read back before anything is sent. A second emitter
    of the same group fences the first. `read_committed` readers see every message once; those of one key in
    their order.
    """

    def __init__(self, bootstrap: str, options: Mapping[str, str], group: str, topic: str) -> None:
        self._topic = topic
        self._place = f"Topic {topic} at {bootstrap}"
        name = f"{group}-{topic}"
        common: dict[str, Any] = {"bootstrap.servers": bootstrap, **options}
        with self._readable():
            self._consumer = Consumer(
                {**common, **OWN_OFFSETS, "group.id": name, "isolation.level": "read_committed"}, logger=_log
            )
            _create(AdminClient(common, logger=_log), topic)
            self._producer = Producer(
                {**common, "transactional.id": name, "linger.ms": 5, "compression.type": "lz4"}, logger=_log
            )
            self._producer.init_transactions(_SECONDS)
            (committed,) = self._consumer.committed([TopicPartition(topic, 0)], timeout=_SECONDS)
        self.sent = max(committed.offset, 0)
        """The sequence of the last message that the topic holds."""
        self._sent_digest = committed.metadata or ""
        """Of that message; '' where it is not known."""
        self._is_forgotten = committed.offset < 0

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def emit(self, connection: Connection[Any]) -> int:
        """Send what the outbox holds for the topic, and forget what was sent; returns the messages.

        A crash before Kafka's commit leaves nothing that a reader sees; one after it is noticed by the
        sequence that was committed with it. Raises SourceAway when the broker can't be reached.
        """
        if self._is_forgotten:
            self._recall(connection)
        self._catch_up(connection)
        total = 0
        while rows := connection.execute(
            "SELECT sequence, key, value FROM ops.outbox WHERE topic = %s AND sequence > %s "
            "ORDER BY sequence LIMIT %s",
            (self._topic, self.sent, MOST_AT_ONCE),
        ).fetchall():
            self._send(rows)
            failpoint("outbox.sent")
            self._forget(connection)
            total += len(rows)
        return total

    def _send(self, rows: Sequence[tuple[int, str, str]]) -> None:
        with self._readable():
            self._producer.begin_transaction()
            for _, key, value in rows:
                self._produce(key, value)
            failpoint("outbox.produced")
            last, digest = rows[-1][0], _digest(*rows[-1][1:])
            place = TopicPartition(self._topic, 0, last, digest)
            group = self._consumer.consumer_group_metadata()
            within(
                _OFFSETS_SECONDS,
                lambda: self._producer.send_offsets_to_transaction([place], group, _OFFSETS_SECONDS),
            )
            self._producer.commit_transaction(_SECONDS)
        self.sent, self._sent_digest = last, digest

    def _produce(self, key: str, value: str) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value.encode(), key.encode())
            except BufferError:  # its queue is full: wait until some of it is sent
                self._producer.poll(0.1)
            else:
                return

    def _forget(self, connection: Connection[Any]) -> None:
        connection.execute(
            "DELETE FROM ops.outbox WHERE topic = %s AND sequence <= %s", (self._topic, self.sent)
        )

    def _recall(self, connection: Connection[Any]) -> None:
        """The broker forgets a group that nobody was in for `offsets.retention.minutes` (7 days). What a
        crash before that left in the outbox, sent, is then known by being in the topic: as its last messages,
        since nothing is sent before this.
        """
        rows = connection.execute(
            "SELECT sequence, key, value FROM ops.outbox WHERE topic = %s ORDER BY sequence LIMIT %s",
            (self._topic, MOST_AT_ONCE),
        ).fetchall()
        there = self._last_messages()
        for sequence, key, value in rows:
            if (key.encode(), value.encode()) not in there:
                break
            self.sent = sequence
        self._is_forgotten = False

    def _last_messages(self) -> set[tuple[bytes | None, bytes | None]]:
        """Key and value of as many messages of each partition as one transaction can have sent there."""
        messages = set()
        with self._readable():
            partitions = (
                self._consumer.list_topics(self._topic, timeout=_SECONDS).topics[self._topic].partitions
            )
            places = []
            for number in partitions:
                low, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, number), timeout=_SECONDS
                )
                # The offset before `high` is that of the commit itself.
                places.append(TopicPartition(self._topic, number, max(low, high - MOST_AT_ONCE - 1)))
            self._consumer.assign(places)
            ended = 0
            while ended < len(places):
                message = self._consumer.poll(_SECONDS)
                if message is None:
                    raise TimeoutError
                error = message.error()
                if error is None:
                    messages.add((message.key(), message.value()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended += 1
                else:
                    raise KafkaException(error)
            self._consumer.unassign()
        return messages

    def _catch_up(self, connection: Connection[Any]) -> None:
        """After a crash: forget what was sent. A warehouse that was made anew, or came back as it was before
        the last messages were sent, gives their numbers to others: those are numbered on from the topic's
        end, or they would be taken for sent ones.
        """
        with connection.transaction():
            if self._is_known(connection):
                self._forget(connection)
                return
            _log.warning(
                "Topic %s holds messages that the warehouse does not know: it was made anew, or is one from "
                "before they were sent. What it has to tell goes behind them, and revisions may come again: "
                "who keeps the highest one has to begin anew (docs/recovery.md).",
                self._topic,
            )
            connection.execute("LOCK TABLE ops.outbox IN EXCLUSIVE MODE")
            connection.execute(
                "SELECT setval(name, greatest(%s, coalesce(pg_sequence_last_value(name), 0))) FROM "
                "(SELECT pg_get_serial_sequence('ops.outbox', 'sequence')::regclass AS name) AS numbers",
                (self.sent,),
            )
            connection.execute(
                "WITH waiting AS (DELETE FROM ops.outbox WHERE topic = %s RETURNING *) "
                "INSERT INTO ops.outbox (topic, key, value) "
                "SELECT topic, key, value FROM waiting ORDER BY sequence",
                (self._topic,),
            )
            self._recall(connection)
            self._forget(connection)

    def _is_known(self, connection: Connection[Any]) -> bool:
        """Whether the warehouse has numbered the last message that was sent: it has forgotten that, or still
        holds it, as the last of those up to its number.
        """
        row = connection.execute(
            "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('ops.outbox', 'sequence')), 0)"
        ).fetchone()
        if row is not None and row[0] < self.sent:
            return False
        last = connection.execute(
            "SELECT sequence, key, value FROM ops.outbox WHERE topic = %s AND sequence <= %s "
            "ORDER BY sequence DESC LIMIT 1",
            (self._topic, self.sent),
        ).fetchone()
        if last is None or not self._sent_digest:
            return True
        return bool(last[0] == self.sent and _digest(*last[1:]) == self._sent_digest)

    @contextlib.contextmanager
    def _readable(self) -> Any:
        """Kafka's errors as one sentence; what was begun is given up with this emitter."""
        try:
            yield
        except (KafkaException, TimeoutError) as failed:
            error = (
                failed.args[0] if isinstance(failed, KafkaException) else KafkaError(KafkaError._TIMED_OUT)
            )
            if error.code() in _LACKING:
                raise SourceRefused(
                    f"{self._place}: {error.str()}. Make the topic, or give this login the rights that "
                    "docs/security.md lists (TLS and Kafka); what waits for it stays in ops.outbox."
                ) from None
            raise SourceAway(
                f"{self._place}: {error.str()}. What waits for it stays in ops.outbox and is sent once the "
                "broker answers. Check it with `python -m flows doctor`."
            ) from None


def _digest(key: str, value: str) -> str:
    """Tells a message from others, in few bytes."""
    return hashlib.sha256(f"{key}\0{value}".encode()).hexdigest()[:16]


def _create(admin: AdminClient, topic: str) -> None:
    """Where the topic is missing, make it as the broker makes topics. Who may write into one that is there
    need not be allowed to make any.
    """
    try:
        admin.create_topics([NewTopic(topic, -1, -1)], request_timeout=_SECONDS)[topic].result(_SECONDS)
    except KafkaException as failed:
        code = failed.args[0].code()
        is_there = code == KafkaError.TOPIC_ALREADY_EXISTS
        if not is_there and code in _LACKING:
            known = admin.list_topics(topic, timeout=_SECONDS).topics.get(topic)
            is_there = known is not None and known.error is None
        if not is_there:
            raise
