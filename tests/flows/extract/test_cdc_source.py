"""Real Debezium, broker and PostgreSQL: whatever an application does, what is landed equals it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cdc import registration
from tests.flows.capture import Capture
from tests.flows.extract.told import CDC, MARKER, assert_equal, await_marker, land, prepared
from tests.flows.extract.workload import ALTERS, Workload
from tests.flows.streaming.topics import until
from tests.house import House, Server


@pytest.mark.full
@pytest.mark.parametrize(("seed", "transactions"), [(1, 60), (2, 600)])
def test_any_workload_ends_equal_to_the_source(
    house: House, tmp_path: Path, seed: int, transactions: int
) -> None:
    capture = prepared(house, None, tmp_path)
    _run(house, capture, tmp_path, seed, transactions)


@pytest.mark.full
def test_what_was_deleted_while_nobody_captured_is_gone_after_registering_anew(
    house: House, tmp_path: Path
) -> None:
    capture = prepared(house, None, tmp_path)
    try:
        load = Workload(capture.settings.require("app_dsn"), 4)
        load.run(40)
        capture.register(*CDC, MARKER)
        load.run(20)
        land(capture, CDC).lake.close()
        # What nobody has landed yet is of the registration before; then the table goes on unseen.
        capture.app(
            "insert into users (id, created_at, updated_at) values (77, now(), now()), (78, now(), now())"
        )
        until(lambda: {77, 78} <= set(capture.ids("users")), seconds=60)
        registration.unregister(capture.settings, capture.said.append)
        capture.app("delete from users where id = 77", "delete from products", "delete from orders")
        load.run(5)
        capture.register(*CDC, MARKER)
        land(capture, CDC).lake.close()
        load.run(20)
        assert_equal(capture, tmp_path, house.server().database())
    finally:
        capture.end()


@pytest.mark.full
@pytest.mark.parametrize("seed", [3])
def test_any_workload_on_postgresql_15_ends_equal_to_the_source(
    house: House, postgres15: Server, tmp_path: Path, seed: int
) -> None:
    capture = prepared(house, postgres15, tmp_path)
    _run(house, capture, tmp_path, seed, 300)


def _run(house: House, capture: Capture, folder: Path, seed: int, transactions: int) -> None:
    try:
        load = Workload(capture.settings.require("app_dsn"), seed)
        load.run(transactions // 4)
        capture.register(*CDC, MARKER)
        load.run(transactions // 4)
        # A table that is rewritten looks empty to who began to read before (PostgreSQL on ALTER TABLE).
        await_marker(capture)
        land(capture, CDC).lake.close()
        for number in range(len(ALTERS)):
            load.alter(number)
            load.run(transactions // 6)
            land(capture, CDC).lake.close()
        assert_equal(capture, folder, house.server().database())
    finally:
        capture.end()
