"""What a migration does in place, what by a rebuild, and what somebody must say yes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from transforms.contract import Column, ContractError, Layer, Partition, Table, Write
from transforms.postgres_types import postgres_type
from warehouse_ddl.migrate import ActualColumn, ActualTable, plan
from warehouse_ddl.statements import bounds, index_ddl, table_ddl

TABLE = Table(
    name="dim_cats",
    layer=Layer.DIMENSIONS,
    grain="one row per cat",
    key=("cat_id",),
    columns=(Column("cat_id", "BIGINT", nullable=False), Column("name", "VARCHAR", max_length=20)),
    write=Write.MERGE,
)
CAT_ID = ActualColumn("cat_id", "bigint", nullable=False)


CATS = ActualTable((CAT_ID,), key=("cat_id",), comment="One row per cat.")


def name_of(type_: str, nullable: bool = True) -> ActualTable:
    return replace(CATS, columns=(CAT_ID, ActualColumn("name", type_, nullable)))


def test_nothing_differs() -> None:
    assert not plan(name_of("character varying(20)"), TABLE).is_needed


@pytest.mark.parametrize(
    ("actual", "rebuild", "destructive"),
    [
        (name_of("character varying(10)"), False, False),
        (name_of("character varying(20)", nullable=False), False, False),
        (CATS, False, False),
        (name_of("text"), True, True),
        (name_of("bigint"), True, True),
        (name_of("character varying(40)"), True, True),
        (replace(name_of("character varying(20)"), key=("name",)), True, False),
        (replace(name_of("character varying(20)"), partitioned_by="name"), True, False),
        (replace(CATS, columns=(*name_of("text").columns, ActualColumn("age", "integer"))), True, True),
    ],
)
def test_the_cheapest_way_that_loses_nothing(actual: ActualTable, rebuild: bool, destructive: bool) -> None:
    migration = plan(actual, TABLE)
    assert (migration.is_needed, migration.rebuild, migration.is_destructive) == (True, rebuild, destructive)
    assert bool(migration.statements) != rebuild


def test_a_wider_integer_is_rebuilt_but_loses_nothing() -> None:
    there = replace(CATS, columns=(ActualColumn("cat_id", "integer", nullable=False),))
    migration = plan(there, replace(TABLE, columns=TABLE.columns[:1]))
    assert migration.describe() == ["dim_cats: column cat_id becomes bigint, was integer (rebuild)"]


def test_another_partition_interval_is_a_rebuild() -> None:
    monthly = replace(
        TABLE,
        write=Write.REPLACE_PARTITION,
        columns=(*TABLE.columns, Column("born_on", "DATE", nullable=False)),
        partition=Partition("born_on", "month"),
    )
    columns = (*name_of("character varying(20)").columns, ActualColumn("born_on", "date", False))
    there = replace(CATS, columns=columns, partitioned_by="born_on", leaves=("dim_cats_2025_10_07",))
    assert [change.what for change in plan(there, monthly).changes] == ["its partitions become one a month"]
    assert not plan(replace(there, leaves=("dim_cats_2025_10",)), monthly).is_needed


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("DECIMAL(38,18)", "numeric(38,18)"),
        ("TIMESTAMP WITH TIME ZONE", "timestamp with time zone"),
        ("VARCHAR[]", "text[]"),
        ("JSON", "jsonb"),
        ("BLOB", "bytea"),
    ],
)
def test_types(type_: str, expected: str) -> None:
    assert postgres_type(Column("a", type_)) == expected


@pytest.mark.parametrize("type_", ["STRUCT(a INTEGER)", "VARCHAR[][]", "MAP(VARCHAR, VARCHAR)"])
def test_a_type_that_cannot_be_copied_is_refused_with_what_to_do(type_: str) -> None:
    with pytest.raises(ContractError, match=r"column a: .*Cast it to json"):
        postgres_type(Column("a", type_))


def test_a_keyword_is_quoted_and_an_expression_cannot_come_in() -> None:
    table = replace(
        TABLE, columns=(*TABLE.columns, Column("order", "BIGINT")), indexes={"i": ("order desc",)}
    )
    assert '"order" bigint' in table_ddl(table)[0]
    assert index_ddl(table) == ['create index if not exists i on analytics.dim_cats ("order" desc)']


def test_a_leaf_name_that_postgres_would_cut_is_refused() -> None:
    table = replace(
        TABLE,
        name="fct_" + "x" * 52,
        write=Write.APPEND,
        columns=(*TABLE.columns, Column("born_on", "DATE")),
        partition=Partition("born_on", "day"),
    )
    with pytest.raises(ContractError, match="longer than 63 bytes"):
        table.leaf("2025-10-07")


def test_a_partition_that_is_none_is_refused() -> None:
    table = replace(
        TABLE,
        write=Write.APPEND,
        columns=(*TABLE.columns, Column("at", "DATE")),
        partition=Partition("at", "day"),
    )
    assert bounds(table, "2025-10-07") == ("2025-10-07", "2025-10-08")
    for key in ("2025-10", "2025-10-07'; drop table x", "../2025-10-07"):
        with pytest.raises(ContractError, match="is no day partition"):
            bounds(table, key)
