"""A rehearsal that can not come to its end says so where the monitor looks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from pydantic import SecretStr

from flows import prepare
from flows.recovery import drill
from flows.recovery.programs import ProgramError
from flows.recovery.restoring import notes_of, restore, workplace
from flows.recovery.seal import SealError
from flows.recovery.taking import open_vault, take
from flows.recovery.vault import BackupError
from flows.recovery.whole import from_lake
from flows.services import Services
from flows.stores.locks import DRILL_LOCK
from flows.stores.publish import publish
from flows.stores.warehouse_errors import WarehouseError
from tests.flows.recovery.conftest import KEY, filled, unseen
from tests.flows.stores.world import built
from tests.flows.warehouses import with_tables
from tests.house import EACH_VERSION, House
from transforms import registry
from warehouse_ddl.files import bootstrap


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


@pytest.fixture(params=EACH_VERSION)
def live(house: House, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Services]:
    """A warehouse with all tables, of which one holds something, on each version that is served."""
    with filled(with_tables(house.server(request.param)), tmp_path) as services:
        _publish(
            services, "dim_currencies", "", "SELECT 'EUR' AS currency, 2 AS minor_digits, 100 AS minor_units"
        )
        yield services


def _publish(services: Services, name: str, partition: str, query: str) -> None:
    item = built(services.lake, registry.table(name), partition, query, batch=f"b{len(query)}")
    publish(registry.table(name), [item], warehouse=services.warehouse, lake=services.lake)


def _do(services: Services, *statements: str) -> None:
    with psycopg.connect(services.settings.require("warehouse_dsn"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_a_backup_from_before_a_table_and_columns_were_added_leads_to_what_is_live(
    live: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    _do(
        live,
        "drop table analytics.user_event_counts",
        "alter table analytics.dim_currencies drop column minor_units",
    )
    take(live, unseen())
    newer = [*bootstrap()[:-1], "alter table ops.bootstrap add column if not exists later text", "reset role"]
    monkeypatch.setattr("flows.stores.roles.bootstrap", lambda: newer)
    prepare.tables(live, unseen())
    _publish(live, "dim_currencies", "", "SELECT 'JPY' AS currency, 0 AS minor_digits, 1 AS minor_units")
    _publish(
        live,
        "user_event_counts",
        "2025-10-07",
        "SELECT 1 AS user_id, timestamptz '2025-10-07 10:00:00+00' AS window_start, 3 AS event_count, "
        "timestamptz '2025-10-07 10:05:00+00' AS window_end, 1 AS revision, true AS is_final",
    )

    done = drill.drill(live, None, unseen())

    assert done.differences == []
    assert done.replayed == 2
    assert done.unshared == []


@pytest.mark.full
def test_what_live_does_not_have_yet_of_the_models_of_today_is_left_out_and_told(live: Services) -> None:
    _do(live, "alter table analytics.dim_currencies drop column minor_units")
    take(live, unseen())

    done = drill.drill(live, None, unseen())

    assert done.differences == []
    assert done.unshared == ["analytics.dim_currencies.minor_units"]
    _do(live, "update analytics.dim_currencies set minor_digits = 3")
    (told,) = drill.drill(live, None, unseen()).differences
    assert "analytics.dim_currencies: live there is" in told


@pytest.mark.full
def test_a_drill_restores_though_its_server_lacks_roles_and_what_others_have_in_the_database(
    live: Services,
) -> None:
    name = f"t_grafana_{secrets.token_hex(4)}"
    _do(
        live,
        f"create role {name}",
        f"grant select on analytics.dim_currencies to {name}",
        "create schema bi",
        "create view bi.mine as select currency from analytics.dim_currencies",
    )
    try:
        take(live, unseen())
        assert drill.drill(live, None, unseen()).differences == []
    finally:
        _do(live, f"drop owned by {name}", f"drop role {name}")


@pytest.mark.full
def test_a_table_that_has_to_be_rebuilt_is_made_of_what_the_lake_has_now(
    live: Services, house: House
) -> None:
    _do(live, "alter table analytics.dim_currencies alter minor_digits type bigint")
    take(live, unseen())
    (old,) = (live.lake.root / "dimensions" / "dim_currencies").rglob("*.parquet")
    prepare.tables(live, unseen())
    _publish(live, "dim_currencies", "", "SELECT 'JPY' AS currency, 0 AS minor_digits, 1 AS minor_units")
    old.unlink()  # as a sweep does an hour later

    assert drill.drill(live, None, unseen()).differences == []
    target = house.server().empty()
    vault = open_vault(live)
    with workplace(vault) as work:
        restore(vault, vault.find(), target, work)
    settings = live.settings.model_copy(update={"warehouse_dsn": SecretStr(target)})
    from_lake(Services(settings), unseen())
    name = "analytics.dim_currencies"
    assert notes_of(target)[name] == notes_of(live.settings.require("warehouse_dsn"))[name]
