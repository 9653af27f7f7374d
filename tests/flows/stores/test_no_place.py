"""A server that has as many sessions as it takes is there: it is told as full, and nobody starts it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import doctor
from flows.diagnosis.databases import application, warehouse
from flows.monitoring.look import is_away, look
from flows.monitoring.verdict import State
from flows.settings import Settings
from flows.stores import connections
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import NoPlace
from flows.tries import may_pass
from tests.flows.monitoring.conftest import Place
from tests.flows.stores.logins import full

RAISE = "raise what limits them"


@pytest.fixture(autouse=True)
def _nobody_waits_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PLACE_SECONDS", 0.2)


def test_it_is_told_with_what_makes_room_and_may_pass(dsn: str) -> None:
    with full(dsn) as shut, pytest.raises(NoPlace, match=RAISE) as told, Warehouse(shut).connect():
        pass
    assert may_pass(told.value)


def test_a_copy_is_told_so_too(dsn: str) -> None:
    with full(dsn) as shut, pytest.raises(NoPlace, match=RAISE), Warehouse(shut).reading("select 1 as n"):
        pass


def test_the_monitor_says_so_and_not_that_somebody_is_to_start_it(dsn: str, tmp_path: Path) -> None:
    with full(dsn) as shut:
        verdicts = look(Place(shut, tmp_path).services)
    (said,) = [verdict for verdict in verdicts if verdict.signal == "warehouse"]
    assert (said.state, is_away(verdicts)) == (State.CRITICAL, True)
    assert RAISE in said.action
    assert "Start PostgreSQL" not in said.action


@pytest.mark.parametrize("service", ["warehouse", "app"])
def test_so_does_the_doctor(dsn: str, service: str) -> None:
    check = warehouse if service == "warehouse" else application
    with full(dsn) as shut:
        given: dict[str, Any] = {f"{service}_dsn": shut}
        (found,) = doctor._guarded(service, check, Settings(_env_file=None, **given))
    assert not found.well
    assert RAISE in found.advice
