"""A stream whose client has lost the broker for good, and hears nothing, goes on with another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from flows.extract.kafka import PositionGone
from flows.streaming.same_topics import SameTopics
from tests.flows.streaming.changes import Company
from tests.flows.streaming.topics import Topics
from tests.house import House

pytestmark = pytest.mark.full
NOBODY = "127.0.0.1:1"


class FirstIsLost:
    """Makes clients, the first of which knows nobody who answers: as one that has let go of all brokers."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self.made = 0

    def __call__(self, settings: Mapping[str, Any], **options: Any) -> Any:
        self.made += 1
        given = {**settings, "bootstrap.servers": NOBODY} if self.made == 1 else dict(settings)
        return self._make(given, **options)


def test_events_are_taken_in_by_the_next_client(house: House, tmp_path: Path) -> None:
    topics = Topics.build(house, tmp_path)
    topics.send(topics.event(number) for number in range(100))
    consumers = FirstIsLost(Consumer)
    with mock.patch("flows.streaming.consumer.Consumer", consumers):
        tally = topics.stream()
    assert (tally.rows, tally.interruptions, consumers.made) == (100, 1, 2)


def test_changes_are_shown_by_the_next_client(company: Company) -> None:
    company.capture.app("update users set country = 'SE' where id = 2")
    company.wait_for_user("country", "SE")
    consumers = FirstIsLost(Consumer)
    with mock.patch("flows.cdc.consuming.Consumer", consumers):
        tally = company.follow()
    assert company.shown("select country from analytics.dim_users where user_id = 2") == [("SE",)]
    assert (tally.interruptions, consumers.made) == (1, 2)


def test_a_topic_that_was_made_anew_is_found_by_the_next_client(house: House, tmp_path: Path) -> None:
    topics = Topics.build(house, tmp_path)
    clients = FirstIsLost(AdminClient)
    with mock.patch("flows.streaming.same_topics.AdminClient", clients):
        same = SameTopics(house.kafka, {}, "looking")
        same.look({topics.topic(): "the id of before"})
        with pytest.raises(PositionGone, match="was deleted and made anew"):
            same.look({topics.topic(): "the id of before"})
    assert clients.made == 2
