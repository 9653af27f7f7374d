"""Facts joined as of their time: what changes in a history costs the windows that it concerns, no others."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows import landing
from flows.build.job import build
from flows.build.states import planner_states
from flows.extract.postgres_types import schema
from flows.landed import LANDED_ON, landed_schema, with_place
from flows.planner import PartitionState, differing, plan
from flows.sandbox.world import app
from flows.services import Services
from flows.stores.manifest import Commit
from flows.stores.migrate import migrate
from tests.flows.extract.parts import World
from tests.flows.modes import read_by_rows
from tests.house import House
from transforms import catalog, registry
from transforms.contract import ContractError
from transforms.model import load

SCHEMA = (Path(app.__file__).parent / "app_schema.sql").read_text(encoding="utf-8")
MART = "mart_plan_revenue"
TABLES = registry.select(
    "+dim_users +dim_products dim_date dim_currencies +dim_users_history +fct_orders +mart_plan_revenue"
)


def run(services: Services) -> dict[str, list[str]]:
    """Land users and orders and build what is due, as a batch does; the windows whose content changed."""
    changed = {}
    for name in ("users", "orders"):
        entity = read_by_rows(registry.entity(f"raw_app__{name}"))
        landing.land(services, entity, os.urandom(4).hex())
    for name in TABLES:
        table = registry.table(name)
        with services.ledger() as ledger:
            states = planner_states(ledger, [name, *table.upstreams])
        work = plan(table, registry.tables(), states, catalog.fingerprint(table), services.settings.now())
        if work.due:
            changed[name] = build(services, work, work.due, os.urandom(4).hex()).partitions
    return changed


def test_a_late_correction_of_a_history_corrects_the_windows_it_concerns_and_no_others(
    house: House, tmp_path: Path
) -> None:
    world = World.build(house.server(), tmp_path)
    services = world.services()
    for name in TABLES:
        if registry.table(name).is_published:
            migrate(services.warehouse, services.lake, registry.table(name), yes=True)
    world.app(
        SCHEMA,
        "insert into users (id, plan, created_at, updated_at) "
        "values (1, 'free', '2025-01-01', '2025-01-01'), (2, 'team', '2025-01-01', '2025-01-01')",
        "insert into orders select md5(n::text)::uuid, n % 2 + 1, 1, 1, 10, 0, 10, 'EUR', null, 'paid', "
        "make_timestamptz(2025, n, 15, 0, 0, 0), make_timestamptz(2025, n, 15, 0, 0, 0) "
        "from generate_series(1, 9) as n",
    )
    run(services)
    assert plans(world) == [("free", 4), ("team", 5)]

    # A new version begins in September: only what lies behind is asked again.
    world.app("update users set plan = 'pro', updated_at = '2025-09-01' where id = 2")
    changed = run(services)
    assert changed["dim_users_history"] == [""]
    assert changed[MART] == ["2025-09"]
    assert plans(world) == [("free", 4), ("pro", 1), ("team", 4)]

    # Nothing that the mart can see: the user's country, from October on.
    world.app("update users set country = 'DE', updated_at = '2025-10-01' where id = 1")
    assert run(services).get(MART, []) == []

    # A version of April, landed late among those that were landed then.
    land_between(services, id=2, plan="pro", created_at=moment(1), updated_at=moment(4))
    changed = run(services)
    assert changed[MART] == [f"2025-{month:02d}" for month in range(4, 9) if month % 2]
    assert plans(world) == expected(world)
    assert plans(world) == [("free", 4), ("pro", 3), ("team", 2)]
    services.lake.close()


def moment(month: int) -> datetime:
    return datetime(2025, month, 1, tzinfo=UTC)


def land_between(services: Services, **row: object) -> None:
    """A row of the users, as a landing brings it whose time is just behind the first one's."""
    users = read_by_rows(registry.entity("raw_app__users"))
    wanted = schema(users)
    batch = pa.RecordBatch.from_pylist([dict.fromkeys(wanted.names) | row | {"_op": "r"}], wanted)
    with services.ledger() as ledger:
        first, position = ledger.landed(users.table)[0].landed_at, ledger.positions(users.table)
        assert first is not None
        at = first + timedelta(microseconds=1)
        placed = with_place(batch, "late", at)
        reader = pa.RecordBatchReader.from_batches(landed_schema(wanted), [placed])
        file = services.lake.write("raw", users.table, LANDED_ON, f"{at:%Y-%m-%d}", "late", reader)
        commit = Commit(
            token="late",
            kind="land",
            layer="raw",
            table=users.table,
            run_id="late",
            add=(file,),
            positions=position.positions,
            windows={"": 1},
            row_count=1,
            landed_at=at,
        )
        ledger.record(services.lake, commit, version=position.version, within=lambda _: None)


