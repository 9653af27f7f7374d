"""A rebuild as of a place in the application's log, from changes that real Debezium told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows.as_of import rebuild
from flows.moment import AsOfError, Moment
from flows.progress import Progress
from flows.services import Services
from tests.flows.capture import Capture
from tests.flows.extract.told import CDC, MARKER, land, prepared
from tests.flows.extract.workload import Workload
from tests.house import House

ORDERS = (
    "select id, user_id, product_id, quantity, total_amount, status::text, created_at, updated_at "
    "from orders order by id"
)
USERS = (
    "select id, email, upper(country), plan::text, created_at, updated_at from users where deleted_at is null"
)


def copied(capture: Capture) -> tuple[str, list[Any], list[Any]]:
    """The end of the application's log, and what its tables hold there."""
    ((place,),) = capture.app("select pg_current_wal_lsn()::text")
    return place, capture.app(ORDERS), capture.app(f"{USERS} order by id")


@pytest.mark.full
def test_a_place_in_the_log_gives_what_the_source_held_there(house: House, tmp_path: Path) -> None:
    capture = prepared(house, None, tmp_path)
    try:
        load = Workload(capture.settings.require("app_dsn"), 8)
        load.run(40)
        there = "select (select count(*) from users), (select count(*) from orders) > 0"
        assert capture.app(there) == [(0, True)]
        capture.register(*CDC, MARKER)
        copies, before = [], ""
        for _ in range(2):
            # Two places a landing: a place lies within what one landing brought, too.
            for _ in range(2):
                load.run(15)
                copies.append(copied(capture))
            before = before or datetime.now(UTC).isoformat()
            load.run(5)
            ((mark,),) = capture.app("insert into marker select count(*) from marker returning id")
            capture.come("marker", mark, seconds=120)
            land(capture, CDC).lake.close()
        services = Services(capture.settings)
        with services.lake, Progress("test") as progress:
            # Of users, which were none when they were captured, all is known; of orders it is not.
            with pytest.raises(AsOfError, match="raw_app__orders was read whole for the first time at"):
                rebuild(services, Moment.parse(before), "past", ["dim_users"], progress)
            rebuild(services, Moment.parse(before), "past", ["dim_users_history"], progress)
            for number, (place, orders, users) in enumerate(copies):
                into = f"past_{number}"
                rebuild(services, Moment.parse(place), into, ["fct_orders", "dim_users"], progress)
                with psycopg.connect(capture.settings.require("warehouse_dsn")) as warehouse:
                    found = warehouse.execute(
                        "select order_id, user_id, product_id, quantity, revenue, status, created_at, "
                        f"updated_at from {into}.fct_orders order by order_id".encode()
                    ).fetchall()
                    assert found == orders, f"fct_orders at {place}"
                    known = warehouse.execute(
                        "select user_id, email, country, plan, created_at, updated_at "
                        f"from {into}.dim_users where not (is_deleted or is_inferred) order by 1".encode()
                    ).fetchall()
                    assert known == users, f"dim_users at {place}"
    finally:
        capture.end()
