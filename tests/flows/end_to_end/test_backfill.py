"""`python -m flows backfill` and `rebuild`: days or tables from raw, the same rows, and resumable."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from tests.flows.company import Company, Place


def _days(place: Place) -> tuple[str, str]:
    last = place.value("select max(event_time::date) from analytics.fct_events")
    return str(last - timedelta(days=5)), str(last - timedelta(days=2))


@pytest.mark.full
def test_a_range_is_rebuilt_and_gives_the_same_rows_without_writing_one(company: Company) -> None:
    place = company.copy()
    before = place.physical()
    start, end = _days(place)
    done = place.run("backfill", "--from", start, "--to", end)
    assert done.code == 0, done.said
    assert place.physical() == before
    assert place.changed() == {}
    assert place.differences() == []
    assert place.rows("select distinct flow from ops.run where flow = 'backfill'") == [("backfill",)]


@pytest.mark.full
def test_only_the_range_and_what_was_selected_is_built(company: Company) -> None:
    place = company.copy()
    start, end = _days(place)
    done = place.run("backfill", "--from", start, "--to", end, "--select", "mart_user_activity")
    assert done.code == 0, done.said
    built = place.rows(
        "select distinct table_name, partition from ops.ledger where kind in ('build', 'publish') "
        "and run_id = (select run_id from ops.run where flow = 'backfill')"
    )
    assert {name for name, _ in built} == {"mart_user_activity"}
    assert all(start <= partition < end for _, partition in built)


@pytest.mark.full
@pytest.mark.parametrize("failpoint", ["build.before_commit", "build.committed"])
def test_a_backfill_that_was_killed_is_finished_by_the_next_run(company: Company, failpoint: str) -> None:
    place = company.copy()
    before = place.content()
    start, end = _days(place)
    killed = place.command("backfill", "--from", start, "--to", end, ANALYTICS_FAILPOINT=failpoint)
    assert killed.code == -signal.SIGKILL
    assert "because: asked for by a backfill" in place.run("plan").out
    done = place.run()
    assert done.code == 0, done.said
    assert place.run("plan").out.startswith("Nothing is new at the sources")
    assert place.content() == before
    assert place.differences() == []


@pytest.mark.full
def test_a_rebuild_makes_a_table_right_whatever_somebody_did_to_it(company: Company) -> None:
    place = company.copy()
    before = place.content()
    place.rows("update analytics.fct_orders set revenue = revenue + 0.01 where quantity = 2 returning 1")
    place.rows("delete from analytics.fct_orders where quantity = 3 returning 1")
    place.rows("update analytics.mart_daily_metrics set total_events = 0 returning 1")
    place.rows("delete from analytics.fct_events where event_type = 'click' returning 1")
    assert place.content() != before

    done = place.run("rebuild", "fct_orders", "fct_events", "mart_daily_metrics")

    assert done.code == 0, done.said
    assert place.content() == before
    assert place.differences() == []
    assert place.run("plan").out.startswith("Nothing is new at the sources")
