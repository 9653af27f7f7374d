"""What the doctor says of topics that a stream, or a batch, could not read on."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from flows.diagnosis import Finding
from flows.diagnosis.streams import kafka
from tests.broker import make_topics
from tests.flows.streaming.topics import PARTITIONS, Topics
from tests.house import House
from transforms.sources import events


def test_a_topic_that_can_not_be_read_on_is_told_with_the_way_on(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics.build(house, tmp_path, cdc_engine="embedded")
    monkeypatch.setattr(events, "ENTITIES", topics.entities)
    topics.send([topics.event(number) for number in range(5)])
    topics.stream()
    assert [(one.subject, one.seen) for one in _of_positions(topics)] == [
        ("Kafka: positions", "3 topics can be read on")
    ]

    topics.send([topics.event(number) for number in range(5, 9)])
    topics.delete_before(7)
    (deleted,) = _of_positions(topics)
    assert not deleted.well
    assert "offsets 5 to 6 were deleted by the broker before they were read" in deleted.advice

    admin = AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})
    admin.delete_topics([topics.topic()])[topics.topic()].result(20)
    make_topics(topics.world.kafka_bootstrap, topics.topic(), partitions=PARTITIONS)
    (anew,) = _of_positions(topics)
    assert (anew.subject, anew.well) == (f"Kafka: {topics.topic()}", False)
    assert anew.advice.endswith(f"the way on: python -m flows positions {topics.topic()}")


def _of_positions(topics: Topics) -> list[Finding]:
    named = {"Kafka: positions", *(f"Kafka: {topics.topic(entity.name)}" for entity in topics.entities)}
    return [found for found in kafka(topics.world.services().settings) if found.subject in named]
