"""Send messages to the three topics and know the partition and offset of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import polars as pl
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import OffsetSpec as _OffsetSpec
from confluent_kafka.cimpl import NewTopic

from flows.errors import FlowsError
from flows.sandbox.world.clickstream import PARTITIONS, TOPICS
from flows.settling import settled

_AGAIN: list[tuple[str, str | bytes | None]] = [("attempt", b"2")]
RETENTION_MS = 30 * 86_400_000
"""Time a topic keeps a message: its readers may count on 7 days, the sandbox gives 30."""
_AT_ONCE = 50
"""Messages that go out together where a rate is asked for."""
Positions = dict[str, list[int]]
"""For each topic the offset of the next message, by partition."""


class DeliveryError(FlowsError):
    """The broker did not take everything; the message says what to do."""


def create(bootstrap: str) -> None:
    """The three topics, empty: those that are there already are deleted first."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})
    there = [topic for topic in TOPICS if topic in admin.list_topics(timeout=20).topics]
    if there:
        for future in admin.delete_topics(there, operation_timeout=20).values():
            future.result()
    for _ in range(100):
        # A topic stays "already there" for a moment after its deletion was answered.
        if _made(admin) or positions(bootstrap) == {topic: [0] * PARTITIONS for topic in TOPICS}:
            return
        time.sleep(0.1)
    raise DeliveryError(
        f"The topics at {bootstrap} could not be emptied; stop the sandbox and start it again."
    )


def ensure(bootstrap: str) -> None:
    """Those of the three topics that are not there, empty; what the others hold stays. Raises DeliveryError
    when the broker does not take them.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})
    try:
        if not set(TOPICS) <= set(admin.list_topics(timeout=20).topics):
            _made(admin)
            positions(bootstrap)  # answers when their partitions can be read
    except KafkaException as error:
        raise DeliveryError(
            f"The broker at {bootstrap} does not make the topics ({error.args[0].str()}): run this again."
        ) from None


def _made(admin: AdminClient) -> bool:
    """Ask for the three topics; False when one of them was there already."""
    config = {
        "retention.ms": str(RETENTION_MS),
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime",
    }
    new = [
        NewTopic(topic, num_partitions=PARTITIONS, replication_factor=1, config=config) for topic in TOPICS
    ]
    were_new = True
    for future in admin.create_topics(new).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            were_new = False
    return were_new


def positions(bootstrap: str) -> Positions:
    """The offset the next message of each partition will get."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})
    try:
        return settled(partial(_positions, admin), 20)
    except KafkaException as error:
        raise DeliveryError(
            f"The broker at {bootstrap} does not say where its topics end ({error.args[0].str()}); stop and "
            "start the sandbox."
        ) from None


def _positions(admin: AdminClient) -> Positions:
    latest = _OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(topic, p): latest for topic in TOPICS for p in range(PARTITIONS)}
    result: Positions = {topic: [0] * PARTITIONS for topic in TOPICS}
    for place, future in admin.list_offsets(asked, request_timeout=20).items():
        result[place.topic][place.partition] = future.result().offset
    return result


def placed(messages: pl.DataFrame, start: Mapping[str, list[int]]) -> pl.DataFrame:
    """The messages with the `offset` each gets when they are sent in this order from `start` on."""
    bases = pl.DataFrame(
        {
            "topic": [t for t in range(len(TOPICS)) for _ in range(PARTITIONS)],
            "partition": list(range(PARTITIONS)) * len(TOPICS),
            "base": [base for topic in TOPICS for base in start[topic]],
        },
        schema={"topic": pl.Int8, "partition": pl.Int32, "base": pl.Int64},
    )
    return (
        messages.join(bases, on=["topic", "partition"], how="left", maintain_order="left")
        .with_columns(offset=pl.col("base") + pl.int_range(pl.len()).over("topic", "partition"))
        .drop("base")
    )


def following(start: Positions, sent: pl.DataFrame) -> Positions:
    """The positions after `sent`."""
    result = {topic: list(offsets) for topic, offsets in start.items()}
    for topic, partition, count in sent.group_by("topic", "partition").len().iter_rows():
        result[TOPICS[topic]][partition] += count
    return result


class Sender:
    """An idempotent producer: order and number are those of the calls, whatever the network does."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 20,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 262_144,
                "on_delivery": self._delivered,
                "delivery.report.only.error": True,
                "log_level": 3,  # "coordinator load in progress" just after a start is no news
            }
        )

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # What was not sent must not go out later, behind the back of the next try.
        if kind is not None:
            self._producer.purge(in_flight=False)
            self._producer.flush(10)
        self._producer.close()

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed.append(error.str())

    def send(self, messages: pl.DataFrame, there: Mapping[str, list[int]], rate: float | None = None) -> None:
        """Send what `placed` gave, but not what the topics hold already (offsets below `there`); at most
        `rate` messages a second.
        """
        held = pl.DataFrame(
            {
                "topic": [t for t in range(len(TOPICS)) for _ in range(PARTITIONS)],
                "partition": list(range(PARTITIONS)) * len(TOPICS),
                "held": [offset for topic in TOPICS for offset in there[topic]],
            },
            schema={"topic": pl.Int8, "partition": pl.Int32, "held": pl.Int64},
        )
        rest = messages.join(held, on=["topic", "partition"], maintain_order="left").filter(
            pl.col("offset") >= pl.col("held")
        )
        columns = rest.select("topic", "key", "partition", "value", "attempt").rows()
        produce = self._producer.produce
        begun = time.monotonic()
        for number, (topic, key, partition, value, attempt) in enumerate(columns):
            if rate is not None and number % _AT_ONCE == 0:
                self._producer.poll(0)
                time.sleep(max(0.0, number / rate - (time.monotonic() - begun)))
            headers = _AGAIN if attempt > 1 else None
            while True:
                try:
                    produce(TOPICS[topic], value, key, partition, headers=headers)
                    break
                except BufferError:
                    self._producer.poll(0.2)

    def finish(self, expected: Positions) -> None:
        """Wait until the broker has everything. Raises DeliveryError when the topics then end elsewhere than
        expected.
        """
        left = self._producer.flush(120)
        if left or self._failed:
            raise DeliveryError(
                f"The broker at {self._bootstrap} did not take {left or len(self._failed)} messages"
                f" ({self._failed[0] if self._failed else 'no answer in 120 s'})."
                " Is it running? Run the command again."
            )
        found = positions(self._bootstrap)
        if found != expected:
            raise DeliveryError(
                f"The topics end at {found} instead of {expected}: somebody else wrote to them meanwhile."
                " Run `python -m flows sandbox reset` for a new world."
            )
