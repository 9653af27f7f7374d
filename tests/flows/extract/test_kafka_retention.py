"""A topic that the broker keeps for less than declared is named, with the command that mends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from flows.diagnosis import Finding
from flows.diagnosis.streams import kafka
from flows.extract import debezium
from flows.sandbox.world.topics import RETENTION_MS
from flows.settings import Settings
from tests.broker import make_topics
from tests.flows.capture import entity
from tests.flows.streaming.topics import until
from transforms import registry
from transforms.entities import Kafka, SourceEntity
from transforms.sources import events

SETTINGS: dict[str, dict[str, str]] = {
    "short": {"retention.ms": "3600000"},
    "broker": {},
    "longer": {"retention.ms": "-1"},
    "compacted": {"cleanup.policy": "compact"},
    "late": {"cleanup.policy": "compact", "min.compaction.lag.ms": "604800000", "retention.ms": "1"},
}


@pytest.fixture
def topics(broker: str) -> Iterator[dict[str, str]]:
    """Topics of a real broker, by how long they keep: an hour, what the broker has (7 days), for ever, until
    a newer one of the same key comes, for a week at least.
    """
    suffix = os.urandom(4).hex()
    names = {kind: f"{kind}-{suffix}" for kind in SETTINGS}
    admin = AdminClient({"bootstrap.servers": broker})
    for kind, config in SETTINGS.items():
        make_topics(broker, names[kind], config=config)
    yield names
    for gone in admin.delete_topics(list(names.values())).values():
        gone.result(20)


def _asked(
    broker: str, *reads: Kafka, cdc_engine: str = "embedded", cdc_prefix: str = "app"
) -> list[Finding]:
    declared: list[SourceEntity] = [replace(events.ENTITIES[0], read=read) for read in reads]
    settings = Settings(_env_file=None, kafka_bootstrap=broker, cdc_engine=cdc_engine, cdc_prefix=cdc_prefix)
    with mock.patch.object(events, "ENTITIES", declared):
        return [one for one in kafka(settings) if one.subject == "Kafka: retention"]


def test_topics_that_keep_what_is_declared_are_well(broker: str, topics: dict[str, str]) -> None:
    (found,) = _asked(
        broker,
        Kafka(topics["broker"]),
        Kafka(topics["longer"], retention=timedelta(days=90)),
        Kafka("nowhere"),
    )
    assert (found.well, found.seen) == (True, "2 topics keep what is declared")


def test_a_topic_that_keeps_less_than_declared_is_named_with_what_mends_it(
    broker: str, topics: dict[str, str]
) -> None:
    short, longer = Kafka(topics["short"]), Kafka(topics["broker"], retention=timedelta(days=14))
    first, second = _asked(broker, short, longer)
    assert (first.well, second.well) == (False, False)
    assert first.seen == f"{longer.topic} keeps a record for 7 days, declared are 14 days"
    assert second.seen == f"{short.topic} keeps a record for 1 hours, declared are 7 days"
    assert second.advice.startswith(f"kafka-configs.sh --bootstrap-server {broker} --alter")

    for finding, read in ((first, longer), (second, short)):
        _alter(broker, read.topic, *finding.advice.rsplit(" ", 1)[1].split("="))
    # A broker answers for a moment as it did before.
    until(lambda: all(one.well for one in _asked(broker, short, longer)))


def test_a_topic_that_is_compacted_is_named_unless_that_waits(broker: str, topics: dict[str, str]) -> None:
    compacted = Kafka(topics["compacted"])
    (found,) = _asked(broker, compacted, Kafka(topics["late"]))
    assert not found.well
    told = f"{compacted.topic} keeps a record for 0 hours once a newer one has its key, declared are 7 days"
    assert found.seen == told
    _alter(broker, compacted.topic, *found.advice.rsplit(" ", 1)[1].split("="))
    until(lambda: all(one.well for one in _asked(broker, compacted)))


def test_a_change_topic_that_keeps_less_than_a_week_is_named(broker: str) -> None:
    prefix = f"t_{os.urandom(4).hex()}"
    alpha = entity("alpha")
    topic = f"{prefix}.public.alpha"
    make_topics(broker, topic, config=SETTINGS["short"])
    with mock.patch.object(debezium, "entities", return_value=(alpha,)):
        (found,) = _asked(broker, cdc_engine="kafka", cdc_prefix=prefix)

    assert not found.well
    assert found.seen == f"{topic} keeps a record for 1 hours, declared are 7 days"


def test_the_sandbox_keeps_its_topics_for_as_long_as_they_are_declared_to_be() -> None:
    declared = [entity.read.retention for entity in registry.entities() if isinstance(entity.read, Kafka)]
    assert timedelta(milliseconds=RETENTION_MS) >= max(declared)


def _alter(broker: str, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": broker})
    admin.incremental_alter_configs([resource])[resource].result(20)
