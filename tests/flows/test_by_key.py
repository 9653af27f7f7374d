"""Tables that follow keys: however changes are cut, what stands is what one rebuild would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flows.build import by_key, compaction, guard
from flows.build.guard import CheckFailed
from flows.build.inputs import News, Reader
from flows.services import Services
from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile, fold
from tests.flows import kill_child
from tests.flows.extract.change_events import Topic, created, deleted, updated
from tests.flows.kill_child import Place
from tests.flows.landings import enter
from tests.flows.warehouses import Warehouses
from transforms import engine, registry
from transforms.contract import Column, Layer, Table, Write
from transforms.engine import empty
from transforms.entities import Postgres
from transforms.lineage import lineage

RAW, STAGED, FACTS = "raw_app__orders", "stg_app__orders", "fct_orders"
MODELS = (STAGED, "dim_date", "dim_users", "dim_products", FACTS)
_ENTITY = registry.entity(RAW)
assert isinstance(_ENTITY.read, Postgres)
CAPTURED = replace(_ENTITY, read=replace(_ENTITY.read, mode="cdc"))
ANY_CUT = settings(
    derandomize=True,
    max_examples=2,
    phases=[Phase.generate],  # to find a smaller example takes minutes
)


@dataclass(frozen=True)
class Step:
    """What the application does next to one of its orders; `is_cut`: what was done so far is landed first."""

    key: int
    what: str
    """`put` makes the order, or changes it; `delete`."""
    month: int
    quantity: int
    is_cut: bool


STEPS = st.lists(
    st.builds(
        Step,
        key=st.integers(0, 4),
        what=st.sampled_from(["put", "put", "put", "delete"]),
        month=st.integers(8, 10),
        quantity=st.integers(1, 3),
        is_cut=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@dataclass
class Shop:
    """The application's orders, told by reads until `is_captured`, then by changes."""

    topic: Topic = field(default_factory=lambda: Topic(CAPTURED))
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_captured: bool = False

    def do(self, step: Step) -> None:
        """One change; deleting what is not there is none."""
        key = f"00000000-0000-4000-8000-{step.key:012d}"
        there = self.rows.get(key)
        if step.what == "delete":
            if there is not None:
                self.rows.pop(key)
                self._tell(deleted(key), there, "d")
            return
        made = there["created_at"] if there else f"2025-{step.month:02d}-15T00:00:00Z"
        row = {
            "id": key, "user_id": step.key + 1, "product_id": 7, "quantity": step.quantity,
            "unit_price": "2.00", "discount_amount": "0.00", "total_amount": f"{2 * step.quantity}.00",
            "currency": "eur", "coupon_code": None, "status": "paid", "created_at": made,
            "updated_at": "2025-10-20T00:00:00Z",
        }  # fmt: skip
        self.rows[key] = row
        self._tell(updated(row) if there else created(row), row, "r")

    def _tell(self, event: dict[str, Any], row: Mapping[str, Any], op: str) -> None:
        if self.is_captured:
            self.topic.send(event)
            return
        kinds = {column.name: column.type for column in _ENTITY.columns}
        names = ("id", "created_at") if op == "d" else tuple(row)
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'; set arrow_lossless_conversion = true")
            fields = ", ".join(f"?::{kinds[name]} as {name}" for name in names)
            values = [row[name] for name in names]
            (typed,) = connection.sql(f"select {fields}", params=values).to_arrow_table().to_pylist()
        self.topic.read(typed, op=op)

    def land(self, services: Services, first: int) -> int:
        """Land what was not landed yet as the next landings; returns how many there are now."""
        if self.is_captured:
            self.topic.land()
        for number in range(first, len(self.topic.landed)):
            enter(services, CAPTURED, number, self.topic.landed[number])
        return len(self.topic.landed)

    @property
    def expected(self) -> list[tuple[Any, ...]]:
        """(order, month, quantity, currency), as staging and the fact are to have them."""
        return sorted((key, row["created_at"][:7], row["quantity"], "EUR") for key, row in self.rows.items())


JOINED = {"dim_products": {("stg_app__product_prices", "product_id")}}
"""Upstreams whose rows are joined by the key, which others give."""


@pytest.fixture
def place(warehouses: Warehouses) -> Iterator[Place]:
    with warehouses.lent(*MODELS) as place:
        yield place


def _published(place: Place) -> list[tuple[Any, ...]]:
    with psycopg.connect(place.warehouse_dsn) as connection:
        return connection.execute(
            "select order_id::text, to_char(created_at at time zone 'UTC', 'YYYY-MM'), quantity, currency "
            "from analytics.fct_orders order by 1"
        ).fetchall()


def _files(services: Services, name: str) -> list[LakeFile]:
    with services.ledger() as ledger:
        return [file for state in ledger.states([name]).values() for file in state.files]


