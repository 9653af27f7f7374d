"""Which columns a column is made of and how, in SQL and in Polars, held against what a person reads there."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from transforms import lineage_polars, registry
from transforms.contract import Column
from transforms.lineage import conditions, lineage, rows, steps
from transforms.lineage_sql import trace
from transforms.lineage_steps import Kind, Origin, Traced

BY_HAND = {
    "fct_orders.revenue": {"stg_app__orders.total_amount": "rename"},
    "fct_orders.order_date": {"stg_app__orders.created_at": "cast"},
    "stg_app__orders.total_amount": {"raw_app__orders.total_amount": "pass"},
    "mart_daily_revenue.revenue": {"fct_orders.revenue": "aggregate", "fct_orders.status": "aggregate"},
    "mart_daily_metrics.total_events": {"fct_events.*": "aggregate"},
    "fct_events.page": {
        "stg_events__user_events.page": "pass",
        "stg_events__page_views.path": "rename",
        "stg_events__clicks.page": "pass",
    },
    "fct_emails.recipient_domain": {"stg_sendgrid__messages.to_email": "expression"},
    "fct_payments.fee_minor": {"stg_stripe__balance_transactions.fee_minor": "aggregate"},
    # Polars: a value that windows and conditions were made of, and one out of a struct in a JSON text.
    "mart_user_activity.session_seconds": {
        "fct_events.event_time": "aggregate",
        "fct_events.user_id": "aggregate",
    },
    "stg_stripe__balance_transactions.tax_minor": {
        "raw_stripe__balance_transactions.object": "expression",
    },
}
"""Ten columns, as somebody reads them in the model files."""

CONDITIONS_BY_HAND = {
    "mart_daily_metrics": {"fct_events.event_time": "group"},
    "mart_user_activity": {"fct_events.user_id": "filter", "fct_events.event_time": "group"},
    "fct_emails": {"stg_app__users.email": "filter", "stg_sendgrid__messages.to_email": "join"},
}

MADE_FROM_NOTHING = {
    *("dim_date", "dim_currencies"),
    # The stream raises and sets these.
    *("user_event_counts.revision", "user_event_counts.is_final"),
}
"""Declared constants: a table, or a column, that no upstream makes."""

SCHEMA = {
    "a": {"id": "INTEGER", "x": "INTEGER", "y": "INTEGER", "t": "TIMESTAMP WITH TIME ZONE"},
    "b": {"id": "INTEGER", "z": "INTEGER"},
}


def told(traced: Traced, column: str) -> dict[str, str]:
    return {str(origin): made.kind.word for origin, made in traced.columns[column].items()}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_column_is_made_of_what_a_person_reads_in_its_model(name: str) -> None:
    table, column = name.split(".")
    kinds = lineage(table)[column].kinds
    assert {str(origin): kind.word for origin, kind in kinds.items()} == BY_HAND[name]


@pytest.mark.parametrize("table", CONDITIONS_BY_HAND)
def test_what_filters_joins_and_groups_is_told_apart(table: str) -> None:
    found = {str(origin): kind.word for origin, kind in conditions(table).items()}
    assert found == CONDITIONS_BY_HAND[table]


def test_every_published_column_is_made_of_something_or_is_declared_a_constant() -> None:
    for table in registry.build_order():
        known = lineage(table.name)
        assert set(known) == {column.name for column in table.columns}
        for column, made in known.items():
            is_constant = not MADE_FROM_NOTHING.isdisjoint({table.name, f"{table.name}.{column}"})
            assert bool(made.kinds) is not is_constant, f"{table.name}.{column}"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select x from a", {"a.x": "pass"}),
        ("select (x)::bigint as x from a", {"a.x": "pass"}),
        ("with c as (select x as y from a) select y as x from c", {"a.x": "pass"}),
        ("select x + y as x from a", {"a.x": "expression", "a.y": "expression"}),
        ("select max(y) as x from a", {"a.y": "aggregate"}),
        ("select mean(y) as x from a", {"a.y": "aggregate"}),
        ("with c as (select sum(y) as s from a) select s + 1 as x from c", {"a.y": "aggregate"}),
        ("select max(y) over (partition by id) as x from a", {"a.y": "expression", "a.id": "expression"}),
        ("select sum(max(y)) over () as x from a", {"a.y": "aggregate"}),
        ("select count(*) filter (where y > 1) as x from a", {"a.y": "aggregate", "a.*": "aggregate"}),
        ("select count(*) as x from a left join b using (id)", {"a.*": "aggregate"}),
        ("select case when y = 1 then x end as x from a", {"a.x": "expression", "a.y": "expression"}),
        ("select (select min(z) from b where b.id = a.id) as x from a", {"b.z": "aggregate"}),
        ("select id in (select z from b) as x from a", {"a.id": "expression", "b.z": "expression"}),
        ("select id as x from a join b using (id)", {"a.id": "pass", "b.id": "pass"}),
        ("select coalesce(x, z) as x from a, b", {"a.x": "pass", "b.z": "pass"}),
        ("select coalesce(x, 0) as x from a", {"a.x": "expression"}),
        ("select x from a union all select z from b", {"a.x": "pass", "b.z": "pass"}),
        ("select x, y from a union all by name select z as x from b", {"a.x": "pass", "b.z": "pass"}),
        ("select true as x from a union all select false from b", {"a.*": "expression", "b.*": "expression"}),
        ("select x from a union all select 0 from b union all select null from b", {"a.x": "pass"}),
        ("select * from a", {"a.x": "pass"}),
        ("select 1 as x from a", {}),
        (
            "with recursive r as (select x from a union all select x + 1 from r) select x from r",
            {"a.x": "expression"},
        ),
    ],
)
def test_how_a_column_of_a_query_is_made(sql: str, expected: dict[str, str]) -> None:
    assert told(trace(sql, SCHEMA), "x") == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select x from a where y > 1", {"a.y": "filter"}),
        ("select x from a join b on a.id = b.z", {"a.id": "join", "b.z": "join"}),
        ("select t::date as d, count(*) from a group by d", {"a.t": "group"}),
        (
            "select x from a qualify row_number() over (partition by id order by y) = 1",
            {"a.id": "filter", "a.y": "filter"},
        ),
        (
            "select x from a where id in (select z from b where b.id = 1)",
            {"a.id": "filter", "b.z": "filter", "b.id": "filter"},
        ),
        (
            "with c as (select x + y as s from a) select 1 as o from c where s > 1",
            {"a.x": "filter", "a.y": "filter"},
        ),
    ],
)
def test_what_says_which_rows_a_query_has(sql: str, expected: dict[str, str]) -> None:
    assert {str(o): kind.word for o, kind in trace(sql, SCHEMA).conditions.items()} == expected


A = {"id": [1], "x": [2], "y": [3]}


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (lambda a, b: a.select("x"), {"a.x": "pass"}),
        (lambda a, b: a.rename({"y": "w"}).select(pl.col("w").alias("x")), {"a.y": "pass"}),
        (lambda a, b: a.select(pl.col("x").cast(pl.Int8)), {"a.x": "pass"}),
        (lambda a, b: a.with_columns(x=pl.col("id") + pl.col("y")),
         {"a.id": "expression", "a.y": "expression"}),
        (lambda a, b: a.with_columns(x=1 + pl.col("y")), {"a.y": "expression"}),
        (lambda a, b: a.group_by("id").agg(pl.col("y").sum().alias("x")), {"a.y": "aggregate"}),
        (lambda a, b: a.group_by("id").agg(pl.len().alias("x")), {"a.*": "aggregate"}),
        (lambda a, b: a.group_by("x").agg(pl.col("y").sum()), {"a.x": "pass"}),
        (lambda a, b: a.with_columns(x=pl.col("y").sum().over("id")),
         {"a.y": "expression", "a.id": "expression"}),
        (lambda a, b: a.join(b, on="id", how="left").select(x="x_right"), {"b.x": "pass"}),
        (lambda a, b: pl.concat([a.select("x"), b.select("x")]), {"a.x": "pass", "b.x": "pass"}),
        (lambda a, b: a.select(pl.struct(x="y", z="id").alias("s")).unnest("s"),
         {"a.y": "expression", "a.id": "expression"}),
        (lambda a, b: a.drop("y").select(pl.all()), {"a.x": "pass"}),
        (lambda a, b: a.select(pl.lit(1).alias("x")), {}),
    ],
)  # fmt: skip
def test_how_a_column_of_a_polars_frame_is_made(
    frame: Callable[[pl.LazyFrame, pl.LazyFrame], pl.LazyFrame], expected: dict[str, str]
) -> None:
    a, b = (lineage_polars.marked(pl.DataFrame(A), name) for name in "ab")
    assert told(lineage_polars.trace(frame(a, b), ["x"]), "x") == expected


def test_the_rows_of_a_table_are_those_of_what_it_reads_and_does_not_only_look_up() -> None:
    assert rows("mart_plan_revenue") == ("fct_orders",)
    assert rows("mart_user_activity") == ("fct_events",)
    assert set(rows("fct_events")) == set(registry.table("fct_events").upstreams)


def test_only_a_column_that_is_one_other_is_passed_through() -> None:
    assert lineage("fct_orders")["revenue"].passed_through == Origin("stg_app__orders", "total_amount")
    assert lineage("fct_events")["page"].passed_through is None
    assert lineage("mart_daily_revenue")["revenue"].passed_through is None


def test_rows_that_are_counted_are_no_column_that_it_comes_from() -> None:
    total = lineage("mart_daily_metrics")["total_events"]
    assert total.origins == ()
    assert total.kinds == {Origin("fct_events", "*"): Kind.AGGREGATE}


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("select x from a", Kind.PASS),
        ("select x::integer as x from a", Kind.PASS),
        ("with c as (select x::varchar as v from a) select v::integer as x from c", Kind.CAST),
        ("select x::varchar::integer as x from a", Kind.CAST),
        ("select x from a union all select x::varchar::integer from a", Kind.CAST),
    ],
)
def test_a_value_that_was_another_type_on_the_way_is_told_as_cast(sql: str, kind: Kind) -> None:
    made = steps([Column("x", "INTEGER")], trace(sql, SCHEMA), SCHEMA)["x"]
    assert made.kinds == {Origin("a", "x"): kind}
    assert made.passed_through == Origin("a", "x")
