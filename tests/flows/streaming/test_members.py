"""Copies of one event that reach several streams, or one after the other: published and counted once."""

from __future__ import annotations

import random
import signal
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows.stores import streamed
from flows.streaming import consumer, others
from flows.streaming.consumer import Records
from flows.streaming.microbatch import MicroBatch, MicroBatches
from flows.streaming.visible import Visible
from tests.flows.streaming.counting import without_copies
from tests.flows.streaming.topics import PARTITIONS, Topics, until
from tests.flows.streaming.workers import Worker
from tests.house import House
from transforms import registry

SEED = 20251127
EARLIER = (0, 30, 3000)
"""Minutes that a copy says to be older than the event: the same time, another window, another day."""


class Sent:
    """What was sent to the user events, and what has to come of it."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._minutes: dict[tuple[int, int, int], int] = {}

    def send(self, numbers: Iterable[int], partition: int, *, is_copy: bool = False) -> None:
        """These events, or copies of them, in their order."""
        offset = sum(part == partition for _, part, _ in self._minutes)
        messages = []
        for place, number in enumerate(numbers, start=offset):
            minutes = 5 + EARLIER[number % 3] * is_copy
            self._minutes[number, partition, place] = minutes
            messages.append(self._topics.event(number, minutes=minutes, user_id=number % 5))
        self._topics.send(messages, partition)

    def until_taken_in(self) -> None:
        """Wait until streams have taken in everything."""
        query = "select coalesce(sum(next_offset), 0)::bigint from ops.stream_partition"
        until(lambda: self._topics.rows(query) == [(len(self._minutes),)], 60)

    def assert_published(self) -> None:
        """Each event once, the copy that the rule names."""
        assert self._topics.numbers() == [*without_copies([*self._minutes])]

    def assert_batch_agrees(self) -> None:
        """It finds the same rows, and the same counts; what is counted then is right."""
        topics, before = self._topics, self._topics.rows()
        topics.batch()
        assert topics.rows() == before
        results = topics.reconcile()
        assert {result.table for result in results} == {"fct_events", "user_event_counts"}
        assert [result for result in results if not result.passed] == []
        assert Counter({window: count for window, (count, _, _) in topics.counts().items()}) == Counter(
            (place[0] % 5, self._window(topics.began - timedelta(minutes=self._minutes[place])))
            for place in without_copies([*self._minutes])
        )

    @staticmethod
    def _window(moment: datetime) -> datetime:
        return moment - (moment - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(minutes=5)


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


@pytest.mark.full
def test_copies_that_reach_another_stream_or_the_one_that_takes_over_are_published_and_counted_once(
    topics: Topics,
) -> None:
    sent = Sent(topics)
    with topics.living():
        with topics.living():
            until(lambda: len(_parts(topics)) == 2)
            (low, *_), (high, *_) = sorted(_parts(topics))
            sent.send(range(9), high)
            sent.send(range(9, 18), low)
            sent.until_taken_in()
            # First those that say another time: one that says the same breaks the key, if nobody looks.
            for first in (1, 2, 0):
                sent.send(range(first, 9, 3), low, is_copy=True)  # they win
                sent.send(range(first + 9, 18, 3), high, is_copy=True)  # they lose
                sent.until_taken_in()
                sent.assert_published()
        until(lambda: len(_parts(topics)) == 1)
        for partition in range(PARTITIONS):
            sent.send(range(1, 18), partition, is_copy=True)
        sent.until_taken_in()
    sent.assert_published()
    sent.assert_batch_agrees()


@pytest.mark.full
@pytest.mark.timeout(300)
def test_copies_that_cross_streams_which_come_and_go_and_are_killed_are_published_once(
    topics: Topics,
) -> None:
    chance, sent = random.Random(SEED), Sent(topics)

    def some(first: int) -> None:
        for number in range(first, first + 4):
            for partition in chance.sample(range(PARTITIONS), PARTITIONS):
                numbers = chance.sample(range(30 * number, 30 * number + 150), 60)
                sent.send(numbers, partition, is_copy=chance.random() < 0.5)

    with Worker(topics) as staying:
        for place, number in enumerate((signal.SIGTERM, signal.SIGKILL)):
            some(12 * place)
            with Worker(topics) as leaving:
                until(lambda: len(_parts(topics)) == 2, 60)
                some(12 * place + 4)
                leaving.end(number)
            until(lambda: len(_parts(topics)) == 1, 60)
            some(12 * place + 8)
        sent.until_taken_in()
        staying.end(signal.SIGTERM)
    sent.assert_published()
    sent.assert_batch_agrees()


@pytest.mark.full
def test_only_days_that_another_stream_wrote_into_are_asked_for_also_after_a_copy_went(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A micro-batch of which nothing is left has written nowhere, and what was known before still is."""
    for name in ("FEWEST_MESSAGES", "MOST_MESSAGES"):
        monkeypatch.setattr(consumer, name, 1)
    asked: list[Sequence[str]] = []
    shown: list[MicroBatch] = []
    standing, show = others.standing, Visible.show

    def noted(connection: Any, table: Any, columns: Any, identities: Any, windows: Sequence[str]) -> Any:
        asked.append(windows)
        return standing(connection, table, columns, identities, windows)

    def beside_another(self: Visible, batch: MicroBatch) -> None:
        if len(shown) == 1:
            _another_writes(topics, event=2, offset=99)
        shown.append(batch)
        show(self, batch)

    monkeypatch.setattr(others, "standing", noted)
    monkeypatch.setattr(Visible, "show", beside_another)
    topics.send([topics.event(3, minutes=1440)])
    topics.stream()
    shown.clear()
    topics.send((topics.event(number) for number in (1, 2, 4)), partition=1)

    topics.stream()

    assert topics.numbers() == [(1, 1, 0), (2, 0, 99), (3, 0, 0), (4, 1, 2)]
    yesterday = f"{topics.began - timedelta(days=1):%Y-%m-%d}"
    assert asked == [[yesterday], [yesterday]]


