"""An address that no landing has brought yet is known all the same: the application is asked for it."""

from __future__ import annotations

import io
from dataclasses import replace

import psycopg
import pyarrow as pa
import pytest

from flows.erasure import listed
from flows.erasure.erasing import apply_erasures, erase
from flows.extract import repaired
from flows.progress import Progress
from tests.flows import kill_child
from tests.flows.erasure import child
from tests.flows.erasure.world import ADA, Filled
from tests.flows.kill_child import Place
from tests.flows.warehouses import NOW, Warehouses
from transforms import registry

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
NEW, ONLY_THERE = "ada.changed@example.com", 77


@pytest.fixture(scope="module")
def place(warehouses: Warehouses) -> Place:
    """Ada has another address since the last landing, and somebody has signed up."""
    place, app = Filled.build(warehouses).place, warehouses.server.empty()
    with psycopg.connect(app, autocommit=True) as connection:
        connection.execute("create table users (id bigint primary key, email text)")
        connection.execute(
            "insert into users values (%s, %s), (%s, 'late@example.com'), (78, null)",
            (ADA, f" {NEW.title()}", ONLY_THERE),
        )
    return replace(place, app_dsn=app)


def _landed(place: Place, address: str) -> str:
    """What is landed of a bounce of an address."""
    bounces = registry.entity("raw_sendgrid__bounces")
    said = f'{{"email": "{address}", "created": 1762171200, "reason": "full", "status": "5"}}'
    batch, _ = repaired.of_api(bounces, said.encode(), NOW)
    with kill_child.services(place).warehouse.connect() as connection:
        return str(pa.Table.from_batches([listed.arriving(connection, bounces)(batch)]).to_pylist())


def test_an_address_that_only_the_application_has_is_known_when_it_comes(place: Place) -> None:
    assert NEW in _landed(place, NEW)
    child.play(place, ADA)
    assert NEW not in _landed(place, NEW)
    assert "@erased.invalid" in _landed(place, NEW)


def test_whom_only_the_application_has_is_erased_before_they_land(place: Place) -> None:
    child.play(place, ONLY_THERE)
    assert "@erased.invalid" in _landed(place, "late@example.com")


def test_a_restore_that_erases_again_does_not_ask_whose_the_address_is_by_now(place: Place) -> None:
    child.play(place, ONLY_THERE)
    with psycopg.connect(place.app_dsn, autocommit=True) as connection:
        connection.execute("update users set email = 'shared@example.com' where id = %s", (ONLY_THERE,))
    services = kill_child.services(place)
    with services.lake, kill_child.without_audit(), Progress("restore", io.StringIO()) as progress:
        assert apply_erasures(services, progress) is not None
    assert "@erased.invalid" not in _landed(place, "shared@example.com")


def test_an_application_that_is_away_is_told_and_keeps_nobody_from_being_erased(place: Place) -> None:
    away = replace(place, app_dsn="postgresql://app:a-secret@127.0.0.1:1/app")
    services = kill_child.services(away)
    said = io.StringIO()
    with services.lake, kill_child.without_audit(), Progress("erase", said) as progress:
        erase(services, [ONLY_THERE], "", "erase", progress)
    assert "the application could not be asked" in said.getvalue()
    assert "run the same again once it answers" in said.getvalue()
    assert "a-secret" not in said.getvalue()
