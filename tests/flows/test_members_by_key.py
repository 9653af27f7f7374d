"""Dimensions and histories follow keys: however changes are cut, what stands is what one rebuild would give,
and only members that changed are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import duckdb
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.build import compaction
from flows.build.inputs import Reader
from flows.build.job import build
from flows.build.outcome import Built
from flows.build.states import planner_states
from flows.maintenance.tidying import followers
from flows.planner import plan
from flows.services import Services
from tests.flows import kill_child
from tests.flows.extract.change_events import Topic, created, deleted, updated
from tests.flows.kill_child import Place
from tests.flows.landings import enter
from tests.flows.test_by_key import ANY_CUT
from tests.flows.warehouses import Warehouses
from transforms import catalog, registry
from transforms.contract import Table
from transforms.entities import Postgres, SourceEntity

MEMBERS = ("dim_users", "dim_products", "dim_users_history", "dim_products_history")
MODELS = (
    "stg_app__users", "stg_app__products", "stg_app__product_prices", "stg_app__categories",
    "stg_app__orders", "dim_date", *MEMBERS, "fct_orders",
)  # fmt: skip
_TIMES = {"created_at": "2025-09-01T00:00:00Z", "updated_at": "2025-09-01T00:00:00Z"}


def _entity(name: str) -> SourceEntity:
    entity = registry.entity(f"raw_app__{name}")
    assert isinstance(entity.read, Postgres)
    return replace(entity, read=replace(entity.read, mode="cdc", cursor=None))


@dataclass(frozen=True)
class Step:
    """What the application does next to a row; `is_cut`: what was done so far is landed and built first."""

    table: str
    key: int
    what: str
    """`put` makes the row, or changes it; `delete`; `again`: the connector repeats what it has sent."""
    to: int
    """What it is changed to: a plan, a category, the member that a price or an order belongs to."""
    is_cut: bool = False


STEPS = st.lists(
    st.builds(
        Step,
        table=st.sampled_from(["users", "products", "product_prices", "orders", "categories"]),
        key=st.integers(1, 3),
        what=st.sampled_from(["put", "put", "put", "delete", "again"]),
        to=st.integers(1, 3),
        is_cut=st.booleans(),
    ),
    min_size=4,
    max_size=14,
)


@dataclass
class Company:
    """The application's tables, each told by a change topic."""

    topics: dict[str, Topic] = field(default_factory=dict)
    rows: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    entered: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)

    def do(self, step: Step) -> None:
        """One change; deleting what is not there is none."""
        topic = self.topics.setdefault(step.table, Topic(_entity(step.table)))
        there = self.rows.get((step.table, step.key))
        if step.what == "again":
            topic.send_again(max(len(topic.records) - 1, 0))
        elif step.what == "put":
            row = self.rows[step.table, step.key] = _row(step)
            topic.send(updated(row) if there else created(row))
        elif there is not None:
            del self.rows[step.table, step.key]
            topic.send(deleted(there["id"]))

    def land(self, services: Services) -> None:
        """Land what was not landed yet of each table."""
        for name, topic in self.topics.items():
            if len(topic.records) > self.told.get(name, 0):
                topic.land()
                self.told[name] = len(topic.records)
            for number in range(self.entered.get(name, 0), len(topic.landed)):
                enter(services, topic.entity, number, topic.landed[number])
            self.entered[name] = len(topic.landed)


def _row(step: Step) -> dict[str, Any]:
    to = step.to
    if step.table == "users":
        plan = ("free", "pro", "team", "enterprise")[to - 1]
        return _whole("users", id=step.key, email="a@example.test", name=f"U{step.key}", plan=plan)
    if step.table == "products":
        return _whole("products", id=step.key, sku=f"s{step.key}", name=f"P{to}", category_id=to)
    if step.table == "product_prices":
        return _whole(
            "product_prices", id=step.key, product_id=to, currency="USD", amount=f"{step.key}.00",
            valid_from="2025-10-01T00:00:00Z",
        )  # fmt: skip
    if step.table == "categories":
        return _whole("categories", id=step.key, name=f"C{to}")
    return _whole(
        "orders", id=f"00000000-0000-4000-8000-{step.key:012d}", user_id=to, product_id=1 + to % 3,
        quantity=1, unit_price="2.00", discount_amount="0.00", total_amount="2.00", currency="EUR",
        status="paid", created_at="2025-10-15T00:00:00Z",
    )  # fmt: skip


