"""What a connector that was killed sends again: it goes on within a transaction, whose end tells it all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cdc import pending
from flows.cdc.feed import ChangeFeed
from flows.cdc.pending import Cut, Pending
from flows.extract import debezium
from tests.flows.capture import empty_topics, entity
from tests.flows.cdc.test_pending import ENDS, TOPICS, Log
from tests.flows.streaming.topics import until
from tests.house import House
from transforms import engine

Event = tuple[int, str, int]
"""A transaction, the topic that is told, and the change's number in it, or at its end the number of all."""


def change(transaction: int, number: int) -> dict[str, Any]:
    """One change of a transaction, as Debezium tells it."""
    order = {"id": f"{transaction}:{number}", "total_order": 9 + number, "data_collection_order": number}
    return {"op": "u", "source": {"txId": transaction, "snapshot": "false"}, "transaction": order}


def end(transaction: int, **changes: int) -> dict[str, Any]:
    """Its end, with the number of changes of each table."""
    counts = [{"data_collection": f"public.{name}", "event_count": count} for name, count in changes.items()]
    return {"status": "END", "id": f"{transaction}:99", "data_collections": counts}


@dataclass
class Reader:
    """Topics as they are filled, read and landed bit by bit."""

    log: Log = field(default_factory=Log)
    held: Pending = field(default_factory=lambda: Pending(engine.connect(threads=1)))
    read: Counter[str] = field(default_factory=Counter)
    landed: Counter[str] = field(default_factory=Counter)
    incomplete: list[tuple[int, str]] = field(default_factory=list)

    def tells(self, topic: str, *messages: dict[str, Any]) -> None:
        """These come, and are read."""
        self.log.topics[topic] += [json.dumps(message).encode() for message in messages]
        batch = self.log.batch(topic, len(self.log.topics[topic]), self.read[topic])
        self.read[topic] += len(messages)
        if topic == ENDS:
            self.held.note_ends(batch, {f"public.{name}": (name, 0) for name in TOPICS})
        else:
            self.held.keep(batch)

    def lands(self) -> int:
        """Hand on what is whole; the number of its records."""
        cut = self.held.cut({name: self.log.reach(name) for name in TOPICS}, self.log.reach(ENDS)) or Cut()
        self.held.forget(cut.after, cut.transactions)
        self.landed.update({name: after - self.landed[name] for name, after in cut.after.items()})
        self.incomplete += [(one.transaction, one.reason) for one in cut.incomplete]
        return cut.rows

    def gives_up(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """The same, when all has been waited for long enough."""
        with monkeypatch.context() as patched:
            patched.setattr(pending, "STALL_SECONDS", -1.0)
            return self.lands()


def test_a_change_that_comes_twice_before_the_end_stands_for_no_other() -> None:
    reader = Reader()
    reader.tells(ENDS, end(7, orders=4))
    reader.tells("orders", *(change(7, number) for number in (1, 2, 3, 2, 3)))
    assert reader.lands() == 0
    reader.tells("orders", change(7, 4))
    assert (reader.lands(), reader.incomplete) == (6, [])


def test_a_change_that_is_lost_is_missed_whatever_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    reader.tells("orders", *(change(7, number) for number in (1, 3, 1, 3, 4)))
    reader.tells(ENDS, end(7, orders=4))
    assert reader.lands() == 0
    assert reader.gives_up(monkeypatch) == 5
    assert reader.incomplete == [(7, "a change of it did not come")]


@pytest.mark.parametrize("is_end_first", [True, False])
def test_the_rest_of_what_was_handed_on_is_waited_for_no_more(is_end_first: bool) -> None:
    reader = Reader()
    reader.tells("orders", change(7, 1), change(7, 2))
    reader.tells(ENDS, end(7, orders=2))
    assert reader.lands() == 2
    if is_end_first:
        reader.tells(ENDS, end(7, orders=2))
    reader.tells("orders", change(7, 2))
    assert reader.lands() == 1
    reader.tells(ENDS, end(7, orders=2), end(8, orders=1, users=1))
    reader.tells("orders", change(8, 1))
    assert reader.lands() == 0
    reader.tells("users", change(8, 1))
    assert (reader.lands(), reader.incomplete) == (2, [])


def test_an_end_that_comes_again_alone_keeps_nothing_waiting() -> None:
    reader = Reader()
    reader.tells("orders", change(7, 1))
    reader.tells(ENDS, end(7, orders=1))
    assert reader.lands() == 1
    reader.tells(ENDS, end(7, orders=1), end(8, orders=1))
    reader.tells("orders", change(8, 1))
    assert (reader.lands(), reader.incomplete) == (1, [])


def test_what_was_given_up_is_waited_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    reader.tells("orders", change(7, 1))
    assert reader.gives_up(monkeypatch) == 1
    reader.tells(ENDS, end(7, orders=2), end(8, orders=1))
    reader.tells("orders", change(7, 2), change(8, 1))
    assert (reader.lands(), reader.incomplete) == (2, [(7, "its end did not come")])


def test_only_the_last_that_were_handed_on_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "REMEMBERED", 2)
    reader = Reader()
    for transaction in range(1, 8):
        reader.tells("orders", change(transaction, 1))
        reader.tells(ENDS, end(transaction, orders=1))
        assert reader.lands() == 1
    reader.tells("orders", change(7, 1), change(6, 1))
    assert reader.lands() == 2
    reader.tells("orders", change(1, 1))
    assert reader.lands() == 0


