"""Counts by five-minute windows: right, told once, and equal to the batch's, whatever happens meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import failpoints
from flows.streaming import agreement, counts, taking_in
from flows.streaming.keeper import Keeper, keep_once
from flows.streaming.reconcile import reconcile
from quality import CheckResult
from tests.flows.streaming.counting import FIVE, Window, assert_told_once, counted, published, start
from tests.flows.streaming.topics import Topics, until
from tests.house import House
from transforms import engine, registry

STREAMING = Path(taking_in.__file__).parent
STEPS = {name for name in failpoints.names(STREAMING) if name.startswith(("windows.", "outbox."))}


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def test_events_are_counted_in_their_window_and_each_revision_is_told_once(topics: Topics) -> None:
    events = [topics.event(number, minutes=number / 10, user_id=1 + number % 3) for number in range(300)]
    topics.send([*events, *events[:20], topics.event(900), topics.event(901, event_type="page_view")])
    topics.stream()
    later = [topics.event(number, minutes=number - 1000, user_id=2) for number in range(1000, 1010)]
    topics.send(later, partition=1)
    topics.stream()

    assert published(topics) == counted([*events, *later])
    assert_told_once(topics)
    assert topics.rows("select count(*) from ops.outbox") == [(0,)]


def test_page_views_and_clicks_and_visitors_are_not_counted(topics: Topics) -> None:
    view = {"path": "/", "referrer": None, "title": "t", "duration_ms": 5}
    topics.send([topics.event(1, user_id=7) | view], topic="page_views")
    topics.send([topics.event(2, user_id=7) | {"element": "a", "x": 1, "y": 2}], topic="clicks")
    topics.send([topics.event(3)])

    assert topics.stream().rows == 3

    assert topics.counts() == {}
    assert topics.told() == {}


def test_a_copy_that_takes_an_events_place_moves_its_count_to_another_window(topics: Topics) -> None:
    behind, before = topics.event(1, minutes=40, user_id=5), topics.event(1, minutes=10, user_id=5)
    topics.send([behind], partition=1)
    topics.stream()
    topics.send([before], partition=0)
    topics.stream()

    assert published(topics) == counted([before])
    again = topics.event(2, minutes=40, user_id=5)
    topics.send([again], partition=2)
    topics.stream()
    assert published(topics) == counted([before, again])
    assert [count for count, _, _ in topics.told()[(5, start(_time(again)))]] == [1, 0, 1]
    assert_told_once(topics)


def test_a_window_is_final_once_the_watermark_has_passed_it_by_the_lateness(topics: Topics) -> None:
    old = [topics.event(number, minutes=180, user_id=number) for number in range(3)]
    new = [topics.event(10 + number, minutes=1, user_id=number) for number in range(3)]
    for partition in range(3):
        topics.send([old[partition]], partition)
    topics.stream()
    assert {final for _, _, final in topics.counts().values()} == {False}
    for partition in range(3):
        topics.send([new[partition]], partition)
    topics.stream()
    topics.stream()

    assert {(start, final) for (_, start), (_, _, final) in topics.counts().items()} == {
        (start(_time(old[0])), True),
        (start(_time(new[0])), False),
    }
    assert_told_once(topics)


def test_a_count_whose_window_has_passed_when_it_is_merged_is_told_once_and_is_final(topics: Topics) -> None:
    for partition in range(3):
        topics.send([topics.event(partition, minutes=180, user_id=1)], partition)
        topics.send([topics.event(10 + partition, minutes=1, user_id=2)], partition)
    topics.stream()

    told = {user: revisions for (user, _), revisions in topics.told().items()}
    assert told[1] == [(3, 1, True)]
    assert told[2] == [(3, 1, False)]


def test_what_comes_too_late_for_its_window_is_counted_by_the_batch_with_a_higher_revision(
    topics: Topics,
) -> None:
    old = topics.event(1, minutes=200, user_id=5)
    for partition in range(3):
        topics.send([topics.event(10 + partition, minutes=1, user_id=5)], partition)
    topics.send([old])
    topics.stream()
    late = [topics.event(number, minutes=200, user_id=5) for number in (2, 3)]
    topics.send(late, partition=1)
    topics.stream()
    window = (5, start(_time(old)))
    before = topics.counts().get(window, (0, 0, True))[0]
    assert before < 3
    assert len(topics.numbers()) == 6

    topics.batch()
    assert all(result.passed for result in topics.reconcile())

    assert topics.counts()[window][0] == 3
    assert topics.counts()[window][2] is True
    assert_told_once(topics)


def test_stream_and_batch_in_turns_count_alike_and_nothing_is_found(topics: Topics) -> None:
    sent: list[dict[str, Any]] = []
    ways: tuple[Callable[[], object], ...] = (topics.batch, topics.stream) * 2
    for turn, take_in in enumerate(ways):
        events = [
            topics.event(100 * turn + number, minutes=7 * number, user_id=number % 5) for number in range(50)
        ]
        topics.send(events, partition=turn % 3)
        sent += events
        take_in()
    topics.batch()

    results = topics.reconcile()

    assert results
    assert all(result.passed for result in results)
    assert published(topics) == counted(sent)
    topics.days_go_by()
    assert all(result.passed for result in topics.reconcile())
    assert topics.reconcile() == []


def test_a_count_that_is_wrong_is_found_told_and_made_right(topics: Topics) -> None:
    events = [topics.event(number, minutes=number, user_id=3) for number in range(60)]
    topics.send(events)
    topics.stream()
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        connection.execute(
            "update analytics.user_event_counts set event_count = event_count + 2 "
            "where window_start = (select max(window_start) from analytics.user_event_counts)"
        )
    topics.batch()

    (failed,) = (result for result in topics.reconcile() if not result.passed)

    assert (failed.table, failed.failing_rows) == ("user_event_counts", 1)
    assert "1 windows were counted differently" in failed.message
    assert published(topics) == counted(events)
    assert_told_once(topics)


def test_two_comparisons_at_once_correct_a_count_once(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [topics.event(number, minutes=number, user_id=3) for number in range(60)]
    topics.send(events)
    topics.stream()
    topics.batch()
    topics.rows("update analytics.user_event_counts set event_count = event_count + 2 returning true")
    compare = agreement.compare_counts
    others: list[Future[list[CheckResult]]] = []

    def compared(*given: Any) -> pa.Table:
        found = compare(*given)
        if not others:
            others.append(pool.submit(reconcile, services, topics.way))
            until(lambda: others[0].done() or _somebody_waits(topics))
        return found

    monkeypatch.setattr(agreement, "compare_counts", compared)
    services = topics.world.services()
    with services.lake, ThreadPoolExecutor(1) as pool:
        assert not all(result.passed for result in reconcile(services, topics.way))
        assert all(result.passed for result in others[0].result(30))
    assert keep_once(services, topics.way) == ""

    assert published(topics) == counted(events)


def _somebody_waits(topics: Topics) -> bool:
    query = (
        "select 1 from pg_locks join pg_database d on d.oid = database "
        "where locktype = 'advisory' and not granted and datname = current_database()"
    )
    return bool(topics.rows(query))


def test_a_count_of_a_sealed_day_that_is_wrong_is_found_too(topics: Topics) -> None:
    events = [topics.event(number, minutes=number, user_id=3) for number in range(60)]
    topics.send(events)
    topics.stream()
    topics.batch()
    topics.days_go_by()
    topics.reconcile()
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        connection.execute(
            "update analytics.user_event_counts set event_count = event_count + 2 "
            "where window_start = (select max(window_start) from analytics.user_event_counts)"
        )

    (failed,) = (result for result in topics.reconcile(sealed_too=True) if not result.passed)

    windows = failed.observed["windows"]
    assert isinstance(windows, list)
    ((user, _, added),) = windows
    assert (failed.table, user, added) == ("user_event_counts", "3", "-2")
    assert published(topics) == counted(events)
    assert_told_once(topics)
    assert all(result.passed for result in topics.reconcile(sealed_too=True))


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_kill_between_counting_and_telling_tells_every_revision_once(topics: Topics, name: str) -> None:
    events = [topics.event(number, minutes=number % 30, user_id=number % 4) for number in range(200)]
    topics.send(events[:100], partition=1)
    topics.stream()
    topics.send(events[100:], partition=2)

    assert topics.dies("stream", name)
    topics.stream()

    assert published(topics) == counted(events)
    assert_told_once(topics)
    topics.batch()
    assert all(result.passed for result in topics.reconcile())
    assert published(topics) == counted(events)
    assert topics.left_over() == []


@pytest.mark.full
def test_what_was_told_before_a_kill_is_told_once_where_the_broker_forgot_the_group_meanwhile(
    topics: Topics,
) -> None:
    events = [topics.event(number, minutes=number % 30, user_id=number % 4) for number in range(200)]
    topics.send(events[:100])
    assert topics.dies("stream", "outbox.sent")
    waiting = topics.rows("select count(*) from ops.outbox")
    (told,) = {table.windowed.topic for table in topics.way.windows if table.windowed}
    admin = AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})
    for forgotten in admin.delete_consumer_groups([f"{topics.group}-{told}"]).values():
        forgotten.result(30)
    topics.send(events[100:], partition=1)
    topics.stream()

    assert waiting != [(0,)]
    assert published(topics) == counted(events)
    assert_told_once(topics)


def test_a_keeper_that_is_gone_is_followed_by_another_stream(topics: Topics) -> None:
    services = topics.world.services()
    with services.lake, closing(Keeper(services, topics.way)) as keeper:
        topics.send([topics.event(1, user_id=1)])
        topics.stream()
        assert keeper.keep() == 0  # the stream kept, and left
        topics.send([topics.event(2, user_id=1)])
        topics.stream()
        assert topics.told()[(1, start(topics.began))] == [(1, 1, False)]  # this one is the keeper now
        assert keeper.keep() == 1
    topics.send([topics.event(3, user_id=1)])
    topics.stream()

    assert [count for count, _, _ in topics.told()[(1, start(topics.began))]] == [1, 2, 3]
    assert_told_once(topics)


def test_a_warehouse_made_anew_tells_a_topic_that_has_more_than_it_wrote(topics: Topics) -> None:
    topics.send([topics.event(number, user_id=number) for number in range(5)])
    topics.stream()
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        connection.execute("alter table ops.outbox alter column sequence restart with 1")
    more = [topics.event(10 + number, user_id=10 + number) for number in range(3)]
    topics.send(more)
    topics.stream()

    assert len(topics.told()) == 8
    assert_told_once(topics)


# ------------------------------------------------------------------------------------------------ arithmetic

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(-100_000, 300).map(lambda seconds: NOW + timedelta(seconds=seconds))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.none() | st.integers(1, 3), MOMENTS), max_size=30),
    st.integers(1, 30),
)
def test_however_events_are_cut_into_micro_batches_they_add_up_to_the_same_counts(
    events: list[tuple[int | None, datetime]], size: int
) -> None:
    table = registry.table("user_event_counts")
    upstream = registry.table("stg_events__user_events")
    added: Counter[Window] = Counter()
    with closing(engine.connect()) as connection:
        for first in range(0, len(events), size):
            users, moments = zip(*events[first : first + size], strict=True)
            rows = pa.table(
                {
                    "user_id": pa.array(users, pa.int64()),
                    "event_time": pa.array(moments, pa.timestamp("us", tz="UTC")),
                }
            )
            for row in counts.count(connection, table, upstream, connection.from_arrow(rows)).to_pylist():
                assert row["window_end"] == row["window_start"] + FIVE
                added[row["user_id"], row["window_start"]] += row["event_count"]

    assert added == Counter((user, start(moment)) for user, moment in events if user is not None)


def _time(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(event["event_time"])
