"""From where the topics of a connector are read, and what of them counts as news."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Producer

from flows.cdc import feed as feeds
from flows.cdc.feed import ChangeFeed
from flows.cdc.pending import Cut, Pending
from flows.extract import cdc, debezium
from flows.settings import Settings
from tests.flows.capture import empty_topics, entity
from tests.flows.streaming.topics import until
from tests.house import House
from transforms import engine
from transforms.entities import SourceEntity

ALPHA, BETA = entity("alpha"), entity("beta")
Positions = Mapping[SourceEntity, Mapping[str, Any]]


@dataclass
class Topics:
    """Topics of two tables and of their transactions' ends, as Debezium fills them."""

    settings: Settings
    folder: Path

    def commit(self, first: int, count: int, *changed: str) -> None:
        """So many transactions, each with one change of each of these tables."""
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap})
        for transaction in range(first, first + count):
            for name in changed:
                event = {"op": "u", "source": {"txId": transaction, "snapshot": "false"}}
                producer.produce(f"{self.settings.cdc_prefix}.public.{name}", json.dumps(event), partition=0)
            counts = [{"data_collection": f"public.{name}", "event_count": 1} for name in changed]
            end = {"status": "END", "id": f"{transaction}:1", "data_collections": counts}
            ends = debezium.names(self.settings).transactions
            producer.produce(ends, json.dumps(end), partition=0)
        assert producer.flush(30) == 0

    def read(self, positions: Positions) -> tuple[int, Positions, int]:
        """All that is there, as a landing reads it: messages that came, positions then, changes."""
        with closing(ChangeFeed(self.settings, positions, engine.connect(threads=1), self.folder)) as feed:
            came: list[int] = []

            def is_read() -> bool:
                came.append(feed.poll(0.1))
                return feed.is_at_end and feed.is_read

            until(is_read, seconds=30)
            cut = feed.cut() or Cut()
            after = {one: feed.records(one, cut).positions for one in feed.entities}
            feed.done(cut)
            assert feed.is_done
            for one in feed.quiet():
                after[one] = feed.records(one, feed.passed()).positions
        return sum(came), after, cut.rows


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics(empty_topics(house, tmp_path, "alpha", "beta"), tmp_path)


def test_ends_of_transactions_are_news_as_changes_are(topics: Topics) -> None:
    topics.commit(1, 300)
    topics.commit(301, 1, "alpha")
    came, after, changes = topics.read({ALPHA: {}, BETA: {}})
    assert (came, changes) == (302, 1)
    assert after[ALPHA][cdc.TRANSACTIONS] == 301


@pytest.mark.parametrize("changed", [(), ("alpha",), ("alpha", "beta")], ids=["nothing", "one", "both"])
def test_a_table_with_nothing_to_read_does_not_have_ends_read_that_the_others_have_passed(
    topics: Topics, changed: tuple[str, ...]
) -> None:
    topics.commit(1, 300, "alpha")
    _, after, _ = topics.read({ALPHA: {}, BETA: {}})
    # Where a table was never landed, nothing keeps how far it is.
    positions = {ALPHA: after[ALPHA], BETA: {}}
    topics.commit(301, 1, *changed)
    came, _, changes = topics.read({**positions, **({BETA: after[BETA]} if "beta" in changed else {})})
    assert (came, changes) == (1 + len(changed), len(changed))


def test_what_ended_without_a_change_of_any_table_is_not_read_again(topics: Topics) -> None:
    topics.commit(1, 1, "alpha", "beta")
    _, after, _ = topics.read({ALPHA: {}, BETA: {}})
    topics.commit(2, 300)
    came, after, _ = topics.read(after)
    assert came == 300
    assert topics.read(after)[0] == 0


def test_a_table_that_was_left_out_keeps_the_ends_of_what_waits_in_its_topic(topics: Topics) -> None:
    topics.commit(1, 1, "alpha", "beta")
    _, after, _ = topics.read({ALPHA: {}, BETA: {}})
    topics.commit(2, 10, "alpha", "beta")
    _, alone, changes = topics.read({ALPHA: after[ALPHA]})
    assert changes == 10
    topics.commit(12, 1, "alpha", "beta")
    came, _, changes = topics.read({ALPHA: alone[ALPHA], BETA: after[BETA]})
    assert (came, changes) == (11 + 1 + 11, 12)


def test_most_of_the_time_is_for_reading_while_a_transaction_is_not_in_whole(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each message of a large one would have all that came before looked at again."""
    now, looks = 100.0, 0

    def look_in_vain(*_: Any) -> None:
        nonlocal now, looks
        now, looks = now + 0.1, looks + 1

    monkeypatch.setattr(feeds, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Pending, "cut", look_in_vain)
    with closing(ChangeFeed(topics.settings, {ALPHA: {}}, engine.connect(threads=1), topics.folder)) as feed:

        def come(transaction: int) -> None:
            topics.commit(transaction, 1, "alpha")
            until(lambda: feed.poll(0.1) > 0, seconds=30)

        come(1)
        assert (feed.cut(), looks) == (None, 1)
        come(2)
        assert (feed.cut(), looks) == (None, 1)
        now += 0.5
        come(3)
        assert (feed.cut(), looks) == (None, 2)
