"""How far event time has come: no further than what was read, and all the way in the end."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from flows.landing import land
from flows.settings import Settings
from flows.streaming.consumer import StreamConsumer
from flows.streaming.journal import Journal
from flows.streaming.keeper import Keeper
from flows.streaming.watermark import IDLE_AFTER, Progress, watermark
from tests.flows.streaming.counting import FIVE, start
from tests.flows.streaming.topics import PARTITIONS, Topics, until
from tests.house import House

HOUR = timedelta(hours=1)


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def _count(topics: Topics) -> dict[int, tuple[int, bool | None]]:
    """User → events, and whether the window is final, where each user has one window."""
    return {user: (count, final) for (user, _), (count, _, final) in topics.counts().items()}


def _first_final(topics: Topics) -> dict[int, int]:
    """User → the count that the topic called final first."""
    return {
        user: next((count for count, _, final in told if final), 0)
        for (user, _), told in topics.told().items()
    }


def _keep(topics: Topics) -> None:
    services = topics.world.services()
    with services.lake, closing(Keeper(services, topics.way)) as keeper:
        keeper.keep()


def test_what_waited_through_an_outage_is_counted_in_its_window_and_none_is_final_too_early(
    topics: Topics,
) -> None:
    """Three hours without a stream: windows are up to three hours old when their events are read."""
    for partition in range(PARTITIONS):
        topics.send([topics.event(partition, minutes=190, user_id=1000)], partition)
    topics.stream()
    topics.rows(
        "update ops.stream_partition set (moved_at, taken_at, ended_at) = "
        "(select t, t, t from (select clock_timestamp() - interval '3 hours' as t)) returning true"
    )
    for partition in range(PARTITIONS):
        topics.send(
            [topics.event(10 * user + partition, minutes=180 - user, user_id=user) for user in range(1, 180)],
            partition,
        )
    _keep(topics)  # of another member of the group, whose partitions these are not
    assert _count(topics) == {1000: (PARTITIONS, False)}

    topics.stream()

    found = _count(topics)
    assert found == {
        1000: (PARTITIONS, True),
        **{user: (PARTITIONS, found[user][1]) for user in range(1, 180)},
    }
    assert found[1][1] is True
    assert found[179][1] is False
    assert topics.rows("select count(*) from ops.user_event_counts_late") == [(0,)]
    assert all(count in (0, PARTITIONS) for count in _first_final(topics).values())


def test_a_window_ends_before_its_end_and_is_final_when_event_time_is_there_by_the_lateness(
    topics: Topics,
) -> None:
    """To the microsecond: an event of a window's end is the next one's, and what comes then is too late."""
    begins = start(topics.began - timedelta(hours=3))
    at = {
        1: begins,
        2: begins + FIVE - timedelta(microseconds=1),
        3: begins + FIVE,
        **dict.fromkeys(range(10, 13), begins + FIVE + timedelta(hours=1)),
    }
    events = {
        number: topics.event(number, event_time=time.isoformat(), user_id=1) for number, time in at.items()
    }
    topics.send(events[number] for number in (1, 2, 3))
    for partition in range(PARTITIONS):
        topics.send([events[10 + partition]], partition)
    topics.stream()

    def final() -> dict[datetime, tuple[int, bool | None]]:
        return {window: (count, is_final) for (_, window), (count, _, is_final) in topics.counts().items()}

    later = begins + FIVE + timedelta(hours=1)
    assert final() == {begins: (2, True), begins + FIVE: (1, False), later: (PARTITIONS, False)}
    topics.send(
        topics.event(number, event_time=time.isoformat(), user_id=1)
        for number, time in {20: at[2], 21: at[3]}.items()
    )
    topics.stream()
    assert final() == {begins: (2, True), begins + FIVE: (2, False), later: (PARTITIONS, False)}
    assert topics.rows("select window_start, event_count from ops.user_event_counts_late") == [(begins, 1)]


def test_partitions_that_are_read_to_their_end_do_not_hold_event_time_back(topics: Topics) -> None:
    topics.send([topics.event(1, minutes=180, user_id=1)])
    _take_back(topics, partition=1)  # its end is a marker, which no message stands at
    topics.stream()
    assert _count(topics) == {1: (1, False)}

    topics.rows("update ops.stream_partition set moved_at = moved_at - interval '6 minutes' returning true")
    topics.send([topics.event(2, minutes=1, user_id=2)], partition=2)
    _keep(topics)
    assert _count(topics) == {1: (1, False)}  # nobody has looked whether something waits
    topics.stream()

    assert _count(topics) == {1: (1, True), 2: (1, False)}


def test_a_partition_into_which_something_came_since_it_was_read_is_not_at_its_end(topics: Topics) -> None:
    both = {(topics.entity().table, 0), (topics.entity().table, 1)}
    with topics.world.services().warehouse.connect() as connection:
        consumer = StreamConsumer(
            topics.way, Journal(connection), topics.world.kafka_bootstrap, {}, "one", _nothing, _nothing
        )
        with closing(consumer):
            until(lambda: not consumer.read(0.1) and consumer.is_idle)
            assert consumer.ended(both).keys() == both
            topics.send([topics.event(1)])
            assert consumer.ended(both).keys() == both - {(topics.entity().table, 0)}


def _nothing() -> None:
    pass


def _take_back(topics: Topics, partition: int) -> None:
    producer = Producer(
        {"bootstrap.servers": topics.world.kafka_bootstrap, "transactional.id": f"t-{topics.group}"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topics.topic(), b"{}", partition=partition)
    producer.flush(30)
    producer.abort_transaction(30)


def test_windows_are_final_and_their_day_sealed_also_when_no_stream_comes_again(topics: Topics) -> None:
    topics.send([topics.event(number, user_id=number) for number in range(3)])
    topics.stream()
    topics.batch()
    assert all(result.passed for result in topics.reconcile())
    hot = topics.rows("select count(*) from ops.hot_partition where sealed_at is null")
    assert hot == [(2,)]  # the day is not over: it stays the stream's

    topics.days_go_by()

    assert _count(topics) == dict.fromkeys(range(3), (1, True))
    assert all(result.passed for result in topics.reconcile())
    assert topics.rows("select count(*) from ops.hot_partition where sealed_at is null") == [(0,)]
    assert topics.reconcile() == []
    assert {tuple(told) for told in topics.told().values()} == {((1, 1, False), (1, 2, True))}


def test_no_window_is_final_before_it_counts_what_a_batch_has_read_itself(topics: Topics) -> None:
    topics.send([topics.event(number, user_id=number) for number in range(3)])
    topics.stream()
    topics.send([topics.event(10 + number, user_id=number) for number in range(3)], partition=1)
    topics.send([topics.event(20) | {"element": "a", "x": 1, "y": 2}], topic="clicks")  # in no window
    topics.batch()
    assert topics.rows("select entity from ops.comparison_owed") == [("raw_events__user_events",)]
    topics.days_go_by()
    assert _count(topics) == dict.fromkeys(range(3), (1, False))

    assert all(result.passed for result in topics.reconcile())

    assert topics.rows("select entity from ops.comparison_owed") == []
    assert _count(topics) == dict.fromkeys(range(3), (2, True))
    assert _first_final(topics) == dict.fromkeys(range(3), 2)
    topics.reconcile()
    assert topics.rows("select count(*) from ops.hot_partition where sealed_at is null") == [(0,)]


def test_a_batch_notes_by_the_warehouses_clock_when_it_came_to_a_topics_end(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What idles is told by the time between two notes: a machine whose clock is fast must not end it."""
    services, entity = topics.world.services(), topics.entity()
    ended = "select count(*) from ops.stream_partition where ended_at > clock_timestamp()"
    monkeypatch.setattr(Settings, "machine_time", lambda _: time.time() + 3600)
    topics.send([topics.event(1)])
    with services.lake:
        with services.ledger() as ledger:
            Journal(ledger.connection).know(entity.table, dict.fromkeys(range(PARTITIONS), 0), "nobody")
        assert land(services, entity, "batch") is not None
        assert topics.rows(ended) == [(0,)]
        assert land(services, entity, "batch") is None
        assert topics.rows(ended) == [(0,)]
    assert topics.rows("select count(ended_at) from ops.stream_partition") == [(PARTITIONS,)]


