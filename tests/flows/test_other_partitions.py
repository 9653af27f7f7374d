"""A table whose header comes to name other partitions keeps its rows: every one once, at every moment."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import duckdb
import psycopg
import pytest

from flows import failpoints, lakeshell, planner, prepare
from flows.build.states import planner_states
from flows.progress import Progress
from tests import children
from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.flows.test_by_key import Shop, Step
from tests.flows.test_properties import TOPICS, Sent, land
from tests.flows.warehouses import Warehouses
from transforms import catalog, registry
from transforms.contract import Partition
from transforms.engine import quoted
from transforms.registry import Registry
from warehouse_ddl.statements import home

Every = Literal["day", "month"]
STORES = Path(__file__).parents[2] / "flows" / "stores"
STAGED = tuple(f"stg_events__{topic}" for topic in TOPICS)
EVENTS = (*STAGED, "dim_users", "fct_events", "mart_daily_metrics", "mart_daily_event_types")
ORDERS = ("stg_app__orders", "dim_date", "dim_users", "dim_products", "fct_orders", "mart_daily_revenue")
MODELS = (*EVENTS, *(name for name in ORDERS if name != "dim_users"))


@contextmanager
def _declared(every: Every | None, *names: str) -> Iterator[None]:
    """The models as they would be with these tables partitioned otherwise."""
    own = registry.default()
    models = dict(own.models)
    for name in names:
        by = models[name].table.partition
        assert by is not None
        partition = Partition(by.by, every) if every is not None else None
        models[name] = replace(models[name], table=replace(models[name].table, partition=partition))
    with mock.patch.object(registry, "default", return_value=Registry(models, own.entities)):
        yield


def _prepared(place: Place, every: Every | None, *names: str, yes: bool = False) -> str:
    """What preparing a run with these declarations says."""
    said = io.StringIO()
    services = kill_child.services(place)
    with _declared(every, *names), services.lake:
        assert prepare.warehouse(services, yes, Progress("test", said)) == prepare.Left()
    return said.getvalue()


def _filled(place: Place) -> None:
    services, shop = kill_child.services(place), Shop()
    with services.lake:
        for number, (day, topic) in enumerate(zip([0, 2, 40], TOPICS, strict=True)):
            sent = [Sent(0, 0, 10 * number + one, day, one, 1 + one % 2, topic) for one in range(4)]
            land(services, number, [(10 * number + offset, one) for offset, one in enumerate(sent)])
        for key, month in enumerate([8, 9, 9, 10]):
            shop.do(Step(key, "put", month, 1 + key, is_cut=False))
        shop.land(services, 0)
        kill_child.build_all(services, place, "first")


def _shown(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    """Table → its rows as people find them in the lake and in PostgreSQL."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    services = kill_child.services(place)
    lakeshell.write(services.lake, registry.tables().values())
    with psycopg.connect(place.warehouse_dsn) as connection, duckdb.connect() as lake:
        lake.execute((services.lake.root / "lake.sql").read_text())
        for name in MODELS:
            if name == "dim_date":
                continue
            table = registry.table(name)
            columns = ", ".join(f"{quoted(column.name)}::varchar" for column in table.columns)
            query = f"select {columns} from {{}} order by {columns}"
            found[f"{name} in the lake"] = lake.execute(query.format(name)).fetchall()
            if table.is_published:
                published = query.format(f"{home(table)}.{name}").encode()
                found[name] = connection.execute(published).fetchall()
    return found


def _due(place: Place) -> dict[str, list[str]]:
    """What `plan` says is due of which table."""
    services = kill_child.services(place)
    with services.ledger() as ledger:
        states = planner_states(ledger)
    now = services.settings.now()
    works = [
        planner.plan(table, registry.tables(), states, catalog.fingerprint(table), now)
        for table in kill_child.models(place)
    ]
    return {work.table.name: work.partitions for work in works if work.due}


def _build(place: Place, run_id: str) -> None:
    services = kill_child.services(place)
    with services.lake:
        kill_child.build_all(services, place, run_id)


MARTS = ("mart_daily_metrics", "mart_daily_event_types")


@pytest.mark.parametrize(
    ("every", "names"),
    [
        ("month", MARTS),
        pytest.param(None, MARTS, marks=pytest.mark.full),
        pytest.param("day", ("fct_orders", "mart_daily_revenue"), marks=pytest.mark.full),
        pytest.param("month", (*STAGED, "fct_events"), marks=pytest.mark.full),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_other_partitions_hold_the_same_rows_there_and_back(
    warehouses: Warehouses, every: Every | None, names: tuple[str, ...]
) -> None:
    with warehouses.lent(*MODELS) as place:
        _filled(place)
        before = _shown(place)
        assert [name for name, rows in before.items() if not rows] == []
        with _declared(every, *names):
            assert _due(place).keys() >= {*names}  # a plan is made before anything is changed
        said = _prepared(place, every, *names)
        assert [name for name in names if f"{name}: its partitions" in said or f"{name}: it has" in said] == [
            *names
        ]
        assert _shown(place) == before  # nobody has built yet
        with _declared(every, *names):
            _build(place, "other")
            assert (_shown(place), _due(place)) == (before, {})
        assert _prepared(place, every, *names) == ""

        _prepared(place, None)
        _build(place, "back")

        assert (_shown(place), _due(place)) == (before, {})


STEPS = [name for name in failpoints.names(STORES) if name.startswith("layout.")]


@pytest.mark.full
@pytest.mark.parametrize("step", [*STEPS, "migrate.before_commit"])
def test_a_kill_while_the_partitions_become_others_leaves_the_old_or_the_new(
    warehouses: Warehouses, step: str
) -> None:
    names = (*STAGED, "fct_events", "mart_daily_metrics")
    with warehouses.lent(*MODELS) as place:
        _filled(place)
        before = _shown(place)

        assert children.dies(step, _prepared, place, "month", *names)

        assert _prepared(place, "month", *names)
        assert _shown(place) == before
        with _declared("month", *names):
            _build(place, "other")
            assert (_shown(place), _due(place)) == (before, {})
