"""The client that reads the change topics, each of one partition, and what it delivers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from confluent_kafka import Consumer, Message, TopicPartition

from flows.extract.debezium_guard import ANEW
from flows.extract.kafka import OWN_OFFSETS, REQUEST_SECONDS, Topic
from flows.settings import Settings

_QUEUE_KILOBYTES = 64 << 10
_log = logging.getLogger(__name__)


def change_topic(settings: Settings, name: str) -> Topic:
    """A topic of the connector; where the broker has lost something of it, everything is read anew."""
    bootstrap = settings.require("kafka_bootstrap")
    return Topic(name, bootstrap, settings.kafka_options, REQUEST_SECONDS, ANEW)


def consuming(topic: Topic, begins: Mapping[str, int]) -> Consumer:
    """A consumer that reads topics, each from its offset on, at the broker of this one."""
    consumer = Consumer(
        {
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": _QUEUE_KILOBYTES,
            **topic.settings,
            **OWN_OFFSETS,
            "group.id": "analytics-changes",
        },
        logger=_log,
    )
    consumer.assign([TopicPartition(name, 0, offset) for name, offset in begins.items()])
    return consumer


def runs(messages: Iterable[Message]) -> Iterator[tuple[str, bool, list[Message]]]:
    """Messages run by run, for most are of one topic: which, whether they are none but errors, and they."""
    for (name, is_error), run in groupby(messages, _sort):
        yield name, is_error, [*run]


def behind(messages: Sequence[Message]) -> int:
    """The offset behind the last of them."""
    return (messages[-1].offset() or 0) + 1


def _sort(message: Message) -> tuple[str, bool]:
    return message.topic() or "", message.error() is not None
