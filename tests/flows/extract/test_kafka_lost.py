"""A consumer that has lost its brokers for good is told from one whose brokers are away."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer

from flows.extract import SourceAway
from flows.extract.kafka_lost import Hearing
from tests.broker import make_topics
from tests.house import House

NOBODY = "127.0.0.1:1"


@pytest.fixture
def topic(house: House) -> str:
    name = f"heard-{uuid.uuid4().hex}"
    make_topics(house.kafka, name)
    return name


@pytest.fixture
def lost() -> Iterator[Consumer]:
    """As one that has let go of all brokers: it knows nobody who answers."""
    client = Consumer({"bootstrap.servers": NOBODY, "group.id": "heard", "log_level": 0})
    yield client
    client.close()


def test_a_consumer_that_is_not_answered_though_a_new_one_is_has_lost_its_brokers(
    house: House, topic: str, lost: Consumer
) -> None:
    hearing = Hearing({"bootstrap.servers": house.kafka}, topic, 0.0)
    with pytest.raises(SourceAway, match=f"The client of topic {topic} has lost {house.kafka}"):
        hearing.check(lost)


def test_while_brokers_are_away_a_consumer_is_left_to_wait_for_them(topic: str, lost: Consumer) -> None:
    Hearing({"bootstrap.servers": NOBODY, "log_level": 0}, topic, 0.0).check(lost)


def test_what_a_client_says_of_brokers_that_are_away_is_logged_and_not_on_standard_error(
    topic: str, lost: Consumer, capfd: pytest.CaptureFixture[str]
) -> None:
    Hearing({"bootstrap.servers": NOBODY}, topic, 0.0).check(lost)
    assert "FAIL" not in capfd.readouterr().err


def test_a_consumer_that_has_nothing_to_read_is_answered(house: House, topic: str) -> None:
    client = Consumer({"bootstrap.servers": house.kafka, "group.id": "heard"})
    Hearing({"bootstrap.servers": house.kafka}, topic, 0.0).check(client)
    client.close()


def test_one_that_heard_something_a_moment_ago_is_asked_nothing(
    house: House, topic: str, lost: Consumer
) -> None:
    hearing = Hearing({"bootstrap.servers": house.kafka}, topic, 60.0)
    hearing.note()
    hearing.check(lost)