@pytest.mark.full
def test_what_was_compared_before_the_keeper_saw_it_is_counted_though_its_window_is_final(
    topics: Topics,
) -> None:
    topics.send([topics.event(1, user_id=1)])
    topics.stream()
    topics.days_go_by()
    services = topics.world.services()
    with services.lake, closing(Keeper(services, topics.way)) as keeper:
        keeper.keep()
        topics.send([topics.event(2, user_id=1)], partition=1)
        topics.stream()  # it is not the keeper: what it adds waits
        topics.batch()
        assert all(result.passed for result in topics.reconcile())
        keeper.keep()

    assert _count(topics) == {1: (2, True)}
    assert topics.rows("select count(*) from ops.user_event_counts_late") == [(0,)]


# ------------------------------------------------------------------------------------------------ arithmetic

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(-100_000, 300).map(lambda seconds: NOW + timedelta(seconds=seconds))
SEEN = st.lists(st.builds(Progress, st.none() | MOMENTS, st.none() | MOMENTS), max_size=6)


@given(SEEN, st.none() | MOMENTS)
def test_the_watermark_is_that_of_the_slowest_partition_and_never_goes_back(
    partitions: list[Progress], before: datetime | None
) -> None:
    reached = [max([m for m in (p.latest, p.idle) if m], default=None) for p in partitions]
    if None in reached or not reached:
        expected = before
    else:
        slowest = min(moment for moment in reached if moment)
        expected = max(slowest, before or slowest)
    assert watermark(partitions, before) == expected


