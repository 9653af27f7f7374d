"""A copy that counts takes the other out of a day that nothing is written into: that day is told of, too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from flows.stores import publish as publishing
from flows.streaming import taking_in
from tests.flows.streaming.counting import assert_agreed
from tests.flows.streaming.topics import Topics
from tests.house import House

EARLIER = 3 * 24 * 60
"""Minutes; another day than the one in which the test runs, and within the lookback."""


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    topics = Topics.build(house, tmp_path)
    topics.send([topics.event(1, minutes=EARLIER, user_id=1), topics.event(2, user_id=1)], partition=2)
    return topics


def _built(topics: Topics) -> None:
    topics.batch()


def _sealed(topics: Topics) -> None:
    topics.stream()
    topics.batch()
    topics.days_go_by()
    topics.reconcile()
    assert topics.rows("select count(*) from ops.hot_partition where sealed_at is null") == [(0,)]


@pytest.mark.parametrize("before", [pytest.param(_built, marks=pytest.mark.full), _sealed])
def test_a_row_taken_out_of_a_day_that_was_the_batchs_is_no_surprise_to_it(
    topics: Topics, before: Callable[[Topics], None]
) -> None:
    before(topics)
    topics.send([topics.event(1, minutes=1, user_id=1)], partition=0)  # of the two copies this one counts
    topics.stream()
    assert topics.numbers() == [(1, 0, 0), (2, 2, 1)]

    topics.batch()

    assert topics.numbers() == [(1, 0, 0), (2, 2, 1)]
    results = topics.reconcile()
    day = (topics.began - timedelta(minutes=EARLIER)).date().isoformat()
    assert ("fct_events", day) in {(one.table, one.partition) for one in results}
    assert [one.message for one in results if one.table == "fct_events" and not one.passed] == []


def test_a_row_taken_out_of_a_day_is_not_missed_before_its_record_is_landed(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.stream()
    topics.batch()
    assert all(one.passed for one in topics.reconcile())
    topics.send([topics.event(1, minutes=1, user_id=1)], partition=0)
    with monkeypatch.context() as patched:
        patched.setattr(taking_in, "land", lambda *_, **__: None)
        topics.stream()

    topics.roll_up()
    assert all(one.passed for one in topics.reconcile())

    assert topics.numbers() == [(1, 0, 0), (2, 2, 1)]
    assert_agreed(topics, [topics.event(1, minutes=1, user_id=1), topics.event(2, user_id=1)])


def test_a_row_taken_out_while_a_batch_that_takes_it_out_publishes_is_no_surprise_to_it(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had found the day without a row of the stream; meanwhile one took in a copy that counts more."""
    topics.batch()
    topics.send([topics.event(1, minutes=EARLIER / 3, user_id=1)], partition=1)
    meanwhile = [topics.event(1, minutes=1, user_id=1)]

    def beside(name: str) -> None:
        if name == "publish.audited" and meanwhile:
            topics.send([meanwhile.pop()], partition=0)
            topics.stream()

    monkeypatch.setattr(publishing, "failpoint", beside)
    topics.batch()
    assert meanwhile == []
    topics.batch()

    assert topics.numbers() == [(1, 0, 0), (2, 2, 1)]
    assert [one.message for one in topics.reconcile() if one.table == "fct_events" and not one.passed] == []
