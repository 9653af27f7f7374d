"""What was promised and kept: minutes and rows by hand, against the ledger."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import timedelta
from unittest import mock

import psycopg
import pytest
from psycopg.types.json import Jsonb

from flows import services
from flows.monitoring.verdict import State
from flows.sla import Objective, Report, burn_verdicts, command, report
from tests.flows.alerting.conftest import Watch


@pytest.fixture
def later(watch: Watch) -> Watch:
    """A day later, so that there is a day to look back on."""
    watch.later(days=1)
    return watch


def _span(
    watch: Watch, subject: str, ago: float, length: float, verdict: str, signal: str = "data_freshness"
) -> None:
    """Minutes [ago, ago - length) before this one had the verdict."""
    since = watch.now - timedelta(minutes=ago)
    until = since + timedelta(minutes=length - 1)
    with psycopg.connect(watch.dsn, autocommit=True) as connection:
        connection.execute(
            "insert into ops.health_span (signal, subject, since, until, verdict) "
            "values (%s, %s, %s, %s, %s)",
            (signal, subject, since, until, verdict),
        )


def _incident(
    watch: Watch,
    ago: float,
    length: float | None,
    severity: str = "critical",
    signal: str = "x",
    about: tuple[str, ...] = (),
) -> None:
    opened = watch.now - timedelta(minutes=ago)
    over = None if length is None else opened + timedelta(minutes=length)
    with psycopg.connect(watch.dsn, autocommit=True) as connection:
        connection.execute(
            "insert into ops.incident (incident_id, cause, signal, subject, severity, opened_at, seen_at, "
            "severity_since, resolved_at, message, about) "
            "values (%s, %s, %s, 's', %s, %s, %s, %s, %s, '', %s)",
            (f"{ago}", f"{signal}:{ago}", signal, severity, opened, opened, opened, over, Jsonb([*about])),
        )


def _check(watch: Watch, run: str, table: str, *results: dict[str, int]) -> None:
    with psycopg.connect(watch.dsn, autocommit=True) as connection:
        for number, observed in enumerate(results):
            failing = observed.pop("failing", 0)
            connection.execute(
                "insert into ops.check_result (run_id, table_name, rule, kind, severity, engine, passed, "
                "failing_rows, observed, checked_at) values (%s, %s, %s, 'accuracy', 'warning', 'duckdb', "
                "%s, %s, %s, %s)",
                (run, table, f"rule_{number}", not failing, failing, Jsonb(observed), watch.now),
            )


def _report(watch: Watch) -> Report:
    with psycopg.connect(watch.dsn, autocommit=True) as connection:
        return report(connection, watch.now)


def _of(found: Report, name: str) -> Objective:
    return next(one for one in found.objectives if one.name == name)


def test_a_table_minute_is_good_bad_or_was_not_measured(later: Watch) -> None:
    _span(later, "fct_orders", 1000, 880, "ok")
    _span(later, "fct_orders", 120, 10, "critical")
    _span(later, "fct_events", 1000, 500, "ok")
    _span(later, "fct_events", 400, 10, "warning")
    _span(later, "fct_events", 300, 100, "unknown")
    found = _of(_report(later), "freshness")
    assert (found.good, found.bad) == (1380, 20)
    # 1,001 minutes of two tables since the first was measured, up to the one that is going on.
    assert found.unmeasured == 2 * 1001 - 1400
    assert found.share == pytest.approx(1380 / 1400)
    # One in a hundred of the minutes of 30 days, of two tables.
    assert found.budget == pytest.approx(864)
    assert found.left == pytest.approx(1 - 20 / 864)
    assert not found.is_met


def test_a_minute_told_twice_counts_once_and_as_the_worse(later: Watch) -> None:
    _span(later, "fct_orders", 100, 50, "ok")
    _span(later, "fct_orders", 60, 20, "critical")
    found = _of(_report(later), "freshness")
    assert (found.good, found.bad) == (40, 20)


def test_uptime_is_measured_minutes_without_an_open_critical_incident(later: Watch) -> None:
    _span(later, "fct_orders", 1000, 900, "ok")
    _incident(later, 500, 10)
    _incident(later, 505, 10)
    _incident(later, 300, 60, severity="warning")
    _incident(later, 200, 60, signal="sla_burn")
    found = _of(_report(later), "uptime")
    assert (found.good, found.bad) == (885, 15)
    assert found.unmeasured == 101


def test_while_the_warehouse_was_away_nobody_measured_and_yet_it_was_down(later: Watch) -> None:
    _span(later, "fct_orders", 1000, 400, "ok")
    _incident(later, 600, 30, signal="warehouse")
    found = _of(_report(later), "uptime")
    assert (found.good, found.bad, found.unmeasured) == (400, 30, 571)


def test_a_row_that_breaks_two_rules_is_one_row(later: Watch) -> None:
    _check(later, "one", "fct_orders", {"rows": 1000}, {"rows": 1000, "failing": 3})
    twice = {"rows": 100, "broken_rows": 5}
    _check(later, "one", "fct_events", {**twice, "failing": 4}, {**twice, "failing": 3}, {"rows": 100})
    found = _of(_report(later), "quality")
    assert (found.good, found.bad) == (1092, 8)
    assert found.is_met


def test_a_budget_that_burns_fast_is_critical_one_that_burns_slowly_a_warning(later: Watch) -> None:
    def states() -> dict[str, State]:
        with psycopg.connect(later.dsn, autocommit=True) as connection:
            return {one.subject: one.state for one in burn_verdicts(connection, later.now)}

    _span(later, "fct_orders", 1400, 1350, "ok")
    assert set(states().values()) == {State.OK}
    _span(later, "fct_orders", 50, 51, "critical")
    assert states() == {"freshness": State.CRITICAL, "uptime": State.OK, "quality": State.OK}
    # Five hours later 51 minutes of three days are bad where 43 may be, and 51 of the last six hours.
    later.later(hours=5)
    _span(later, "fct_orders", 299, 300, "ok")
    assert states()["freshness"] is State.WARNING


def test_what_one_incident_burns_is_told_by_it_and_by_no_other_that_is_open_beside(later: Watch) -> None:
    def states() -> dict[str, State]:
        with psycopg.connect(later.dsn, autocommit=True) as connection:
            found = burn_verdicts(connection, later.now)
        return {one.subject: one.state for one in found if one.state is not State.OK}

    _check(later, "one", "stg_app__orders", {"rows": 1000, "failing": 200})
    assert states() == {"quality": State.CRITICAL}
    _incident(later, 30, None, "warning", signal="disk")
    assert states() == {"quality": State.CRITICAL}
    _incident(later, 25, None, "warning", signal="null_rate", about=("stg_app__users",))
    assert states() == {"quality": State.CRITICAL}
    _incident(later, 20, None, "warning", signal="null_rate", about=("fct_orders",))
    assert states() == {"quality": State.CRITICAL}
    # What is read from there breaks rules by it.
    _incident(later, 15, None, "warning", signal="schema_drift", about=("raw_app__orders",))
    assert states() == {}
    _incident(later, 10, None, "warning", signal="dead_letters", about=("stg_app__orders",))
    assert states() == {"quality": State.CRITICAL}


def test_what_is_late_by_one_incident_is_told_by_it_whatever_else_is_open(later: Watch) -> None:
    _span(later, "fct_orders", 1400, 1350, "ok")
    _span(later, "fct_orders", 50, 51, "critical")
    _incident(later, 50, None, "warning", signal="data_freshness", about=("fct_orders",))
    _incident(later, 40, None, "warning", signal="disk")
    with psycopg.connect(later.dsn, autocommit=True) as connection:
        assert {one.state for one in burn_verdicts(connection, later.now)} == {State.OK}


def test_what_has_stopped_burning_is_not_told_of(later: Watch) -> None:
    _span(later, "fct_orders", 600, 540, "ok")
    _span(later, "fct_orders", 60, 25, "critical")
    _span(later, "fct_orders", 35, 36, "ok")
    with psycopg.connect(later.dsn, autocommit=True) as connection:
        verdict = next(one for one in burn_verdicts(connection, later.now) if one.subject == "freshness")
    # 24 bad minutes of the last hour would be fast, were there one among the last five.
    assert verdict.state is State.OK
    assert verdict.value == pytest.approx(24 / (60 * 0.01))


def test_the_command_shows_each_promise_and_fails_when_one_is_not_kept(
    later: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(services, "open_services", later.services):
        assert command(Namespace(json=False)) == 0
        assert "No minute was measured yet" in capsys.readouterr().out
        _span(later, "fct_orders", 1000, 900, "ok")
        _span(later, "fct_orders", 100, 50, "critical")
        assert command(Namespace(json=False)) == 1
        shown = capsys.readouterr().out
        assert "NOT KEPT" in shown
        assert "fct_orders" in shown
        assert command(Namespace(json=True)) == 1
        found = json.loads(capsys.readouterr().out)
        assert [one["name"] for one in found["objectives"]] == ["freshness", "uptime", "quality"]
        assert found["objectives"][0]["is_met"] is False