_changed = st.lists(st.sampled_from(TOPICS), min_size=1, max_size=4)


def _events(transactions: Sequence[Sequence[str]]) -> list[Event]:
    found: list[Event] = []
    for transaction, changed in enumerate(transactions, 1):
        counted = Counter[str]()
        for topic in changed:
            counted[topic] += 1
            found.append((transaction, topic, counted[topic]))
        found.append((transaction, ENDS, 0))
    return found


@pytest.mark.full
@settings(max_examples=30)
@given(st.lists(_changed, min_size=1, max_size=6), st.data())
def test_wherever_a_connector_is_killed_transactions_are_handed_on_whole_and_at_once(
    transactions: Sequence[Sequence[str]], data: Any
) -> None:
    events = _events(transactions)
    sent: list[Event] = []
    at = 0
    for _ in range(data.draw(st.integers(1, 3))):
        until_then = data.draw(st.integers(at, len(events)))
        sent += events[at:until_then]
        at = data.draw(st.integers(0, until_then))
    sent += events[at:]
    to_read = {name: [event for event in sent if event[1] == name] for name in (*TOPICS, ENDS)}
    reader, seen = Reader(), set[Event]()
    while any(to_read.values()):
        name = data.draw(st.sampled_from([name for name, left in to_read.items() if left]))
        for transaction, topic, number in to_read[name][: (count := data.draw(st.integers(1, 4)))]:
            told = end(transaction, **Counter(transactions[transaction - 1])) if topic == ENDS else None
            reader.tells(topic, told or change(transaction, number))
        del to_read[name][:count]
        reader.lands()
        for topic in TOPICS:
            there = [event for event in sent if event[1] == topic]
            seen.update(there[: reader.landed[topic]])
        for transaction in {event[0] for event in seen}:
            assert {e for e in events if e[0] == transaction and e[1] != ENDS} <= seen
    assert len(reader.held) == 0
    assert reader.incomplete == []


def test_who_reads_on_later_knows_what_was_handed_on_before(house: House, tmp_path: Path) -> None:
    """Half of the last transaction comes again, and its end; so does the end alone of the one before."""
    alpha, beta = entity("alpha"), entity("beta")
    settings = empty_topics(house, tmp_path, "alpha", "beta")
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})

    def tell(topic: str, *messages: dict[str, Any]) -> None:
        name = f"{settings.cdc_prefix}.public.{topic}" if topic else debezium.names(settings).transactions
        for message in messages:
            producer.produce(name, json.dumps(message), partition=0)
        assert producer.flush(30) == 0

    def read(positions: dict[Any, Any]) -> tuple[int, dict[Any, Any]]:
        with closing(ChangeFeed(settings, positions, engine.connect(threads=1), tmp_path)) as feed:
            came = 0
            found: list[Cut] = []

            def is_done() -> bool:
                nonlocal came
                came += feed.poll(0.1)
                if cut := feed.cut():
                    found.append(cut)
                    positions.update({one: feed.records(one, cut).positions for one in feed.entities})
                    feed.done(cut)
                return feed.is_done and feed.is_read

            until(is_done, seconds=pending.STALL_SECONDS - 1)
            assert not any(cut.incomplete for cut in found)
            return came, positions

    tell("alpha", change(6, 1), change(7, 1), change(7, 2))
    tell("beta", change(7, 1))
    tell("", end(6, alpha=1), end(7, alpha=2, beta=1))
    came, positions = read({alpha: {}, beta: {}})
    assert came == 6
    tell("alpha", change(7, 2), change(8, 1))
    tell("beta", change(7, 1), change(8, 1))
    tell("", end(6, alpha=1), end(7, alpha=2, beta=1), end(8, alpha=1, beta=1))
    came, _ = read(positions)
    assert came == 7
