"""What lasts, comes back, becomes worse: when somebody is told again, and when not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import psycopg

from flows.alerts import acknowledge
from flows.monitoring.verdict import State
from tests.flows.alerting.conftest import Watch

LATE = "data_freshness"


def _kinds(watch: Watch, state: State) -> list[str]:
    told = watch.minute(watch.verdict(LATE, "fct_orders", state))
    return [message["kind"] for message in told if "fct_orders" in message["title"]]


def test_what_was_escalated_as_a_warning_is_escalated_again_once_it_lasts_as_critical(watch: Watch) -> None:
    _kinds(watch, State.WARNING)
    watch.later(hours=8)
    assert _kinds(watch, State.WARNING) == ["escalated"]
    assert _kinds(watch, State.CRITICAL) == ["escalated"]
    watch.later(minutes=25)
    assert _kinds(watch, State.CRITICAL) == []
    watch.later(minutes=5)
    assert _kinds(watch, State.CRITICAL) == ["escalated"]
    watch.later(days=3)
    assert _kinds(watch, State.CRITICAL) == []


def test_who_is_on_a_warning_is_not_on_it_once_it_is_critical(watch: Watch) -> None:
    _kinds(watch, State.WARNING)
    ((incident,),) = watch.rows("select incident_id from ops.incident")
    with psycopg.connect(watch.dsn, autocommit=True) as connection:
        acknowledge(connection, incident, "eve", watch.now)
    assert _kinds(watch, State.CRITICAL) == ["escalated"]
    watch.later(minutes=30)
    assert _kinds(watch, State.CRITICAL) == ["escalated"]


def test_what_comes_back_while_it_is_to_be_well_for_a_while_begins_that_while_anew(watch: Watch) -> None:
    for state in (State.WARNING, State.OK, State.WARNING):
        _kinds(watch, state)
    for _ in range(3):
        assert _kinds(watch, State.OK) == []
        watch.later(minutes=10)
        assert _kinds(watch, State.WARNING) == []
    assert _kinds(watch, State.OK) == []
    watch.later(minutes=13)
    assert _kinds(watch, State.OK) == []
    assert _kinds(watch, State.OK) == ["resolved"]


def test_what_is_well_and_not_yet_over_is_not_escalated(watch: Watch) -> None:
    for state in (State.CRITICAL, State.OK, State.CRITICAL):
        _kinds(watch, state)
    watch.later(minutes=28)
    assert _kinds(watch, State.OK) == []
    watch.later(minutes=5)
    assert _kinds(watch, State.OK) == []


def test_a_route_of_a_table_takes_what_touches_it(watch: Watch) -> None:
    watch.write(
        f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{table: 'mv_daily_revenue', channels: [log]}}]\n"
    )
    assert _kinds(watch, State.WARNING) == ["opened"]
    assert watch.minute(watch.verdict(LATE, "fct_emails", State.WARNING)) == []


def test_of_what_no_signal_speaks_any_more_the_incident_is_over_after_a_day(watch: Watch) -> None:
    _kinds(watch, State.WARNING)
    watch.later(hours=23)
    watch.minute()
    assert watch.open() == ["fct_orders"]
    watch.later(hours=1)
    watch.minute()
    assert watch.open() == []


def test_a_message_says_since_when_it_is_so_and_the_list_what_is_so_now(watch: Watch) -> None:
    bad = watch.verdict(LATE, "fct_orders", State.WARNING)
    (told,) = watch.minute(replace(bad, since=watch.now - timedelta(hours=2)))
    assert "Since:    2025-11-03 10:00 UTC (2 h 1 min)" in told["body"]
    watch.minute(replace(bad, message="fct_orders is later still."))
    assert watch.rows("select message from ops.incident") == [("fct_orders is later still.",)]


def test_what_had_to_be_well_for_a_while_is_over_since_it_was_well(watch: Watch) -> None:
    for state in (State.WARNING, State.OK, State.WARNING, State.OK):
        _kinds(watch, state)
    well_since = watch.now
    watch.later(minutes=14)
    assert _kinds(watch, State.OK) == ["resolved"]
    assert watch.rows("select max(resolved_at) from ops.incident") == [(well_since,)]


def test_what_failed_with_a_cause_stays_with_it_though_what_led_to_it_is_well(watch: Watch) -> None:
    """By nulls in the history nulls in the dimension are explained, and by those what moved there; what moved
    is not explained by the history.
    """
    history, dimension = (
        watch.verdict("null_rate", f"{table}.plan", State.WARNING)
        for table in ("dim_users_history", "dim_users")
    )
    moved = watch.verdict("distribution_drift", "dim_users.plan", State.WARNING)
    assert len(watch.minute(history, dimension, moved)) == 1
    well = replace(dimension, state=State.OK)
    assert watch.minute(history, well, moved) == []
    assert watch.open() == ["dim_users_history.plan"]


def test_an_incident_is_not_over_while_what_failed_with_it_is_not_measured(watch: Watch) -> None:
    source = watch.verdict("schema_drift", "source:raw_app__orders")
    watch.minute(source, watch.verdict(LATE, "fct_orders"))
    well = replace(source, state=State.OK)
    assert watch.minute(well) == []
    assert watch.minute(well, watch.verdict(LATE, "everything", State.UNKNOWN)) == []
    assert [one["kind"] for one in watch.minute(well, watch.verdict(LATE, "fct_orders", State.OK))] == [
        "resolved"
    ]


def test_what_began_by_a_clock_that_was_ahead_is_escalated_and_over_as_anything_else(watch: Watch) -> None:
    year = timedelta(days=365)
    watch.moment[0] += year
    assert _kinds(watch, State.CRITICAL) == ["opened"]
    watch.moment[0] -= year
    assert _kinds(watch, State.CRITICAL) == []
    watch.later(minutes=30)
    assert _kinds(watch, State.CRITICAL) == ["escalated"]
    assert _kinds(watch, State.OK) == ["resolved"]
    assert "RESOLVED after 32 min" in watch.messages()[-1]["title"]


def test_what_a_clock_that_was_ahead_could_not_send_goes_and_the_channel_is_well_then(watch: Watch) -> None:
    year, mended = timedelta(days=365), watch.routes.read_text()
    watch.write("channels: {log: 'file:///proc/no/such/file'}\nroutes: [{channels: [log]}]\n")
    watch.moment[0] += year
    _kinds(watch, State.CRITICAL)
    watch.moment[0] -= year
    watch.write(mended)
    assert _kinds(watch, State.CRITICAL) == ["opened"]
    watch.minute(watch.verdict(LATE, "fct_orders"))
    assert watch.open() == ["fct_orders"]


def test_what_was_sent_by_a_clock_that_was_ahead_does_not_hide_that_the_channel_is_broken(
    watch: Watch,
) -> None:
    year = timedelta(days=365)
    watch.moment[0] += year
    assert _kinds(watch, State.CRITICAL) == ["opened"]
    watch.moment[0] -= year
    watch.write("channels: {log: 'file:///proc/no/such/file'}\nroutes: [{channels: [log]}]\n")
    watch.minute(watch.verdict(LATE, "fct_orders"), watch.verdict(LATE, "fct_emails"))
    assert "channel:log" in watch.open()
