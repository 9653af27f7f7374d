"""The world lives on: only what changed is rebuilt, and the truth is met again."""

from __future__ import annotations

import json
from datetime import date, timedelta

import psycopg
import pytest

from tests.flows.company import Company, Place
from tests.flows.late import send_late_event
from transforms import registry

pytestmark = pytest.mark.full

EVENT_TABLES = {
    "fct_events",
    "fct_daily_active_users",
    "mart_daily_metrics",
    "mart_daily_event_types",
    "mart_user_activity",
    "mart_user_activity_monthly",
    "user_event_counts",
}


def test_a_day_more_equals_the_truth_and_touches_only_what_it_should(company: Company) -> None:
    place = company.copy()
    last = place.value("select max(event_time::date) from analytics.fct_events")
    company.advance(days=1)
    before = place.physical("dim_date")
    leaves = _leaves(place)

    planned = json.loads(place.run("plan", "--json").out)
    assert planned["arriving"]["raw_events__user_events"]
    done = place.run()
    assert done.code == 0, done.said

    assert place.differences() == []
    changed = place.changed()
    # Late arrivals reach eight days back; the days before stay as they are, to the tuple.
    earliest = (last - timedelta(days=9)).isoformat()
    assert changed["fct_events"][-1] == (last + timedelta(days=1)).isoformat()
    assert changed["fct_events"][0] >= earliest
    after = _leaves(place)
    untouched = {name for name in leaves if name.removeprefix("fct_events_").replace("_", "-") < earliest}
    assert untouched
    assert {name: after[name] for name in untouched} == {name: leaves[name] for name in untouched}
    assert place.physical("dim_date") == before
    # What Stripe and SendGrid have, nobody can tell before asking them for all of it.
    asked = {name for name in changed if not _hangs_on(name, "raw_stripe__", "raw_sendgrid__")}
    assert EVENT_TABLES <= asked <= {table["table"] for table in planned["rebuild"]}


def test_upkeep_shortens_the_past_makes_nothing_due_and_changes_no_row(company: Company) -> None:
    place = company.copy()
    company.advance(days=1)
    assert place.run().code == 0
    with psycopg.connect(place.warehouse_dsn, autocommit=True) as connection:
        connection.execute("update ops.ledger set committed_at = committed_at - interval '2 hours'")
    before, entries = place.content(), place.value("select count(*) from ops.ledger")
    done = place.run("maintain")
    assert done.code == 0, done.said
    assert place.value("select count(*) from ops.ledger") < entries
    assert place.content() == before
    assert json.loads(place.run("plan", "--json").out)["rebuild"] == []
    company.advance(days=1)
    assert place.run().code == 0
    assert place.differences() == []


def test_a_late_row_for_a_day_8_days_ago_rebuilds_that_day_and_what_depends_on_it(company: Company) -> None:
    place = company.copy()
    before = place.content()
    day = send_late_event(company, days=8)

    done = place.run()
    assert done.code == 0, done.said
    summary = place.summary()
    assert summary["landed"] == {"raw_events__user_events": 1}
    changed = place.changed()
    assert {name: changed[name] for name in changed if name in EVENT_TABLES} == {
        name: [_window(name, day)] for name in EVENT_TABLES & set(changed)
    }
    by_user = {"mart_user_activity", "mart_user_activity_monthly"}
    assert {"fct_events", "mart_daily_metrics", *by_user} <= set(changed) <= EVENT_TABLES
    # Only rows that differ are written: the event, its day's totals, its user's day and window.
    written = {name: table["rows_written"] for name, table in summary["tables"].items() if table["windows"]}
    assert all(rows <= 2 for rows in written.values()), written
    assert place.differences() == []
    after = place.content()
    assert {name for name in before if before[name] != after[name]} == set(changed)


def test_a_row_that_changed_at_the_application_writes_only_that_row(company: Company) -> None:
    place = company.copy(own_application=True)
    # What was captured and is read now: some rows are landed once more, those of the lookback among them.
    for _ in range(2):
        assert place.run().code == 0

    place.application(
        "update orders set quantity = quantity + 1, total_amount = total_amount + unit_price, "
        "updated_at = (select max(updated_at) from orders) + interval '1 second' "
        "where id = (select id from orders where status = 'delivered' and created_at < "
        "(select max(created_at) from orders) - interval '8 days' order by id limit 1)"
    )
    done = place.run()
    assert done.code == 0, done.said
    summary = place.summary()
    assert summary["landed"]["raw_app__orders"] == 1
    assert summary["tables"]["fct_orders"]["rows_written"] <= 2
    assert len(place.changed()["fct_orders"]) == 1
    assert "fct_events" not in place.changed()
    assert (
        place.value("select sum(revenue) from analytics.fct_orders")
        == (place.application("select sum(total_amount) from orders")[0][0])
    )


def _hangs_on(name: str, *sources: str) -> bool:
    return any(above.startswith(sources) for above in registry.upstream(name))


def _window(name: str, day: date) -> str:
    partition = registry.table(name).partition
    return day.isoformat()[:7] if partition is not None and partition.every == "month" else day.isoformat()


def _leaves(place: Place) -> dict[str, str]:
    names = place.rows(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'analytics.fct_events'::regclass"
    )
    digest = "select md5(string_agg(concat_ws(' ', xmin, ctid, t.*::text), '|' order by ctid)) from {} t"
    return {
        name.removeprefix("analytics."): str(place.value(digest.format(name))) for (name,) in sorted(names)
    }