def plans(world: World) -> list[tuple[Any, ...]]:
    return world.warehouse(f"select plan, sum(orders)::int from analytics.{MART} group by 1 order by 1")


def expected(world: World) -> list[tuple[Any, ...]]:
    """The same asked of PostgreSQL over the published history."""
    return world.warehouse(
        "select coalesce(h.plan, 'unknown'), count(*)::int from analytics.fct_orders as o left join "
        "analytics.dim_users_history as h on h.user_id = o.user_id and h.valid_from <= o.created_at "
        "and (h.valid_to is null or h.valid_to > o.created_at) group by 1 order by 1"
    )


# -------------------------------------------------------------------------------------------------- planning


def due(days: dict[str, tuple[str, int]]) -> list[str]:
    """Windows of the mart that are due, its history having changed as `days` says: day → (token, sequence).

    Built of three months when the history's last commit was h1.
    """
    table = registry.table(MART)
    months = ["2025-08", "2025-09", "2025-10"]
    orders = {month: PartitionState(f"orders-{month}", 1, rows=10) for month in months}
    history = {"": PartitionState("h1", 2, rows=5)}
    states = {"fct_orders": orders, "dim_users_history": history}
    first = {**states, differing("dim_users_history"): {"": PartitionState("h1", 2)}}
    built = plan(table, registry.tables(), first, "v1").due
    standing = {item.partition: PartitionState("m", 3, "v1", item.based_on, 1) for item in built}
    now = {**first[differing("dim_users_history")]} | {
        day: PartitionState(token, sequence) for day, (token, sequence) in days.items()
    }
    again = {**states, differing("dim_users_history"): now, MART: standing}
    return plan(table, registry.tables(), again, "v1").partitions


@pytest.mark.parametrize(
    ("days", "windows"),
    [
        ({}, []),
        ({"2025-10-07": ("h2", 4)}, ["2025-10"]),
        ({"2025-10-07": ("h3", 5), "2025-09-30": ("h2", 4)}, ["2025-09", "2025-10"]),
        ({"2025-11-01": ("h2", 4)}, []),
        ({"2025-01-01": ("h2", 4)}, ["2025-08", "2025-09", "2025-10"]),
    ],
)
def test_what_a_history_says_otherwise_from_a_day_on_is_due_from_that_day_on(
    days: dict[str, tuple[str, int]], windows: list[str]
) -> None:
    assert due(days) == windows


# ---------------------------------------------------------------------------------------------- declarations

TEXT = """
/* ---
grain: one row per order
key: [order_id]
{header}
--- */
select
    o.order_id::uuid as order_id, -- Order
    h.plan::varchar as plan -- Plan then
from fct_orders as o
{join} dim_users_history as h on o.user_id = h.user_id and o.created_at >= h.valid_from
"""


@pytest.mark.parametrize(
    ("header", "join", "says"),
    [
        ("", "asof left join", "write e.g. `as_of: {dim_users_history: created_at}`"),
        ("as_of: {dim_users_history: created_at}", "left join", "the text does not join it so"),
        ("as_of: {dim_users_history: updated_at}", "asof left join", "the text does not join it so"),
        ("as_of: {dim_users: created_at}", "asof left join", "as_of names dim_users at created_at"),
    ],
)
def test_header_and_text_say_the_same(tmp_path: Path, header: str, join: str, says: str) -> None:
    path = tmp_path / "marts" / "mart_x_y.sql"
    path.parent.mkdir()
    path.write_text(TEXT.format(header=header, join=join), encoding="utf-8")
    with pytest.raises(ContractError) as caught:
        load(path)
    assert says.lower() in str(caught.value).lower()
