"""The change topics at the broker: made by us, so that order and time kept are not left to its defaults."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flows.errors import FlowsError
from flows.extract import kafka
from flows.extract.embedded.topics import span
from flows.settings import Settings
from transforms.entities import LEAST_KEPT

_SECONDS = 15
# One partition: the order of changes is what they are about. A week is the least that a halt may take.
_CHANGES = {
    "cleanup.policy": "delete",
    "retention.ms": str(LEAST_KEPT // timedelta(milliseconds=1)),
    "max.message.bytes": "16777216",
}
_log = logging.getLogger(__name__)


def make(settings: Settings, topics: Iterable[str]) -> list[str]:
    """Make the topics that are missing; their names. Raises FlowsError when the broker refuses, or when one
    that is there has several partitions.
    """
    if settings.cdc_engine == "embedded":
        return []  # the warehouse makes a topic with its first record
    wanted = sorted(set(topics))
    bootstrap = settings.require("kafka_bootstrap")
    admin = AdminClient(_options(settings, bootstrap), logger=_log)
    try:
        there = admin.list_topics(timeout=_SECONDS).topics
        if several := [name for name in wanted if name in there and len(there[name].partitions) != 1]:
            raise FlowsError(
                f"Topic {several[0]} at {bootstrap} has {len(there[several[0]].partitions)} partitions, in "
                "which changes lose their order: delete it, or choose another ANALYTICS_CDC_PREFIX, then "
                "register again."
            )
        missing = [name for name in wanted if name not in there]
        new = [NewTopic(name, 1, -1, config=_CHANGES) for name in missing]
        for name, made in (admin.create_topics(new, request_timeout=_SECONDS) if new else {}).items():
            try:
                made.result(_SECONDS + 5)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise FlowsError(
                        f"Topic {name} can't be made at {bootstrap} ({error.args[0].str()}): give this "
                        "client the right to create topics, or make it with one partition, then repeat this."
                    ) from None
    except KafkaException as error:
        raise FlowsError(
            f"The broker at {bootstrap} does not answer ({error.args[0].str()}): start it or correct "
            "ANALYTICS_KAFKA_BOOTSTRAP, then register again."
        ) from None
    return missing


def end_of(settings: Settings, topic: str) -> int:
    """Offset behind the last record of a topic of one partition. Raises FlowsError."""
    if settings.cdc_engine == "embedded":
        return span(settings, topic, {}).end
    try:
        with _consumer(settings) as consumer:
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=_SECONDS)
            return int(end)
    except KafkaException as error:
        raise FlowsError(
            f"The broker does not say where topic {topic} ends ({error.args[0].str()}): register again."
        ) from None


def await_snapshot(settings: Settings, notifications: str, since: int, seconds: float) -> bool:
    """Wait until Debezium says, behind offset `since`, that every table is read; whether it has in time."""
    if settings.cdc_engine == "embedded":
        return True  # registering has read them
    deadline = time.monotonic() + seconds
    with _consumer(settings) as consumer:
        consumer.assign([TopicPartition(notifications, 0, since)])
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            value = message.value() if message is not None and not message.error() else None
            told = json.loads(value) if value is not None else {}
            is_end = told.get("type") in {"COMPLETED", "SKIPPED"}
            if told.get("aggregate_type") == "Initial Snapshot" and is_end:
                return True
    return False


@contextmanager
def _consumer(settings: Settings) -> Iterator[Consumer]:
    own = {**kafka.OWN_OFFSETS, "group.id": "analytics-cdc", "enable.partition.eof": False}
    consumer = Consumer({**_options(settings, settings.require("kafka_bootstrap")), **own}, logger=_log)
    try:
        yield consumer
    finally:
        consumer.close()


def _options(settings: Settings, bootstrap: str) -> dict[str, Any]:
    return {"bootstrap.servers": bootstrap, "log_level": 0, **settings.kafka_options}
