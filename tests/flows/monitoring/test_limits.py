"""From when on something is late: as its table declares it, and not before a worker could have started it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flows.monitoring.schedules import Switched
from flows.monitoring.verdict import State, Verdict
from tests.flows.monitoring.conftest import DAILY, NOW, Place
from transforms import registry


@pytest.mark.parametrize(
    ("hours", "state"), [(2.5, State.OK), (3.5, State.WARNING), (3.9, State.WARNING), (4.1, State.CRITICAL)]
)
def test_what_declares_more_than_an_hour_is_late_after_that_and_critical_an_hour_later(
    place: Place, monkeypatch: pytest.MonkeyPatch, hours: float, state: State
) -> None:
    slow = replace(registry.table("fct_orders"), freshness=timedelta(hours=3))
    tables = tuple(slow if table.name == slow.name else table for table in registry.build_order())
    monkeypatch.setattr(registry, "build_order", lambda: tables)
    place.run(NOW - timedelta(hours=9))
    place.run(NOW - timedelta(hours=hours), "raw_app__orders: it did not answer", skipped=["fct_orders: x"])
    found = place.measure("data_freshness")["fct_orders"]
    assert (found.state, found.limit) == (state, 3 * 3600)


@pytest.mark.parametrize(("minute", "state"), [(9, State.OK), (11, State.WARNING)])
def test_a_worker_has_ten_minutes_to_start_what_is_due(
    place: Place, monkeypatch: pytest.MonkeyPatch, minute: int, state: State
) -> None:
    due_now = datetime(2025, 11, 3, 2, tzinfo=UTC)
    monkeypatch.setattr("flows.monitoring.schedules.started", lambda _, deployment, due: due < due_now)
    place.schedules = Switched({"daily": DAILY})
    place.moment[0] = due_now + timedelta(minutes=minute)
    assert place.measure("missing_run")["deployment:daily"].state is state


def test_that_a_signal_could_not_be_measured_is_forgotten_though_it_has_nothing_to_say_now(
    place: Place,
) -> None:
    unknown = Verdict("stream_lag", "everything", State.UNKNOWN, NOW, message="m")
    place.record(unknown)
    place.later(60)
    place.record(Verdict("disk", "lake", State.OK, place.moment[0]))
    assert place.execute("select signal from ops.health") == [("disk",)]
