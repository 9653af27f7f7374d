"""Copies, late and out of order: what is published is what the rule says, whatever came first."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flows.streaming import consumer, hashed, others, seen
from tests.flows.streaming.counting import assert_agreed, without_copies
from tests.flows.streaming.topics import PARTITIONS, Topics
from tests.house import House

SEED = 20251103
EVENTS = 5_000
ROUNDS = 4
LATE_MINUTES = (0, 60, 25 * 60, 8 * 24 * 60)
"""An event is sent so long after it happened. The last is the lookback: further apart nothing is a copy."""


@pytest.mark.full
def test_copies_in_one_window_and_across_days_late_and_out_of_order_leave_what_the_rule_says(
    house: House, tmp_path: Path
) -> None:
    """One event in ten is sent two to five times: half of those with one time (a producer that tried again),
    half with another time each (one that stamps when it sends), into any partition."""
    topics = Topics.build(house, tmp_path)
    chance = random.Random(SEED)
    messages = [*_messages(chance)]
    chance.shuffle(messages)
    sent: list[tuple[int, int, int]] = []
    minutes: dict[tuple[int, int], float] = {}
    size = -(-len(messages) // ROUNDS)
    for first in range(0, len(messages), size):
        now: dict[int, list[tuple[int, float]]] = {partition: [] for partition in range(PARTITIONS)}
        for number, late in messages[first : first + size]:
            now[chance.randrange(PARTITIONS)].append((number, late))
        for partition, ones in now.items():
            for offset, (number, late) in enumerate(ones, start=sum(place[1] == partition for place in sent)):
                sent.append((number, partition, offset))
                minutes[partition, offset] = late
            topics.send((_event(topics, number, late) for number, late in ones), partition)
        topics.stream()

    expected = [*without_copies(sent)]
    assert topics.numbers() == expected
    times = topics.rows(
        "select kafka_partition, kafka_offset, extract(epoch from event_time)::bigint "
        "from analytics.fct_events"
    )
    assert {(partition, offset): time for partition, offset, time in times} == {
        (partition, offset): int(topics.began.timestamp() - 60 * minutes[partition, offset])
        for _, partition, offset in expected
    }
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == len(sent)
    assert_agreed(
        topics, (_event(topics, number, minutes[partition, at]) for number, partition, at in expected)
    )


def test_copies_are_told_by_the_lookback_alone_in_stream_and_batch(house: House, tmp_path: Path) -> None:
    """Event 1 and 2 come again eight days apart, 3 and 4 a day more: the later time first, and last."""
    topics, day = Topics.build(house, tmp_path), 24 * 60
    apart = {1: 8 * day, 2: 8 * day, 3: 9 * day, 4: 9 * day}
    for partition in (1, 0):  # the second copy is the one that counts
        is_late = {number: (number + partition) % 2 for number in apart}
        topics.send(
            (_event(topics, number, minutes * is_late[number]) for number, minutes in apart.items()),
            partition,
        )
        topics.stream()

    assert topics.numbers() == [(1, 0, 0), (2, 0, 1), (3, 0, 2), (3, 1, 2), (4, 0, 3), (4, 1, 3)]
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before


TOPICS = ("user_events", "page_views", "clicks")
"""In the order in which they count."""
SENT = {0: ("user_events", "clicks"), 1: ("page_views", "clicks"), 2: TOPICS, 3: ("clicks",)}
"""Remainder of an event's number → the topics that it is sent to."""
PLACES = {"user_events": 2, "page_views": 1, "clicks": 0}
APART = (0, 3, 26 * 60)
"""Minutes between the times that an event is given in one topic and in the next."""
ORDERS = (TOPICS[::-1], *(pytest.param(order, marks=pytest.mark.full) for order in (TOPICS, None)))
"""Which topic is taken in first; None: all of them at once."""


@pytest.mark.parametrize("order", ORDERS)
def test_an_event_that_came_through_several_topics_counts_once_in_stream_and_batch(
    house: House, tmp_path: Path, order: tuple[str, ...] | None
) -> None:
    """Whichever topic came first, and where all came at once: stream and batch keep the same one, at the same
    time, and the windows count what is kept."""
    topics = Topics.build(house, tmp_path)
    _send_to_several(topics, order or TOPICS, topics.stream if order else None)
    if order is None:
        topics.stream()

    assert _kept(topics) == _expected(topics)
    users = (_several(topics, number, "user_events") for number in range(60) if number % 4 in (0, 2))
    assert_agreed(topics, users)


@pytest.mark.parametrize("order", ORDERS)
def test_an_event_that_came_through_several_topics_counts_once_however_a_batch_is_cut(
    house: House, tmp_path: Path, order: tuple[str, ...] | None
) -> None:
    topics = Topics.build(house, tmp_path)
    _send_to_several(topics, order or TOPICS, topics.batch if order else None)
    topics.batch()

    assert _kept(topics) == _expected(topics)
    assert sum(len(built.partitions) for done in topics.batch().values() for built in done) == 0


