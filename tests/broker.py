"""Topics of a test."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    OffsetSpec,
)

from flows.settling import settled

ANY_TIMESTAMP = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2**63 - 1)}
"""Settings of a topic whose records have the timestamps that their producers give, whatever they are."""


def make_topics(
    bootstrap: str, *names: str, partitions: int = 1, config: Mapping[str, str] | None = None
) -> None:
    """Make these topics; they are there, for everybody, once this returns: a broker that has taken them
    goes on for a moment as if it had not.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics(
        [NewTopic(name, partitions, 1, config={**(config or {})}) for name in names]
    ).values():
        made.result(20)
    asked = {
        TopicPartition(name, partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
        for name in names
        for partition in range(partitions)
    }
    settled(lambda: [answer.result(20) for answer in admin.list_offsets(asked).values()], 20)


def headers_of(message: Message) -> list[tuple[str, str | bytes | None]]:
    """What a record that was read has for headers, in their order."""
    headers = message.headers() or []
    assert isinstance(headers, list)
    return headers


def set_config(bootstrap: str, topic: str, **config: str) -> None:
    """Give a topic that is there other settings."""
    wanted = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=wanted)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.incremental_alter_configs([asked])[asked].result(20)


def topic_config(bootstrap: str, topic: str) -> dict[str, str]:
    """What a topic says itself; what it has from its broker is left out."""
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    found = admin.describe_configs([asked])[asked].result(20)
    return {
        name: entry.value
        for name, entry in found.items()
        if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    }
