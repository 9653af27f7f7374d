"""The change topics at the broker: made by us, so that order and time kept are not left to its defaults."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flows.errors import FlowsError
from flows.settings import Settings

_SECONDS = 15
# One partition: the order of changes is what they are about. A week is the least that a halt may take.
_CHANGES = {
    "cleanup.policy": "delete",
    "retention.ms": str(7 * 24 * 3_600_000),
    "max.message.bytes": "16777216",
}
_log = logging.getLogger(__name__)


def make(settings: Settings, topics: Iterable[str]) -> list[str]:
    """Make the topics that are missing; their names. Raises FlowsError when the broker refuses, or when one
    that is there has several partitions.
    """
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


def _options(settings: Settings, bootstrap: str) -> dict[str, Any]:
    return {"bootstrap.servers": bootstrap, "log_level": 0, **settings.kafka_options}