def test_a_day_that_is_built_anew_holds_what_counts_of_events_that_came_through_several_topics(
    house: House, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path)
    _send_to_several(topics, TOPICS, topics.batch)
    days = topics.rows("select partition from ops.partition_state where table_name = 'fct_events'")
    for (day,) in days:
        topics.rows(
            "update ops.partition_state set fingerprint = 'backfill' "
            f"where table_name = 'fct_events' and partition = '{day}' returning true"
        )
        topics.batch()
        assert _kept(topics) == _expected(topics), day


def test_of_an_event_at_the_same_place_of_two_topics_stream_and_batch_keep_the_same(
    house: House, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path)
    for topic in ("clicks", "user_events", "page_views"):
        topics.send([_event(topics, 1, 0)], 1, topic)
        topics.stream()
    assert _kept(topics) == {1: (0, 1, 0, topics.began)}
    assert_agreed(topics, [_event(topics, 1, 0)])


def _send_to_several(topics: Topics, order: Iterable[str], take_in: Callable[[], object] | None) -> None:
    for topic in order:
        sent = (number for number in range(60) if topic in SENT[number % 4])
        topics.send((_several(topics, number, topic) for number in sent), PLACES[topic], topic)
        if take_in is not None:
            take_in()


def _several(topics: Topics, number: int, topic: str) -> dict[str, Any]:
    return _event(topics, number, APART[number % 3] * TOPICS.index(topic))


def _expected(topics: Topics) -> dict[int, tuple[int, int, int, datetime]]:
    """Number of the event → rank of its topic, partition, offset, and its time."""
    found = {}
    for number in range(60):
        topic = SENT[number % 4][0]
        before = sum(topic in SENT[earlier % 4] for earlier in range(number))
        at = datetime.fromisoformat(_several(topics, number, topic)["event_time"])
        found[number] = (TOPICS.index(topic), PLACES[topic], before, at)
    return found


def _kept(topics: Topics) -> dict[int, tuple[int, int, int, datetime]]:
    rows = topics.rows(
        "select event_id, topic_rank, kafka_partition, kafka_offset, event_time from analytics.fct_events"
    )
    kept = {row[0].int: tuple(row[1:]) for row in rows}
    assert len(kept) == len(rows)
    return kept


def _event(topics: Topics, number: int, late: float) -> dict[str, Any]:
    return topics.event(number, minutes=late, user_id=1 + number % 50)


def _messages(chance: random.Random) -> Iterator[tuple[int, float]]:
    """(number of the event, minutes that it is late) of each message."""
    for number in range(EVENTS):
        late = chance.choice(LATE_MINUTES)
        copies = chance.randint(2, 5) if number % 10 == 0 else 1
        is_stamped_anew = chance.random() < 0.5
        for copy in range(copies):
            yield number, chance.choice(LATE_MINUTES) if copy and is_stamped_anew else late


@pytest.mark.parametrize(
    ("memory", "learned_after", "fewest", "most"),
    [
        pytest.param(hashed.MOST_BYTES, 60, 60, 900, id="hashes beside"),
        *(
            pytest.param(*given, id=name, marks=pytest.mark.full)
            for name, given in {
                "hashes at once": (hashed.MOST_BYTES, 0, 30, 100),
                "asked too little": (hashed.MOST_BYTES, hashed.LEARN_AFTER, 1_120, 1_120),
                "no memory": (0, 0, 1_000, 1_120),
            }.items()
        ),
    ],
)
def test_copies_of_what_is_no_longer_known_whole_are_found_in_the_warehouse(
    house: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: int,
    learned_after: int,
    fewest: int,
    most: int,
) -> None:
    """The first come again after ten times as many as are known: behind the first, where they are left out,
    and in a partition before theirs, where they take the place of the first."""
    looked_for = 0

    def counted(connection: Any, table: Any, columns: Any, identities: Any, windows: Any) -> Any:
        nonlocal looked_for
        looked_for += identities.num_rows
        return others.standing(connection, table, columns, identities, windows)

    monkeypatch.setattr(seen, "standing", counted)
    monkeypatch.setattr(seen, "RECENT_ROWS", 100)
    monkeypatch.setattr(hashed, "MOST_BYTES", memory)
    monkeypatch.setattr(hashed, "LEARN_AFTER", learned_after)
    for name in ("FEWEST_MESSAGES", "MOST_MESSAGES"):
        monkeypatch.setattr(consumer, name, 50)
    topics = Topics.build(house, tmp_path)
    days = [minutes for minutes in LATE_MINUTES if minutes < 8 * 24 * 60]
    first = [(number, days[number % len(days)]) for number in range(60)]
    topics.send((_event(topics, number, late) for number, late in first), 1)
    topics.stream()
    topics.send((_event(topics, number, 5) for number in range(60, 1_060)), 1)
    topics.send((_event(topics, number, late) for number, late in first[:30]), 2)
    topics.send((_event(topics, number, late + 3) for number, late in first[30:]), 0)

    topics.stream()

    assert fewest <= looked_for <= most
    kept = [(number, 1, number) for number in (*range(30), *range(60, 1_060))]
    kept += [(number, 0, number - 30) for number in range(30, 60)]
    assert topics.numbers() == sorted(kept)
    minutes = {number: late + 3 * (number >= 30) for number, late in first}
    assert_agreed(topics, (_event(topics, number, minutes.get(number, 5)) for number, _, _ in kept))
