"""Backups and drills: late where they are promised, and loud where the way back does not lead back."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from flows.monitoring import recovery
from flows.monitoring.schedules import Deployment, Switched
from flows.monitoring.verdict import State
from tests.flows.monitoring.conftest import NOW, Place

BOTH = Switched({name: Deployment(name, name, ("0 4 * * *",), "1") for name in ("backup", "drill")})


def _backup(place: Place, taken_at: datetime) -> None:
    place.execute(
        "insert into ops.backup values (%s, 'folder', 1, 1, 1, 1, false, 1.0, %s)",
        taken_at.isoformat(),
        taken_at,
    )


def _drill(place: Place, started_at: datetime, *differences: str) -> None:
    place.execute(
        "insert into ops.drill values (%s, 'backup', %s, 1.0, 1.0, 1.0, 1, 1, %s, %s)",
        started_at.isoformat(),
        not differences,
        Jsonb(differences),
        started_at,
    )


def test_a_backup_that_is_promised_and_not_taken_is_late(place: Place) -> None:
    place.schedules = BOTH
    assert place.measure("backup")["warehouse"].state is State.WARNING
    _backup(place, NOW)
    assert place.measure("backup")["warehouse"].state is State.OK
    place.later(timedelta(hours=27).total_seconds())
    late = place.measure("backup")["warehouse"]
    assert (late.state, late.value) == (State.WARNING, 27 * 3600.0)
    assert f"{NOW:%Y-%m-%d %H:%M}" in late.message


def test_where_no_schedule_promises_them_nothing_is_late(place: Place) -> None:
    for signal in ("backup", "drill"):
        verdict = place.measure(signal)["warehouse"]
        assert (verdict.state, verdict.message) == (State.OK, "")


def test_a_drill_that_does_not_lead_back_is_critical_until_one_does(place: Place) -> None:
    _drill(place, NOW - timedelta(hours=2), "analytics.fct_orders: the sum of revenue is 1 in place of 2")
    failed = place.measure("drill")["warehouse"]
    assert failed.state is State.CRITICAL
    assert "analytics.fct_orders: the sum of revenue is 1" in failed.message
    _drill(place, NOW - timedelta(hours=1))
    assert place.measure("drill")["warehouse"].state is State.OK


def test_a_drill_that_was_killed_is_critical_and_one_that_is_under_way_is_not(place: Place) -> None:
    _drill(place, NOW - timedelta(days=1))
    _drill(place, NOW - timedelta(hours=1), "")
    place.execute("update ops.drill set differences = '[]' where not is_equal")
    with place.services.ledger() as ledger:
        assert ledger.is_ours("drill", "warehouse")
        assert place.measure("drill")["warehouse"].state is State.OK
    killed = place.measure("drill")["warehouse"]
    assert killed.state is State.CRITICAL
    assert killed.message.endswith("it did not come to its end")


def test_a_drill_that_ends_or_begins_while_the_monitor_looks_was_not_killed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _drill(place, NOW - timedelta(days=1))
    _drill(place, NOW - timedelta(hours=1), "")
    under_way = "update ops.drill set differences = '[]' where not is_equal"
    place.execute(under_way)

    def ends(*_: object) -> bool:
        place.execute("update ops.drill set is_equal = true")
        return False

    monkeypatch.setattr(recovery, "is_anybodys", ends)
    assert place.measure("drill")["warehouse"].state is State.OK

    def begins(*_: object) -> bool:
        _drill(place, NOW, "")
        place.execute(under_way)
        return False

    monkeypatch.setattr(recovery, "is_anybodys", begins)
    assert place.measure("drill")["warehouse"].state is State.OK


def test_a_way_back_that_was_not_gone_for_longer_than_a_week_is_told(place: Place) -> None:
    place.schedules = BOTH
    _drill(place, NOW - timedelta(days=7))
    assert place.measure("drill")["warehouse"].state is State.OK
    place.later(timedelta(days=2).total_seconds())
    assert place.measure("drill")["warehouse"].state is State.WARNING


def test_while_nobody_knows_what_is_promised_a_backup_that_is_missing_is_told(place: Place) -> None:
    place.schedules = Switched(problem="Prefect does not answer")
    assert place.measure("backup")["warehouse"].state is State.WARNING
