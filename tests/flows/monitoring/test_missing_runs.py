"""A deployment is missing from when it was to start and nobody did its work, until somebody does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flows.alerting.made_good import noted
from flows.flow_names import BY_HAND
from flows.monitoring.health import check_pipeline_health
from flows.monitoring.schedules import Deployment, Switched
from flows.monitoring.verdict import State
from tests.flows.monitoring.conftest import DAILY, NOW, Place

HOUR = timedelta(hours=1)


def test_a_deployment_that_did_not_run_in_time_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[datetime] = []

    def started(_: object, deployment: Deployment, since: datetime) -> bool:
        asked.append(since)
        return False

    monkeypatch.setattr("flows.monitoring.schedules.started", started)
    place.schedules = Switched({"daily": DAILY})
    found = place.measure("missing_run")
    assert (found["deployment:daily"].state, found["deployment:daily"].value) == (State.CRITICAL, 10 * 3600)
    assert asked == [datetime(2025, 11, 3, 2, tzinfo=UTC)]
    # Schedules of the sandbox are off: what is off is not missing.
    assert {verdict.state for subject, verdict in found.items() if subject != "deployment:daily"} == {
        State.OK
    }
    place.run(datetime(2025, 11, 3, 2, 0, 9, tzinfo=UTC), "fct_orders: rule x failed")
    assert place.measure("missing_run")["deployment:daily"].state is State.OK


SUNDAYS = "0 5 * * 0"


def _nothing_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.monitoring.schedules.started", lambda *_: False)


def _on(name: str, flow: str, cron: str, since: datetime | None = None) -> Switched:
    return Switched({name: Deployment(name, flow, (cron,), "1", since, "of our own")})


def test_what_was_due_before_its_schedule_was_switched_on_was_nobodys_to_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nothing_started(monkeypatch)
    place.schedules = _on("drill", "drill", SUNDAYS, NOW - HOUR)  # on a Monday
    assert place.measure("missing_run")["deployment:drill"].state is State.OK
    place.later(7 * 86_400)
    late = place.measure("missing_run")["deployment:drill"]
    assert (late.state, late.value) == (State.CRITICAL, 31 * 3600)


def test_what_a_look_has_seen_on_is_on_since_then_however_often_it_is_deployed_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nothing_started(monkeypatch)
    place.schedules = _on("daily", "analytics_pipeline", "0 2 * * *", NOW - 20 * HOUR)
    place.run(NOW - 21 * HOUR)
    place.record(*place.measure("missing_run").values())
    place.schedules = _on("daily", "analytics_pipeline", "0 2 * * *", NOW - HOUR)
    assert place.measure("missing_run")["deployment:daily"].state is State.CRITICAL
    assert place.measure("data_freshness")["fct_orders"].value == 10 * 3600
    # Switched off and on again it begins anew.
    place.schedules = Switched(paused=frozenset({"daily"}))
    place.record(*place.measure("missing_run").values())
    place.schedules = _on("daily", "analytics_pipeline", "0 2 * * *", NOW - HOUR)
    assert place.measure("missing_run")["deployment:daily"].state is State.OK
    assert place.measure("data_freshness")["fct_orders"].state is State.OK


@pytest.mark.parametrize(
    ("name", "cron", "about", "state"),
    [
        ("drill", SUNDAYS, (), State.OK),
        ("backup", "0 4 * * *", (), State.OK),
        # A copy of the server's files is not what each night promises.
        ("backup", "0 4 * * *", ("physical",), State.CRITICAL),
    ],
)
def test_who_does_by_hand_what_did_not_start_ends_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str, cron: str, about: tuple[str, ...], state: State
) -> None:
    _nothing_started(monkeypatch)
    place.schedules = _on(name, name, cron)
    missing = place.measure("missing_run")[f"deployment:{name}"]
    assert missing.state is State.CRITICAL
    assert BY_HAND[name] in missing.action
    assert "prefect worker start --pool 'of our own'" in missing.action
    with noted(place.services, name, about):
        place.later(60)
    assert place.measure("missing_run")[f"deployment:{name}"].state is state


def test_what_was_at_work_by_hand_when_it_was_due_did_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nothing_started(monkeypatch)
    place.schedules = _on("maintain", "maintain", "30 3 * * *")
    place.moment[0] = datetime(2025, 11, 3, 3, 20, tzinfo=UTC)
    with noted(place.services, "maintain"):
        place.later(15 * 60)
    place.later(3600)
    assert place.measure("missing_run")["deployment:maintain"].state is State.OK
    place.later(86_400)
    assert place.measure("missing_run")["deployment:maintain"].state is State.WARNING


def test_a_run_of_the_batch_does_what_the_hourly_one_was_to_do_and_one_of_some_tables_does_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nothing_started(monkeypatch)
    place.schedules = _on("hourly", "api_ingest", "10 * * * *")
    place.run(NOW - HOUR / 2, selected=["fct_payments"])
    assert place.measure("missing_run")["deployment:hourly"].state is State.WARNING
    place.run(NOW - HOUR / 4)
    assert place.measure("missing_run")["deployment:hourly"].state is State.OK


def test_a_stream_that_somebody_has_started_does_the_work_of_the_shift_that_did_not_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nothing_started(monkeypatch)
    place.schedules = _on("stream", "event_stream", "0 * * * *")
    assert place.measure("missing_run")["deployment:stream"].state is State.WARNING
    place.execute(
        "insert into ops.stream_progress values "
        "('machine-1-ab', clock_timestamp(), 1, 1, 1, 1, 1, 1, 0, 0, 0)"
    )
    assert place.measure("missing_run")["deployment:stream"].state is State.OK


def test_while_prefect_cannot_be_asked_one_verdict_says_that_nothing_is_known(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Switched(problem="Prefect's server does not answer.")
    monkeypatch.setattr("flows.monitoring.schedules.ask", lambda _: away)
    place.run(NOW - HOUR)
    found = [one for one in check_pipeline_health(place.services) if one.signal == "missing_run"]
    assert [(one.subject, one.state) for one in found] == [("everything", State.UNKNOWN)]
    assert found[0].message == "missing_run could not be measured: Prefect's server does not answer."