def _in_lake(services: Services, name: str) -> list[tuple[Any, ...]]:
    files = _files(services, name)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        if not files:
            return []
        rows = services.lake.read(connection, files)
        assert len(rows) == sum(file.rows for file in files)
        shown = rows.project("order_id::varchar, strftime(created_at, '%Y-%m'), quantity, currency")
        return shown.order("all").fetchall()


def _any_cut(warehouses: Warehouses, read: Sequence[Step], told: Sequence[Step]) -> None:
    with warehouses.lent(*MODELS) as place:
        services = kill_child.services(place)
        shop, landed = Shop(), 0
        with services.lake, mock.patch.multiple(compaction, MAX_FILES=2, GONE_ROWS=0):
            for is_captured, steps in ((False, read), (True, told)):
                shop.is_captured = is_captured
                for step in steps:
                    if step.is_cut:
                        landed = shop.land(services, landed)
                        kill_child.build_all(services, place, f"run-{landed}")
                    shop.do(step)
                landed = shop.land(services, landed)
                kill_child.build_all(services, place, f"run-{landed}")
                assert _in_lake(services, STAGED) == shop.expected
                assert _in_lake(services, FACTS) == shop.expected
                assert _published(place) == shop.expected
            for name in (STAGED, FACTS):
                assert kill_child.rebuilt(services, name) == []
                in_manifest = fold(services.lake.manifest(registry.table(name).layer, name))
                assert sorted(map(str, in_manifest)) == sorted(map(str, _files(services, name)))


@pytest.mark.full
@ANY_CUT
@given(read=STEPS, told=STEPS)
def test_any_cut_of_any_changes_gives_the_table_of_one_rebuild(
    warehouses: Warehouses, read: list[Step], told: list[Step]
) -> None:
    _any_cut(warehouses, read, told)


@pytest.mark.full
@settings(ANY_CUT, max_examples=12)
@given(read=STEPS, told=STEPS)
def test_many_cuts_of_any_changes_give_the_table_of_one_rebuild(
    warehouses: Warehouses, read: list[Step], told: list[Step]
) -> None:
    _any_cut(warehouses, read, told)


SOME = [
    Step(key, what, month, quantity, is_cut=False)
    for key, what, month, quantity in [
        (0, "put", 8, 1), (1, "put", 9, 1), (2, "put", 9, 1), (0, "put", 8, 2), (1, "delete", 9, 1),
    ]
]  # fmt: skip
MORE = [
    Step(key, what, month, quantity, is_cut=number == 2)
    for number, (key, what, month, quantity) in enumerate(
        [(0, "put", 8, 3), (2, "delete", 9, 1), (2, "put", 10, 1), (1, "put", 9, 3), (3, "put", 10, 2)]
    )
]


def test_where_nothing_tells_what_changed_everything_is_built_anew(
    warehouses: Warehouses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_key, "news_of", lambda *_: None)
    _any_cut(warehouses, SOME, MORE)


def test_what_was_built_anew_upstream_is_built_anew_downstream(
    warehouses: Warehouses, monkeypatch: pytest.MonkeyPatch
) -> None:
    news = Reader.news

    def only_windows(reader: Reader, name: str, since: str) -> News | None:
        found = news(reader, name, since)
        return found and News((), found.windows, found.windows)

    monkeypatch.setattr(Reader, "news", only_windows)
    _any_cut(warehouses, SOME, MORE)


def test_what_is_put_aside_of_a_refused_build_is_what_its_message_speaks_of(place: Place) -> None:
    """A rule over a set was held to what came and to what stands beside it."""
    services, shop = kill_child.services(place), Shop()
    with services.lake:
        shop.do(Step(0, "put", 10, 1, is_cut=False))
        landed = shop.land(services, 0)
        kill_child.build_all(services, place, "run-1")
        with psycopg.connect(place.warehouse_dsn) as connection:
            connection.execute(
                "insert into ops.control_total values ('app.orders', '2025-10-15', 'EUR', 3, 6.00)"
            )
        shop.do(Step(1, "put", 10, 2, is_cut=False))
        shop.land(services, landed)
        with pytest.raises(CheckFailed, match=r"revenue_equals_application failed for 1 rows") as refused:
            kill_child.build_all(services, place, "run-2")
        (file,) = (services.lake.root / "quarantine" / FACTS).glob("*.parquet")
        assert str(file) in str(refused.value)
        selected = "application_orders::int, warehouse_orders, warehouse_revenue::double, _rule"
        kept = duckdb.connect().execute(f"select {selected} from read_parquet('{file}')").fetchall()
    assert kept == [(3, 2, 6.0, "revenue_equals_application")]


