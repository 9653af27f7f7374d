"""What a stream lets go of, it finds again in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from duckdb import DuckDBPyConnection

from flows.streaming import consumer, hashed, seen, taking_in
from flows.streaming.consumer import Records
from flows.streaming.hashed import Hashed
from flows.streaming.membership import Membership
from flows.streaming.microbatch import MicroBatch, MicroBatches
from flows.streaming.visible import Visible
from tests.flows.streaming.topics import Topics
from tests.house import House


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


@pytest.mark.full
def test_a_copy_of_a_row_that_is_on_its_way_is_found_though_its_day_is_forgotten(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their day is behind what is remembered, so it is forgotten at the first occasion: not before what was
    taken in of it is there to be read back."""
    for name in ("FEWEST_MESSAGES", "MOST_MESSAGES"):
        monkeypatch.setattr(consumer, name, 1)
    monkeypatch.setattr(taking_in, "ROLL_UP_EVERY_SECONDS", 0.0)
    copy_is_ready = threading.Event()
    ready: Callable[..., MicroBatch] = MicroBatches.ready
    show: Callable[..., None] = Visible.show

    def noticed(self: MicroBatches, records: Records) -> MicroBatch:
        batch = ready(self, records)
        if _first_offset(batch) == 2:
            copy_is_ready.set()
        return batch

    def slow(self: Visible, batch: MicroBatch) -> None:
        if _first_offset(batch) == 1:
            copy_is_ready.wait(1)
        show(self, batch)

    monkeypatch.setattr(MicroBatches, "ready", noticed)
    monkeypatch.setattr(Visible, "show", slow)
    topics.send([topics.event(n, minutes=30_000 + place) for place, n in enumerate((1, 2, 2))])

    topics.stream()

    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]


def test_copies_of_what_came_while_its_day_was_learned_are_found_though_it_is_no_longer_known_whole(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day is learned of PostgreSQL before it shows the first micro-batch, and the second is there."""
    for name in ("FEWEST_MESSAGES", "MOST_MESSAGES"):
        monkeypatch.setattr(consumer, name, 200)
    monkeypatch.setattr(seen, "RECENT_ROWS", 400)
    monkeypatch.setattr(hashed, "LEARN_AFTER", 250)
    is_learned, second_is_ready = threading.Event(), threading.Event()
    today = f"{topics.began:%Y-%m-%d}"
    published: Callable[..., Membership] = Hashed._published
    ready: Callable[..., MicroBatch] = MicroBatches.ready
    show: Callable[..., None] = Visible.show

    def noted(self: MicroBatches, records: Records) -> MicroBatch:
        batch = ready(self, records)
        if today in self.seen["fct_events"]._hashed._learning:
            second_is_ready.set()
        return batch

    def noticed(self: Hashed, cursor: DuckDBPyConnection, window: str) -> Membership:
        known = published(self, cursor, window)
        if window == today:
            second_is_ready.wait(30)
            is_learned.set()
        return known

    def waiting(self: Visible, batch: MicroBatch) -> None:
        if _first_offset(batch) == 0:
            assert is_learned.wait(30)
        show(self, batch)

    monkeypatch.setattr(Hashed, "_published", noticed)
    monkeypatch.setattr(MicroBatches, "ready", noted)
    monkeypatch.setattr(Visible, "show", waiting)
    topics.send(topics.event(number) for number in range(2_400))
    topics.send(topics.event(number, properties={"again": True}) for number in range(400))

    assert topics.stream().interruptions == 0  # the key would refuse what nobody looked for

    assert topics.numbers() == [(number, 0, number) for number in range(2_400)]


def _first_offset(batch: MicroBatch) -> int:
    ((span,),) = (spans.values() for spans in batch.records.spans.values())
    return span[0]
