"""The product's event topics. Records land as the broker has them; a value is for the models to read."""

from __future__ import annotations

from transforms.contract import Partition
from transforms.entities import Kafka, SourceEntity


def _topic(
    name: str, grain: str, *, topic: str | None = None, event_time: str = "event_time"
) -> SourceEntity:
    return SourceEntity(
        source="events",
        name=name,
        read=Kafka(topic=topic or name, event_time=event_time),
        key=("kafka_partition", "kafka_offset"),
        grain=grain,
        partition=Partition(event_time, "day"),
    )


ENTITIES: tuple[SourceEntity, ...] = (
    _topic("user_events", "one row per record about what a user or visitor did"),
    _topic("page_views", "one row per record about a page that was shown"),
    _topic("clicks", "one row per record about an element that was clicked"),
)