def test_a_day_that_another_stream_wrote_into_stays_its_own_though_this_one_writes_there_too(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FEWEST_MESSAGES", "MOST_MESSAGES"):
        monkeypatch.setattr(consumer, name, 1)
    made: list[MicroBatch] = []
    ready, show = MicroBatches.ready, Visible.show

    def noted(self: MicroBatches, records: Records) -> MicroBatch:
        made.append(ready(self, records))
        return made[-1]

    def beside_another(self: Visible, batch: MicroBatch) -> None:
        if batch is made[0]:
            until(lambda: len(made) == 2)  # it has looked for copies already
            _another_writes(topics, event=2, offset=99)
        show(self, batch)

    topics.send([topics.event(3, minutes=1440)])
    topics.stream()
    monkeypatch.setattr(MicroBatches, "ready", noted)
    monkeypatch.setattr(Visible, "show", beside_another)
    topics.send((topics.event(number, minutes=1441) for number in (1, 2)), partition=1)

    topics.stream()

    assert topics.numbers() == [(1, 1, 0), (2, 0, 99), (3, 0, 0)]


def test_a_stream_waits_for_another_that_is_about_to_commit_and_leaves_its_copies_out(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.send([topics.event(3, minutes=1440)])
    topics.stream()
    show, fact = Visible.show, registry.table("fct_events")
    waits = "select count(*) from pg_locks where locktype in ('advisory', 'transactionid') and not granted"

    def beside_another(self: Visible, batch: MicroBatch) -> None:
        with psycopg.connect(topics.world.warehouse_dsn) as other, ThreadPoolExecutor(1) as pool:
            streamed.lock(other, fact)
            for statement in _of_another(topics, event=2, offset=99):
                other.execute(statement.encode())
            shown = pool.submit(show, self, batch)
            until(lambda: topics.rows(waits) == [(1,)])
            other.commit()
            shown.result(30)

    monkeypatch.setattr(Visible, "show", beside_another)
    topics.send([topics.event(2, minutes=1441)], partition=1)

    topics.stream()

    assert topics.numbers() == [(2, 0, 99), (3, 0, 0)]


def _another_writes(topics: Topics, event: int, offset: int) -> None:
    for statement in _of_another(topics, event, offset):
        topics.rows(statement)


def _of_another(topics: Topics, event: int, offset: int) -> tuple[str, str]:
    """What another stream does that has partition 0: a row of yesterday."""
    return (
        "insert into analytics.fct_events "
        "(event_id, event_type, event_time, topic_rank, kafka_partition, kafka_offset) "
        f"select '{uuid.UUID(int=event)}', event_type, event_time, topic_rank, kafka_partition, {offset} "
        "from analytics.fct_events where kafka_partition = 0 returning true",
        "update ops.hot_partition set last_batch = 'another' where table_name = 'fct_events' "
        f"and partition = '{topics.began - timedelta(days=1):%Y-%m-%d}' returning true",
    )


def _parts(topics: Topics) -> list[list[int]]:
    """The partitions of the user events, by the stream that has them."""
    return [
        parts
        for (parts,) in topics.rows(
            "select array_agg(kafka_partition order by kafka_partition) from ops.stream_partition "
            f"where entity = '{topics.entity().table}' group by owner"
        )
    ]
