"""What a run holds its published tables to while a stream goes on writing into them."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from flows.__main__ import main
from flows.build import guard
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry

pytestmark = pytest.mark.full

KNOWN, NEW = 7, 8
EARLIER = 3 * 24 * 60
"""Minutes ago: a day that no stream writes into."""


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    """Two days of a user whom the run that built them knows, and an event today of one whom it does not."""
    topics = Topics.build(house, tmp_path)
    topics.send([topics.event(1, user_id=KNOWN), topics.event(2, user_id=KNOWN, minutes=EARLIER)])
    topics.batch()
    topics.send([topics.event(3, user_id=NEW)])
    topics.stream()
    assert topics.rows("select user_id from analytics.dim_users") == [(KNOWN,)]
    return topics


def _failed(topics: Topics, name: str) -> dict[str, int]:
    """Rule → the rows that break it, after a run that has published every day there is."""
    days = [
        day
        for (day,) in topics.rows(
            f"select partition from ops.partition_state where table_name = '{name}' and partition <> ''"
        )
    ]
    results = guard.check_published(topics.world.services(), registry.table(name), days, "run")
    assert len(results) == len({result.rule for result in results})
    return {result.rule: result.failing_rows for result in results if not result.passed}


@pytest.mark.parametrize("name", ["fct_events", "user_event_counts"])
def test_a_new_user_of_an_event_that_the_stream_has_shown_fails_no_run(topics: Topics, name: str) -> None:
    assert _failed(topics, name) == {}


def test_an_event_of_nobody_in_a_day_of_the_batch_alone_fails_it_still(topics: Topics) -> None:
    topics.rows(
        f"update analytics.fct_events set user_id = {NEW + 1} where event_id = '{UUID(int=2)}' returning 1"
    )

    assert _failed(topics, "fct_events") == {"references_user_id": 1}


def test_an_event_that_is_twice_in_a_day_of_the_stream_fails_it_still(topics: Topics) -> None:
    topics.rows(
        "update analytics.fct_events set event_time = event_time + interval '1 microsecond', "
        f"event_id = '{UUID(int=1)}' where user_id = {NEW} returning 1"
    )

    assert _failed(topics, "fct_events") == {"unique_event_id": 2}


def test_who_checks_meanwhile_is_told_what_may_stand_behind_a_failure(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check() -> tuple[int, str]:
        return main(["check", "fct_events"]), capsys.readouterr().out

    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", topics.world.warehouse_dsn)
    monkeypatch.setenv("ANALYTICS_LAKE", str(topics.world.lake))
    ((day,),) = topics.rows(
        "select partition from ops.hot_partition where table_name = 'fct_events' and sealed_at is null"
    )
    code, said = check()
    assert code == 1
    assert f"fct_events: a stream writes into {day}, and what it shows may be about rows" in said

    topics.batch()

    code, said = check()
    assert (code, "a stream writes" in said) == (0, False), said
