"""A table that nothing declares any more ends an erasure before it begins, and the way out that it names is
one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from flows.erasure.identify import CannotErase
from flows.recovery.agreement import refuse_two_stories
from flows.stores import roles
from flows.stores.warehouse import Warehouse
from tests.flows import kill_child
from tests.flows.company import Done, run_here
from tests.flows.erasure import child
from tests.flows.erasure.world import ADA, BOBS, SECRETS, Filled, bytes_of, rows
from tests.flows.kill_child import Place
from tests.flows.stores.logins import login
from tests.flows.warehouses import Warehouses
from transforms import registry
from transforms.registry import Registry

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

ADDRESSES = ("raw_app__addresses", "stg_app__addresses")
"""They hold where somebody lives, and no e-mail address."""


@pytest.fixture(scope="module")
def filled(warehouses: Warehouses) -> Filled:
    return Filled.build(warehouses)


def _take_out(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """From here on nothing declares these tables, of which nothing that is declared reads."""
    there = registry.default()
    left = Registry(
        {name: model for name, model in there.models.items() if name not in names},
        {name: entity for name, entity in there.entities.items() if name not in names},
    )
    monkeypatch.setattr(registry, "default", lambda: left)


def _refused(place: Place) -> str:
    with pytest.raises(CannotErase, match=r"^Nobody was erased yet: ") as refused:
        child.play(place, ADA)
    return str(refused.value)


def _maintain(place: Place, *words: str) -> Done:
    environment = {"ANALYTICS_WAREHOUSE_DSN": place.warehouse_dsn, "ANALYTICS_LAKE": place.lake}
    return run_here(["maintain", *words], Path(place.lake).parent, environment)


def _as_told(place: Place, told: str) -> list[str]:
    """Give the commands that a refusal names; returns the tables."""
    names = re.findall(r"`python -m flows maintain --drop (\S+) --yes`", told)
    for name in names:
        done = _maintain(place, "--drop", name, "--yes")
        assert done.code == 0, done.said
        assert f"{name} is gone" in done.out
    return names


def _standing(place: Place, names: Collection[str]) -> list[object]:
    """Whatever is left of tables."""
    listed = ", ".join(f"'{name}'" for name in names)
    return [
        *rows(place, f"select relname from pg_class where relname in ({listed})"),
        *rows(place, f"select table_name from ops.ledger where table_name in ({listed})"),
        *rows(place, f"select table_name from ops.partition_state where table_name in ({listed})"),
        *rows(place, f"select entity from ops.position where entity in ({listed})"),
        *(path for name in names for path in Path(place.lake).glob(f"*/{name}")),
    ]


def _kept(place: Place) -> list[object]:
    """What the ledger tells, and who is noted as erased."""
    return [
        *rows(place, "select sequence, token from ops.ledger order by 1"),
        *rows(place, "select table_name, partition, version from ops.partition_state order by 1, 2"),
        *rows(place, "select user_id from ops.erasure"),
    ]


@pytest.mark.parametrize(
    "names",
    [("fct_emails",), ("stg_app__addresses",), ADDRESSES],
    ids=["published", "in the lake alone", "a source too"],
)
def test_what_nothing_declares_any_more_is_named_and_removed_as_it_says(
    filled: Filled, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    place = filled.copy()
    _take_out(monkeypatch, *names)
    before, kept = bytes_of(place), _kept(place)

    told = _refused(place)

    assert bytes_of(place) == before
    assert _kept(place) == kept
    assert all(f"{place.lake}/" in line for line in told.splitlines()[1:])
    assert ("what its source no longer has is lost" in told) == ("raw_app__addresses" in names)
    assert _as_told(place, told) == sorted(names)
    assert _standing(place, names) == []

    done = child.play(place, ADA)

    assert [found.found for found in done.places] == [0] * len(done.places)
    left = bytes_of(place).replace(BOBS, "")
    assert [secret for secret in SECRETS if secret in left] == []
    services = kill_child.services(place)
    with services.ledger() as ledger:
        refuse_two_stories(ledger, services.lake)
    assert rows(place, "select user_id from ops.erasure where finished_at is not null") == [(ADA,)]


def test_what_can_hold_nobody_is_in_nobodys_way_until_it_names_somebody(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = filled.copy()
    _take_out(monkeypatch, "mart_email_engagement")
    with psycopg.connect(place.warehouse_dsn) as connection:
        connection.execute("create table analytics.remarks as select 'ask Ada@Example.com' as remark")
    told = _refused(place)
    assert "mart_email_engagement" not in told
    assert "remarks (analytics.remarks): " in told
    assert "`alter table analytics.remarks set schema …`" in told
    rows_of_mart = rows(place, "select count(*) from analytics.mart_email_engagement")

    assert _as_told(place, told) == ["remarks"]
    done = child.play(place, ADA)

    assert [found.found for found in done.places] == [0] * len(done.places)
    assert rows(place, "select count(*) from analytics.mart_email_engagement") == rows_of_mart


def test_nothing_goes_by_mistake_and_what_broke_off_is_completed(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = filled.copy()
    assert "fct_emails is declared" in _maintain(place, "--drop", "fct_emails", "--yes").err
    assert "There is nothing of fct_mails" in _maintain(place, "--drop", "fct_mails", "--yes").err
    assert "--yes belongs to --drop TABLE" in _maintain(place, "--yes").err
    _take_out(monkeypatch, "fct_emails")
    before, kept = bytes_of(place), _kept(place)
    asked = _maintain(place, "--drop", "fct_emails")
    assert asked.code == 2
    assert "personal.fct_emails" in asked.err
    assert "Run again with --yes" in asked.err

    with psycopg.connect(place.warehouse_dsn) as connection:
        connection.execute("create schema theirs")
        connection.execute("create view theirs.mails as select message_id from analytics.fct_emails")
    assert "view theirs.mails depends on" in _maintain(place, "--drop", "fct_emails", "--yes").err
    with psycopg.connect(place.warehouse_dsn) as connection:
        connection.execute("drop view theirs.mails")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("flows.maintenance.undeclared.shutil.rmtree", refuse)
        told = _maintain(place, "--drop", "fct_emails", "--yes").err
    assert f"{place.lake}/facts/fct_emails can't be removed (Permission denied)" in told
    assert bytes_of(place) == before
    assert _kept(place) == kept
    assert rows(place, "select count(*) from analytics.fct_emails") != [(0,)]

    with Warehouse(place.warehouse_dsn).connect() as owner:
        roles.lay(owner)
        roles.hand_over(owner)
    with login(place.warehouse_dsn, "loader") as dsn:
        done = _maintain(replace(place, warehouse_dsn=dsn), "--drop", "fct_emails", "--yes")
    assert done.code == 0, done.said
    assert _standing(place, ["fct_emails"]) == []