MINUTES = st.integers(0, 60)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 200), st.just(0)),
        st.tuples(st.just("send"), st.integers(0, 2), MINUTES),
        st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 5)),
        st.tuples(st.just("ask"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("keep"), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@given(STEPS)
def test_what_is_sent_within_the_lateness_is_never_too_late_whoever_reads_it_and_whenever(
    steps: list[tuple[str, int, int]],
) -> None:
    """A model of topic, streams and keeper: it stands still while nobody reads, however long that is."""
    now = NOW
    before: datetime | None = None
    sent: list[list[datetime]] = [[], [], []]
    read, moved = [0, 0, 0], [now] * 3
    latest: list[datetime | None] = [None] * 3
    ended: list[datetime | None] = [None] * 3
    added: list[datetime] = []
    for what, which, number in steps:
        if what == "wait":
            now += timedelta(minutes=which)
        elif what == "send":
            sent[which].append(now - timedelta(minutes=number))
        elif what == "read":
            if came := sent[which][read[which] : read[which] + number]:
                read[which] += len(came)
                added += came
                latest[which], moved[which] = max([*came, latest[which] or came[0]]), now
        elif what == "ask":
            ended[which] = now if read[which] == len(sent[which]) else ended[which]
        else:
            assert all(before is None or moment >= before - HOUR for moment in added)
            added.clear()
            before = watermark(
                [
                    Progress(last, end - IDLE_AFTER if end and end - since >= IDLE_AFTER else None)
                    for last, since, end in zip(latest, moved, ended, strict=True)
                ],
                before,
            )


def test_a_clock_that_is_set_on_does_not_carry_event_time_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox's world jumps a day, and then tells what happened in it: five minutes are left for that."""
    jumped, day = NOW, timedelta(days=1)
    monkeypatch.setattr(Settings, "earlier_clock_offsets", property(lambda _: ((jumped, HOUR),)))
    monkeypatch.setattr(Settings, "clock_offset", property(lambda _: HOUR + day))

    asked = [jumped + timedelta(minutes=minutes) - IDLE_AFTER for minutes in (-1, 1, 4, 6)]

    assert [Settings().world_time(moment) - moment for moment in asked] == [HOUR, HOUR, HOUR, HOUR + day]