def _whole(table: str, /, **values: Any) -> dict[str, Any]:
    columns = [column.name for column in _entity(table).columns]
    return {column: values.get(column, _TIMES.get(column)) for column in columns}


@pytest.fixture
def place(warehouses: Warehouses) -> Iterator[Place]:
    with warehouses.lent(*MODELS) as place:
        yield place


def _build(services: Services, table: Table) -> Built:
    with services.ledger() as ledger:
        states = planner_states(ledger, [table.name, *table.upstreams])
    fingerprint = catalog.fingerprint(table)
    work = plan(table, registry.tables(), states, fingerprint, services.settings.now())
    return build(services, work, work.due, "run")


def _build_all(services: Services, place: Place) -> dict[str, Built]:
    return {table.name: _build(services, table) for table in kill_child.models(place)}


def _of(services: Services, place: Place, name: str) -> tuple[list[Any], list[Any]]:
    """A table's rows in PostgreSQL and in the lake, each as text."""
    columns = [column.name for column in registry.table(name).columns]
    listed = ", ".join(f"{column}::text" for column in columns)
    with psycopg.connect(place.warehouse_dsn) as connection:
        connection.execute("set timezone = 'UTC'")
        published = connection.execute(f"select {listed} from analytics.{name}".encode()).fetchall()
    with services.ledger() as ledger, duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        files = Reader(ledger, registry.tables()).in_force(name)
        listed = ", ".join(f"{column}::varchar" for column in columns)
        kept = services.lake.read(connection, files).project(listed).fetchall()
    return sorted(published, key=str), sorted(kept, key=str)


def _hold_to_one_rebuild(services: Services, place: Place) -> None:
    for name in MEMBERS:
        published, kept = _of(services, place, name)
        assert len(published) == len(kept)
        again = kill_child.rebuilt(services, name)
        assert again == [], (name, kept, _of(services, place, name)[1])
        assert _of(services, place, name) == (published, kept)


def _any_cut(warehouses: Warehouses, steps: Sequence[Step]) -> None:
    with warehouses.lent(*MODELS) as place:
        services, company = kill_child.services(place), Company()
        with services.lake, mock.patch.multiple(compaction, MAX_FILES=2, GONE_ROWS=0):
            for step in steps:
                if step.is_cut:
                    company.land(services)
                    _build_all(services, place)
                company.do(step)
            company.land(services)
            _build_all(services, place)
            _hold_to_one_rebuild(services, place)


@pytest.mark.full
@settings(ANY_CUT, max_examples=13)
@given(steps=STEPS)
def test_any_cut_of_any_changes_gives_the_members_of_one_rebuild(
    warehouses: Warehouses, steps: list[Step]
) -> None:
    _any_cut(warehouses, steps)


def test_a_value_that_an_enum_of_the_source_got_is_served_and_told_where_to_add_it(
    warehouses: Warehouses,
) -> None:
    with warehouses.lent(*MODELS, "mart_plan_revenue") as place:
        services, company = kill_child.services(place), Company()
        with services.lake:
            company.do(Step("users", 1, "put", 4))
            company.do(Step("users", 2, "put", 1))
            orders = company.topics["orders"] = Topic(_entity("orders"))
            orders.send(created({**_row(Step("orders", 1, "put", 1)), "status": "returned"}))
            company.land(services)
            built = _build_all(services, place)
        told = [result for one in built.values() for result in one.checks if "accepted_values" in result.rule]
        told = [result for result in told if not result.passed]
        assert {one.table for one in told} == {
            "stg_app__users",
            "dim_users",
            "fct_orders",
            "mart_plan_revenue",
        }
        for one in told:
            assert one.severity == "warning"
            assert f"/{one.table}.sql. Where such a value is right, add it to the list there." in one.message
        with psycopg.connect(place.warehouse_dsn) as connection:
            found = connection.execute(
                "select user_id, users.plan, status, marts.plan from analytics.dim_users as users "
                "left join analytics.fct_orders using (user_id) "
                "left join analytics.mart_plan_revenue as marts on user_id = 1 order by 1"
            ).fetchall()
        assert found == [(1, "enterprise", "returned", "enterprise"), (2, "free", None, None)]