def test_what_breaks_a_rule_only_where_it_was_loaded_is_not_shown_and_is_put_aside(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate sees nothing; Great Expectations looks at what PostgreSQL holds before anybody sees it."""
    services, shop = kill_child.services(place), Shop()
    with services.lake:
        shop.do(Step(0, "put", 9, 1, is_cut=False))
        landed = shop.land(services, 0)
        kill_child.build_all(services, place, "run-1")
        before = _published(place), _files(services, FACTS)
        for key, quantity in ((1, 0), (2, 3)):
            shop.do(Step(key, "put", 10, quantity, is_cut=False))
        shop.land(services, landed)
        monkeypatch.setattr(guard, "hold", lambda *_, **__: [])
        with pytest.raises(CheckFailed, match=r"^fct_orders: rule between_quantity failed for 1") as refused:
            kill_child.build_all(services, place, "run-2")
        assert (_published(place), _files(services, FACTS)) == before
        (file,) = (services.lake.root / "quarantine" / FACTS).glob("*.parquet")
        assert f"The failing rows are in {file}." in str(refused.value)
        own = duckdb.connect()
        kept = own.sql(
            "select right(order_id::varchar, 1), quantity, revenue, created_at, _rule, _reason ^@ 'fct_' "
            f"from read_parquet('{file}', hive_partitioning = false) order by _rule"
        )
        assert kept is not None
        types = {column.name: column.type for column in registry.table(FACTS).columns}
        assert list(map(str, kept.types[1:4])) == [types[name] for name in kept.columns[1:4]]
        assert kept.fetchall() == [
            ("1", 0, 0, datetime(2025, 10, 15, tzinfo=UTC), "between_quantity", True),
            ("1", None, 0, None, "free_only_with_coupon", True),
        ]
    with psycopg.connect(place.warehouse_dsn) as connection:
        told = "select engine, rule, partition, failing_rows from ops.check_result where not passed"
        assert sorted(connection.execute(told.encode()).fetchall()) == [
            ("great_expectations", "between_quantity", "2025-10", 1),
            ("great_expectations", "free_only_with_coupon", "2025-10", 1),
        ]
        left = "select from pg_class where relnamespace = 'unpublished'::regnamespace and relkind = 'r'"
        assert connection.execute(left.encode()).fetchall() == []


@pytest.mark.parametrize("name", [table.name for table in registry.build_order() if table.by_key])
def test_the_key_that_a_table_follows_is_passed_on_as_it_is(name: str) -> None:
    table = registry.table(name)
    known = lineage(name)
    followed = len(next(iter(table.by_key.values())))
    for number, own in enumerate(table.key[:followed]):
        told = {(upstream, columns[number]) for upstream, columns in table.by_key.items()}
        given = {*told, *table.mentioned_by.items()} - JOINED.get(name, set())
        assert {(origin.table, origin.column) for origin in known[own].origins} == given
    for upstream, columns in table.by_key.items():
        if registry.table(upstream).layer is Layer.RAW:
            assert columns == registry.entity(upstream).key


@pytest.mark.parametrize("name", [table.name for table in registry.build_order() if table.mentioned_by])
def test_of_what_mentions_a_member_nothing_but_its_name_is_read(name: str) -> None:
    table, sql = registry.table(name), registry.default().model(name).sql
    assert sql is not None
    with duckdb.connect() as connection:
        for upstream in table.upstreams:
            named = table.mentioned_by.get(upstream)
            columns = [c for c in registry.table(upstream).columns if named in (None, c.name)]
            empty(columns, connection).create(upstream)
        connection.execute(sql)  # with another column of theirs it would not run


def test_what_stands_in_files_without_a_column_that_came_later_is_met_with_null(
    tmp_path: Path,
) -> None:
    columns = (Column("id", "BIGINT", nullable=False), Column("nickname", "VARCHAR"))
    table = Table(
        "stg_app__people", Layer.STAGING, "one row per person", ("id",), columns, write=Write.MERGE,
        by_key={"raw_app__people": ("id",)}, passes=("raw_app__people",), upstreams=("raw_app__people",),
    )  # fmt: skip
    with Lake(tmp_path) as lake, engine.connect(threads=1) as connection:
        files = [
            lake.write("staging", table.name, None, "", name, connection.sql(query))
            for name, query in (
                ("before", "select 1::bigint as id"),
                ("after", "select 2::bigint as id, 'Bo' as nickname"),
            )
        ]
        connection.execute("create temp table touched as select unnest([1, 2, 3])::bigint as id")
        for some, expected in ((files, [(1, None), (2, "Bo")]), (files[:1], [(1, None)])):
            by_key._meet(table, connection, lake, some, ["id", "nickname"])
            assert connection.execute("select id, nickname from met order by id").fetchall() == expected
            connection.execute("drop table met")
