"""A table is late from when it was due and not done, whoever was to do it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flows.maintenance.pruning import prune
from flows.monitoring.schedules import Deployment, Switched
from flows.monitoring.verdict import State
from flows.streaming.tally import note_end, note_progress, owner
from tests.flows.monitoring.conftest import DAILY, NOW, Place

HOUR = timedelta(hours=1)
_NUMBERS = (
    "messages_per_second",
    "lag",
    "median_seconds",
    "worst_seconds",
    "messages",
    "row_count",
    "copies",
)
_SAID = dict.fromkeys((*_NUMBERS, "dead_letters", "open_windows"), 0)


def _progress(
    place: Place, owner: str, seconds_ago: float, *, lag: int = 0, rate: float = 10.0, worst: float = 0.2
) -> None:
    place.execute(
        "insert into ops.stream_progress values "
        "(%s, clock_timestamp() - %s * interval '1 second', %s, %s, 0.1, %s, 1, 1, 0, 0, 0)",
        owner,
        seconds_ago,
        rate,
        lag,
        worst,
    )


def test_after_a_run_that_did_everything_nothing_is_late_for_a_day_while_no_schedule_is_on(
    place: Place,
) -> None:
    place.run(NOW - timedelta(hours=20))
    found = place.measure("data_freshness")
    assert {verdict.state for verdict in found.values()} == {State.OK}
    assert {
        "fct_orders",
        "mart_daily_revenue",
        "source:raw_app__orders",
        "source:raw_stripe__charges",
    } <= set(found)
    assert found["fct_orders"].observed["as_of"] == (NOW - timedelta(hours=20)).isoformat()


@pytest.mark.parametrize(
    ("hours", "paused", "state"),
    [
        (24.5, "", State.OK),
        (25.5, "", State.WARNING),
        (240, "", State.CRITICAL),
        (24.5, "daily", State.OK),
        (240, "daily", State.WARNING),
        # However long ago: nothing else says from when the data are.
        (900, "", State.CRITICAL),
        (900, "daily", State.WARNING),
    ],
)
def test_what_nothing_schedules_is_judged_by_its_age_and_told_as_one_missing_batch(
    place: Place, hours: float, paused: str, state: State
) -> None:
    place.schedules = Switched(paused=frozenset({paused} - {""}))
    place.run(NOW - hours * HOUR)
    found = place.measure("data_freshness")
    assert {found[name].state for name in ("source:raw_app__orders", "fct_orders")} == {state}
    missing = place.measure("missing_run")
    assert missing["deployment:daily"].state is state
    assert ("its schedule is paused" in missing["deployment:daily"].message) == (
        state != "ok" and paused != ""
    )
    others = {one.state for subject, one in missing.items() if subject != "deployment:daily"}
    assert others == {State.OK}


def test_of_a_batch_that_stopped_long_ago_it_is_known_what_it_did_while_the_hourly_one_goes_on(
    place: Place,
) -> None:
    place.run(NOW - 1000 * HOUR)
    place.run(NOW - 900 * HOUR, "raw_app__orders: refused", skipped=["fct_orders: they need raw_app__orders"])
    place.run(NOW - 890 * HOUR, state="Crashed")
    place.run(NOW - HOUR / 2, flow="api_ingest")
    found = place.measure("data_freshness")
    orders, users = found["fct_orders"], found["dim_users"]
    assert (orders.state, orders.observed["as_of"]) == (
        State.CRITICAL,
        (NOW - 1000 * HOUR).isoformat(),
    )
    assert (users.state, users.value) == (State.CRITICAL, 890 * 3600)
    assert found["source:raw_stripe__charges"].state is State.OK


def test_data_of_the_hourly_schedule_are_not_judged_by_the_age_of_a_batch_that_nothing_schedules(
    place: Place,
) -> None:
    place.schedules = Switched({"hourly": Deployment("hourly", "api_ingest", ("10 * * * *",), "2")})
    place.run(NOW - 72 * HOUR)
    place.run(NOW - HOUR / 2, flow="api_ingest")
    found = place.measure("data_freshness")
    assert found["source:raw_stripe__charges"].state is State.OK
    assert found["source:raw_app__orders"].state is State.CRITICAL
    # Made of both: what only the batch reads has not come.
    made_of_both = found["mart_revenue_reconciliation"]
    assert (made_of_both.state, made_of_both.value) == (State.CRITICAL, 48 * 3600)
    place.schedules = Switched(place.schedules.on, paused=frozenset({"daily"}))
    assert place.measure("data_freshness")["mart_revenue_reconciliation"].state is State.WARNING


def test_of_two_flows_that_nothing_schedules_each_is_due_for_what_it_alone_reads(place: Place) -> None:
    place.run(NOW - 72 * HOUR)
    place.run(NOW - HOUR / 2, flow="api_ingest")
    found = place.measure("data_freshness")
    assert found["source:raw_stripe__charges"].state is State.OK
    assert found["mart_revenue_reconciliation"].value == 48 * 3600


@pytest.mark.parametrize(("hours", "state"), [(0.5, State.OK), (1.5, State.WARNING), (2.5, State.CRITICAL)])
def test_what_a_run_left_out_is_late_since_that_run_began(place: Place, hours: float, state: State) -> None:
    place.run(NOW - timedelta(hours=9))
    place.run(
        NOW - hours * HOUR,
        "raw_stripe__charges: Stripe did not answer",
        skipped=["fct_payments, mart_revenue_reconciliation: they need raw_stripe__charges, which failed"],
    )
    found = place.measure("data_freshness")
    for late in ("source:raw_stripe__charges", "fct_payments", "mart_revenue_reconciliation"):
        assert (found[late].state, found[late].value) == (state, hours * 3600), late
    assert found["fct_orders"].state is State.OK
    if state is not State.OK:
        assert found["fct_payments"].message.startswith(
            "fct_payments was not published: a run that was to do it did not at"
        )


def test_what_the_batch_left_out_of_an_api_is_not_late_once_the_hourly_run_has_brought_it(
    place: Place,
) -> None:
    place.schedules = Switched({"daily": DAILY})
    failed = datetime(2025, 11, 3, 2, 0, 4, tzinfo=UTC)
    lacking = "fct_payments, mart_revenue_reconciliation: they need raw_stripe__charges, which failed"
    place.run(failed - 24 * HOUR)
    place.run(failed, "raw_stripe__charges: Stripe did not answer", skipped=[lacking])
    named = ("source:raw_stripe__charges", "fct_payments", "mart_revenue_reconciliation")
    found = place.measure("data_freshness")
    assert {found[name].state for name in named} == {State.CRITICAL}
    place.run(failed + HOUR / 2, flow="api_ingest")
    found = place.measure("data_freshness")
    assert {found[name].state for name in named} == {State.OK}


def test_what_the_batch_left_out_of_the_application_is_late_though_the_hourly_run_has_built_on_it(
    place: Place,
) -> None:
    place.run(NOW - 24 * HOUR)
    lacking = "fct_orders, mart_revenue_reconciliation: they need raw_app__orders, which failed"
    place.run(NOW - 9 * HOUR, "raw_app__orders: refused", skipped=[lacking])
    place.run(NOW - HOUR, flow="api_ingest")
    assert place.measure("data_freshness")["mart_revenue_reconciliation"].value == 9 * 3600


def test_a_later_run_that_does_it_ends_it(place: Place) -> None:
    place.run(NOW - 5 * HOUR, "fct_orders: rule not_null_user_id failed for 3 rows")
    place.run(NOW - 4 * HOUR, "fct_orders: rule not_null_user_id failed for 3 rows")
    assert place.measure("data_freshness")["fct_orders"].value == 5 * 3600
    place.run(NOW - HOUR)
    assert place.measure("data_freshness")["fct_orders"].state is State.OK


def test_what_a_rebuild_of_a_table_makes_good_is_not_late_any_more(place: Place) -> None:
    place.run(NOW - 5 * HOUR, "fct_orders: rule x failed", "fct_payments: rule x failed")
    place.run(NOW - HOUR, flow="rebuild", selected=["fct_orders"])
    found = place.measure("data_freshness")
    # Nothing was landed since, so it is not newer than before.
    assert (found["fct_orders"].value, found["fct_orders"].observed["as_of"]) == (None, None)
    assert found["fct_payments"].state is State.CRITICAL
    place.run(NOW - 9 * HOUR)
    orders = place.measure("data_freshness")["fct_orders"]
    assert (orders.state, orders.observed["as_of"]) == (State.OK, (NOW - 9 * HOUR).isoformat())


def test_a_run_of_some_tables_says_nothing_of_the_others(place: Place) -> None:
    place.run(NOW - 5 * HOUR)
    place.run(NOW - 4 * HOUR, "fct_orders: rule x failed", "fct_payments: rule x failed")
    place.run(NOW - HOUR, selected=["fct_orders"])
    found = place.measure("data_freshness")
    assert found["fct_orders"].state is State.OK
    assert found["fct_payments"].state is State.CRITICAL


@pytest.mark.parametrize("state", ["Crashed", "Running"])
def test_a_run_that_never_ended_has_done_nothing(place: Place, state: str) -> None:
    place.run(NOW - 8 * HOUR)
    place.run(NOW - 3 * HOUR, state=state)
    assert place.measure("data_freshness")["dim_users"].state is State.CRITICAL


def test_where_a_schedule_is_on_data_are_due_at_its_times(place: Place) -> None:
    place.schedules = Switched({"daily": DAILY})
    place.run(datetime(2025, 11, 2, 2, 0, 4, tzinfo=UTC))
    found = place.measure("data_freshness")["fct_orders"]
    assert (found.state, found.value) == (State.CRITICAL, 10 * 3600)
    place.run(datetime(2025, 11, 3, 2, 0, 4, tzinfo=UTC))
    assert place.measure("data_freshness")["fct_orders"].state is State.OK


def test_a_run_of_the_apis_serves_their_hourly_schedule_and_not_the_daily_one(place: Place) -> None:
    place.schedules = Switched(
        {"hourly": Deployment("hourly", "api_ingest", ("10 * * * *",), "2"), "daily": DAILY}
    )
    place.run(datetime(2025, 11, 3, 2, 0, 4, tzinfo=UTC))
    late = place.measure("data_freshness")
    assert late["source:raw_stripe__charges"].value == timedelta(hours=9, minutes=50).total_seconds()
    assert late["fct_orders"].state is State.OK
    place.run(datetime(2025, 11, 3, 11, 10, 4, tzinfo=UTC), flow="api_ingest")
    assert place.measure("data_freshness")["source:raw_stripe__charges"].state is State.OK


def test_what_a_lock_keeps_from_being_seen_is_late_since_then(place: Place) -> None:
    place.run(NOW - 9 * HOUR)
    place.run(NOW - 3 * HOUR, pending=["fct_orders (2025-11) stays as it was: session 7 is in the way."])
    place.execute(
        "insert into ops.pending_publish values ('fct_orders', '2025-11', 'token', 'session 7', "
        "clock_timestamp() - interval '3 hours')"
    )
    found = place.measure("data_freshness")
    assert found["fct_orders"].state is State.CRITICAL
    assert "lock" in found["fct_orders"].message
    assert found["fct_orders"].observed["as_of"] == (NOW - 9 * HOUR).isoformat()
    assert found["fct_payments"].observed["as_of"] == (NOW - 3 * HOUR).isoformat()
    # The next run shows it.
    place.run(NOW - HOUR)
    place.execute("truncate ops.pending_publish")
    assert place.measure("data_freshness")["fct_orders"].state is State.OK


def test_what_a_stream_takes_in_is_up_to_the_minute_or_late(place: Place) -> None:
    place.run(NOW - HOUR)
    _progress(place, "machine-1-ab", 3)
    found = place.measure("data_freshness")
    assert (found["fct_events"].state, found["fct_events"].limit) == (State.OK, 60)
    assert found["user_event_counts"].limit == 60
    assert found["fct_orders"].limit == 3600
    place.execute("update ops.stream_progress set reported_at = clock_timestamp() - interval '10 minutes'")
    found = place.measure("data_freshness")
    assert found["fct_events"].state is State.WARNING
    assert re.search(r"the stream of events has said nothing for 1\d min", found["fct_events"].message)
    place.execute("update ops.stream_progress set reported_at = clock_timestamp() - interval '3 hours'")
    assert place.measure("data_freshness")["fct_events"].state is State.CRITICAL


def test_a_stream_that_died_is_told_until_it_runs_again(place: Place) -> None:
    place.run(NOW - HOUR)
    _progress(place, "machine-1-ab", 9 * 90_000)
    assert place.measure("data_freshness")["fct_events"].state is State.CRITICAL
    assert place.measure("stream_lag")["stream:events"].state is State.WARNING
    prune(place.connection, datetime.now(UTC))
    note_progress(place.connection, "changes-machine-2-cd", **_SAID)
    assert place.measure("stream_lag")["stream:events"].state is State.WARNING
    note_progress(place.connection, "machine-2-cd", **_SAID)
    assert place.measure("stream_lag")["stream:events"].state is State.OK


def test_a_stream_that_ended_because_it_was_to_is_not_waited_for(place: Place) -> None:
    place.run(NOW - HOUR)
    for name in (owner(), owner("changes-")):
        note_progress(place.connection, name, **_SAID)
    note_end(place.services.warehouse)
    place.execute("update ops.stream_progress set reported_at = clock_timestamp() - interval '3 hours'")
    assert place.measure("data_freshness")["fct_events"].state is State.OK
    lag = place.measure("stream_lag")
    assert {one.state for one in lag.values()} == {State.OK}
    assert set(lag) == {"stream:events", "stream:changes"}
    # One that shared its work and died at the same time did not end so.
    _progress(place, "machine-1-ab", 3 * 3600 + 10)
    assert place.measure("stream_lag")["stream:events"].state is State.WARNING


def test_of_one_that_died_nothing_is_told_once_another_of_its_kind_has_run_and_ended_well(
    place: Place,
) -> None:
    place.run(NOW - HOUR)
    for name in ("machine-1-ab", "changes-machine-1-ef"):
        _progress(place, name, 120)
    note_progress(place.connection, owner(), **_SAID)
    note_end(place.services.warehouse)
    for days in (1, 10):
        place.execute(
            "update ops.stream_progress set reported_at = reported_at - %(days)s * interval '25 hours', "
            "ended_at = ended_at - %(days)s * interval '25 hours'".replace("%(days)s", str(days))
        )
        assert place.measure("data_freshness")["fct_events"].state is State.OK
        lag = place.measure("stream_lag")
        assert [(kind, one.state) for kind, one in lag.items()] == [("stream:changes", State.WARNING)]
        prune(place.connection, datetime.now(UTC))


def test_the_lag_of_all_processes_of_a_stream_is_one(place: Place) -> None:
    _progress(place, "machine-1-ab", 3, lag=4_000)
    _progress(place, "machine-2-cd", 4, lag=5_000)
    _progress(place, "changes-machine-1-ef", 2, worst=9.0)
    lag = place.measure("stream_lag")
    assert (lag["stream:events"].value, lag["stream:events"].state) == (9_000, State.WARNING)
    assert lag["stream:changes"].state is State.OK
    latency = place.measure("stream_latency")
    assert (latency["stream:changes"].value, latency["stream:changes"].state) == (9.0, State.WARNING)
    assert latency["stream:events"].state is State.OK


def test_a_stream_that_says_nothing_is_told_once_and_what_to_do(place: Place) -> None:
    _progress(place, "machine-1-ab", 3 * 3600 + 60)
    found = place.measure("stream_lag")["stream:events"]
    assert found.state is State.WARNING
    assert found.message.startswith("The stream of events has said nothing for 3 h ")
    assert "python -m flows stream" in found.action
    assert place.measure("stream_latency") == {}


def test_old_data_are_a_warning_until_the_first_time_of_the_schedule_that_is_to_bring_them(
    place: Place,
) -> None:
    place.schedules = Switched({"daily": replace(DAILY, since=NOW - HOUR)})
    place.run(NOW - 72 * HOUR)
    late = place.measure("data_freshness")["fct_orders"]
    assert (late.state, late.value) == (State.WARNING, 48 * 3600)
    place.later(14.5 * 3600)
    assert place.measure("data_freshness")["fct_orders"].state is State.CRITICAL
