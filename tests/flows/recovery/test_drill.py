"""A rehearsal that can not come to its end says so where the monitor looks."""

from __future__ import annotations

from typing import Any

import duckdb
import psycopg
import pytest
from pydantic import SecretStr

from flows.recovery import drill
from flows.recovery.programs import ProgramError
from flows.recovery.seal import SealError
from flows.recovery.taking import take
from flows.recovery.vault import BackupError
from flows.services import Services
from flows.stores.locks import DRILL_LOCK
from flows.stores.warehouse import WarehouseError
from tests.flows.recovery.conftest import KEY, unseen


def _drills(services: Services) -> list[tuple[Any, ...]]:
    with psycopg.connect(services.settings.require("warehouse_dsn")) as connection:
        return connection.execute(
            "select is_equal, differences from ops.drill order by started_at, drill_id"
        ).fetchall()


def test_a_drill_that_breaks_off_stands_as_one_that_has_not_led_back(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_key = Services(services.settings.model_copy(update={"backup_key": SecretStr(KEY)}))
    with with_key.lake:
        take(with_key, unseen())
    with pytest.raises(SealError):
        drill.drill(services, None, unseen())
    ((is_equal, (said,)),) = _drills(services)
    assert not is_equal
    assert said.startswith("it broke off: ")

    def refuse(*_: object) -> None:
        with pytest.raises(BackupError, match="Another drill is under way"):
            drill.drill(with_key, None, unseen())
        # Nothing else says yet how this one ends.
        assert _drills(services)[1:] == [(False, [])]
        raise ProgramError("pg_restore: could not read the dump")

    monkeypatch.setattr(drill, "_rehearse", refuse)
    with pytest.raises(ProgramError):
        drill.drill(with_key, None, unseen())
    assert _drills(services)[1:] == [(False, ["it broke off: pg_restore: could not read the dump"])]
    with services.ledger() as ledger:
        assert ledger.is_ours(*DRILL_LOCK), "whoever comes next need not wait for a session to end"


def test_a_drill_that_breaks_off_tells_no_row_and_says_why_though_it_can_not_be_entered(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with services.lake:
        take(services, unseen())

    def break_off(*_: object) -> None:
        raise duckdb.ConversionException("Could not convert string 'eve@example.com' to INT64")

    monkeypatch.setattr(drill, "_rehearse", break_off)
    with pytest.raises(WarehouseError):
        drill.drill(services, None, unseen())
    ((_, (said,)),) = _drills(services)
    assert said == "it broke off: ConversionException: Could not convert string *** to INT64"

    def go_away(*_: object) -> None:
        monkeypatch.setattr(services.warehouse, "connect", refused)
        raise ProgramError("pg_restore: could not read the dump")

    def refused() -> None:
        raise WarehouseError("The connection to the warehouse failed.")

    monkeypatch.setattr(drill, "_rehearse", go_away)
    with pytest.raises(ProgramError):
        drill.drill(services, None, unseen())
    assert _drills(services)[1:] == [(False, [])]
