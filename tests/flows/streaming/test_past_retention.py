"""Events of days that are past their retention: raw and the lake have them, nobody shows or counts them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from flows.stores.upkeep import retire
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry

DAY = 24 * 60
LONG_AGO, OLDEST = 1_100 * DAY, 1_094 * DAY
"""Minutes: past the retention of 1,095 days, and kept yet."""
HOT = "select distinct partition from ops.hot_partition where sealed_at is null order by 1"
LEAVES = (
    "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relname like '%%\\_{}'"
)


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def _day(topics: Topics, minutes: float) -> str:
    return (topics.began - timedelta(minutes=minutes)).date().isoformat()


def _leaves(topics: Topics, day: str) -> set[str]:
    return {name for (name,) in topics.rows(LEAVES.format(day.replace("-", "\\_")))}


def _retire(topics: Topics, later: timedelta = timedelta(0)) -> None:
    services = topics.world.services()
    with services.lake:
        for name in ("fct_events", "user_event_counts"):
            now = services.settings.now() + later
            retire(services.warehouse, services.lake, registry.table(name), now)


def test_what_is_past_the_retention_is_neither_shown_nor_counted_and_nothing_is_found_of_it(
    topics: Topics,
) -> None:
    topics.send([topics.event(1, user_id=1), topics.event(2, user_id=1, minutes=LONG_AGO)])
    topics.send([topics.event(3, user_id=1, minutes=OLDEST)])

    topics.stream()

    assert topics.numbers() == [(1, 0, 0), (3, 0, 2)]
    assert sorted(start for _, start in topics.counts())[0].date().isoformat() == _day(topics, OLDEST)
    assert topics.rows("select count(*) from ops.dead_letter") == [(0,)]
    topics.batch()
    _retire(topics)
    assert all(result.passed for result in topics.reconcile())
    assert topics.numbers() == [(1, 0, 0), (3, 0, 2)]
    assert _day(topics, LONG_AGO) not in {day for (day,) in topics.rows(HOT)}
    assert _leaves(topics, _day(topics, LONG_AGO)) == set()
    assert len(topics.raw_places()) == 3


def test_a_leaf_of_the_stream_goes_once_its_day_is_past_the_retention_and_is_hot_no_more(
    topics: Topics,
) -> None:
    topics.send([topics.event(1, user_id=1), topics.event(2, user_id=1, minutes=OLDEST)])
    topics.stream()
    day = _day(topics, OLDEST)
    assert len(_leaves(topics, day)) == 2

    _retire(topics, timedelta(days=3))  # no batch has computed it

    assert _leaves(topics, day) == set()
    assert topics.rows(HOT) == [(_day(topics, 0),)]
    assert topics.numbers() == [(1, 0, 0)]
