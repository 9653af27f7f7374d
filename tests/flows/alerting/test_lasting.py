"""What lasts, comes back, becomes worse: when somebody is told again, and when not."""

from __future__ import annotations

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