def test_who_was_only_mentioned_stays_whatever_is_told_of_the_rest(warehouses: Warehouses) -> None:
    cut = True
    _any_cut(
        warehouses,
        [
            Step("orders", 1, "put", 2),
            Step("orders", 1, "delete", 2, cut),
            Step("users", 1, "put", 1, cut),
            Step("product_prices", 1, "put", 3, cut),
            Step("product_prices", 1, "put", 2, cut),
            Step("categories", 1, "put", 1, cut),
            Step("products", 3, "put", 1, cut),
            Step("product_prices", 1, "delete", 2, cut),
            Step("users", 2, "put", 3, cut),
            Step("users", 2, "delete", 3, cut),
            Step("users", 1, "again", 1, cut),
        ],
    )


def _with_three_users_and_an_order(services: Services, place: Place) -> Company:
    company = Company()
    for key in (1, 2, 3):
        company.do(Step("users", key, "put", key))
        company.do(Step("products", key, "put", key))
    company.do(Step("orders", 1, "put", 1))
    company.land(services)
    _build_all(services, place)
    return company


def test_a_price_that_moves_to_another_product_is_taken_from_the_one_it_had(place: Place) -> None:
    services = kill_child.services(place)
    with services.lake:
        company = _with_three_users_and_an_order(services, place)
        for to in (1, 2):
            company.do(Step("product_prices", 1, "put", to))
            company.land(services)
            _build_all(services, place)
            with psycopg.connect(place.warehouse_dsn) as connection:
                priced = connection.execute(
                    "select product_id from analytics.dim_products where unit_price_usd is not null"
                ).fetchall()
            assert priced == [(to,)]
        company.do(Step("product_prices", 1, "delete", 2))
        company.land(services)
        _build_all(services, place)
        _hold_to_one_rebuild(services, place)


def test_only_members_that_changed_are_written(place: Place) -> None:
    services = kill_child.services(place)
    with services.lake:
        company = _with_three_users_and_an_order(services, place)

        def after(*steps: Step) -> dict[str, int]:
            for step in steps:
                company.do(step)
            company.land(services)
            built = _build_all(services, place)
            return {name: done.rows_written for name, done in built.items() if done.rows_written}

        assert after(Step("orders", 2, "put", 1)) == {"fct_orders": 1}
        assert after(Step("products", 2, "put", 2)) == {}
        # The row that ends, and the one that begins.
        assert after(Step("users", 2, "put", 1)) == {"dim_users": 1, "dim_users_history": 2}
        assert after(Step("users", 3, "again", 1)) == {}


def test_what_a_table_has_not_read_of_its_mentions_is_not_joined_with_what_it_has() -> None:
    for name in ("dim_users", "dim_products"):
        for upstream in registry.table(name).mentioned_by:
            assert name in followers(registry.table(upstream))


@pytest.mark.parametrize("what", [pytest.param("again", marks=pytest.mark.full), "unreadable"])
def test_a_record_that_changes_no_row_takes_none_away(place: Place, what: str) -> None:
    services = kill_child.services(place)
    with services.lake:
        company = _with_three_users_and_an_order(services, place)
        names = (*MEMBERS, "fct_orders")
        before = {name: _of(services, place, name)[0] for name in names}
        for name in ("users", "products", "orders"):
            if what == "again":
                company.do(Step(name, 1, "again", 1))
            else:
                company.topics[name].send({**updated(company.rows[name, 1]), "after": None})
            company.do(Step(name, 2, "put", 2))  # one that does, in the same landing
        company.land(services)
        _build_all(services, place)
        for name in names:
            published, kept = _of(services, place, name)
            assert (published, {*before[name]} - {*published}) == (kept, set()), name
