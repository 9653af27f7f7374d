"""Dead letters in topics of their own: what came, why it was not read, and which record it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from flows.services import Services
from flows.streaming.dead_topics import SUFFIX
from tests.broker import headers_of, make_topics
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms.entities import Kafka


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def _asked(topics: Topics) -> Services:
    topics.world.settings["dead_topics"] = True
    return topics.world.services()


def _admin(topics: Topics) -> AdminClient:
    return AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})


def _told(topics: Topics, count: int) -> list[tuple[bytes | None, bytes | None, Sequence[Any]]]:
    """(value, key, headers) of the dead topic, which must hold exactly so many."""
    consumer = Consumer(
        {
            "bootstrap.servers": topics.world.kafka_bootstrap,
            "group.id": "nobody",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topics.topic() + SUFFIX, 0, 0)])
    found = consumer.consume(count, timeout=20)
    found += consumer.consume(1, timeout=0.5)
    consumer.close()
    assert [message.error() for message in found] == [None] * count
    return [(message.value(), message.key(), headers_of(message)) for message in found]


def test_each_letter_of_the_stream_is_told_with_its_bytes_and_its_place(topics: Topics) -> None:
    producer = Producer({"bootstrap.servers": topics.world.kafka_bootstrap})
    producer.produce(topics.topic(), b"\xff{", b"key", partition=1, headers=[("trace", b"7"), ("none", None)])
    producer.produce(topics.topic(), None, partition=1)
    assert producer.flush(30) == 0
    topics.send([topics.event(1)])

    tally = topics.stream(_asked(topics))

    assert (tally.rows, tally.dead_letters) == (1, 2)
    told = sorted(_told(topics, 2), key=lambda one: str(one[2][-1]))
    place = [("topic", topics.topic().encode()), ("partition", b"1")]
    assert told == [
        (
            b"\xff{",
            b"key",
            [("trace", b"7"), ("none", None), ("reason", b"it is not valid UTF-8"), *place, ("offset", b"0")],
        ),
        (None, None, [("reason", b"it has no value"), *place, ("offset", b"1")]),
    ]
    topics.stream(_asked(topics))
    _told(topics, 2)


@pytest.mark.full
def test_what_a_crash_left_untold_is_told_by_the_next_stream_also_when_it_is_landed(topics: Topics) -> None:
    topics.send([b"1"])
    topics.stream()  # landed at its end, and told to nobody: as if it had died before
    topics.stream(_asked(topics))
    assert [value for value, _, _ in _told(topics, 1)] == [b"1"]
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        connection.execute("update ops.dead_letter set forwarded_at = null")  # died before it could note it
    topics.stream(_asked(topics))
    again = _told(topics, 2)
    assert again[0] == again[1]


@pytest.mark.full
def test_letters_of_a_batch_are_told_to_nobody(topics: Topics) -> None:
    topics.send([b"1"])
    topics.batch()
    topics.stream(_asked(topics))
    assert topics.rows("select count(*), count(forwarded_at) from ops.dead_letter") == [(1, 0)]


def test_without_the_setting_there_is_no_dead_topic(topics: Topics) -> None:
    topics.send([b"1"])
    topics.stream()
    assert topics.topic() + SUFFIX not in _admin(topics).list_topics(timeout=20).topics


def test_a_dead_topic_that_the_broker_does_not_make_is_named_with_the_reason(
    topics: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = f"{topics.topic()}{'x' * 249}"[:249]  # with the suffix it is no name any more
    make_topics(topics.world.kafka_bootstrap, longest)
    topics.entities = tuple(
        replace(entity, read=Kafka(longest)) if entity.name == "user_events" else entity
        for entity in topics.entities
    )
    topics.send([b"1", topics.event(2)])

    tally = topics.stream(_asked(topics))

    assert (tally.rows, tally.dead_letters, tally.interruptions) == (1, 1, 0)
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "takes no dead letters" in line]
    assert lines  # each time that they are tried
    for line in lines:
        assert f"{longest}{SUFFIX} takes no dead letters (" in line
        assert "; it could not be made: " in line
        assert "249" in line.split("could not be made")[1]
    assert topics.rows("select count(*), count(forwarded_at) from ops.dead_letter") == [(1, 0)]


def test_a_letter_that_its_topic_does_not_take_keeps_neither_the_stream_nor_the_others(
    topics: Topics,
) -> None:
    name = topics.topic() + SUFFIX
    make_topics(topics.world.kafka_bootstrap, name, config={"max.message.bytes": "1000"})
    topics.send([b"x" * 5000, b"2", topics.event(3)])

    tally = topics.stream(_asked(topics))

    assert (tally.rows, tally.dead_letters, tally.interruptions) == (1, 2, 0)
    assert [value for value, _, _ in _told(topics, 1)] == [b"2"]
    assert topics.rows("select count(*), count(forwarded_at) from ops.dead_letter") == [(2, 2)]
