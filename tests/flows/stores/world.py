"""Small tables and their content for the tests of the stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from flows.stores.lake import Lake, LakeFile, partition_folder
from flows.stores.ledger import Ledger
from flows.stores.publication import BuiltPartition
from flows.stores.warehouse import Warehouse
from transforms import engine
from transforms.contract import Column, Layer, Partition, Table, Write
from warehouse_ddl.statements import index_ddl, table_ddl

EVENTS = Table(
    name="fct_visits",
    layer=Layer.FACTS,
    grain="one row per visit",
    key=("visit_id", "visited_at"),
    columns=(
        Column("visit_id", "BIGINT", nullable=False),
        Column("visited_at", "TIMESTAMP WITH TIME ZONE", nullable=False),
        Column("user_id", "BIGINT"),
        Column("page", "VARCHAR", max_length=50),
        Column("paid", "DECIMAL(10,2)"),
        Column("properties", "JSON"),
    ),
    write=Write.APPEND,
    partition=Partition("visited_at", "day"),
    indexes={"idx_visits_user_time": ("user_id", "visited_at desc")},
)
USERS = Table(
    name="dim_people",
    layer=Layer.DIMENSIONS,
    grain="one row per person",
    key=("person_id",),
    columns=(
        Column("person_id", "BIGINT", nullable=False),
        Column("name", "VARCHAR"),
        Column("properties", "JSON"),
    ),
    write=Write.MERGE,
)
ORDERS = Table(
    name="fct_purchases",
    layer=Layer.FACTS,
    grain="one row per purchase",
    key=("purchase_id",),
    columns=(
        Column("purchase_id", "BIGINT", nullable=False),
        Column("created_at", "TIMESTAMP WITH TIME ZONE", nullable=False),
        Column("amount", "DECIMAL(10,2)"),
    ),
    write=Write.MERGE,
    partition=Partition("created_at", "month"),
)
DAY = "2025-10-07"


def create(dsn: str, *tables: Table) -> None:
    """Make the published tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in tables:
            indexes = [] if table.is_partitioned_in_postgres else index_ddl(table)
            for statement in (*table_ddl(table), *indexes):
                connection.execute(statement.encode())


def visits(day: str, rows: int, *, mark: str = "", first: int = 0) -> str:
    """A query that gives visits of a day; `mark` changes their page."""
    return (
        f"SELECT i AS visit_id, timestamptz '{day} 00:00:00+00' + to_microseconds(i * 40000) AS visited_at, "
        f"CASE WHEN i % 5 > 0 THEN i % 97 END AS user_id, 'page {mark}' || (i % 7) AS page, "
        f"(i % 1000 / 100)::DECIMAL(10,2) AS paid, "
        f"('{{\"i\":' || i || '}}')::JSON AS properties FROM range({first}, {first + rows}) t(i)"
    )


def built(
    lake: Lake,
    table: Table,
    partition: str,
    query: str | None,
    *,
    batch: str,
    before: Sequence[LakeFile] = (),
    **more: Any,
) -> BuiltPartition:
    """Write the query's rows as one file, appended to `before`; None: no rows."""
    with engine.connect(keeps_order=True) as session:
        file = (
            lake.write(
                table.layer.value,
                table.name,
                partition_folder(table),
                partition,
                batch,
                session.sql(query),
                measured=table.partition.by if table.partition else None,
            )
            if query
            else None
        )
    files = (*before, file) if file else tuple(before)
    more.setdefault("based_on", {"raw": batch})
    return BuiltPartition(
        table.name,
        partition,
        files,
        added=file if before else None,
        mode="append" if before else "replace",
        **more,
    )


def rows(dsn: str, table: str) -> list[tuple[Any, ...]]:
    """Every row of a published table, sorted."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(f"SELECT * FROM analytics.{table} ORDER BY 1, 2".encode()).fetchall()


def tidy(dsn: str, lake: Lake) -> Mapping[str, list[str]]:
    """What the next run tidies; and what is left over after that."""
    from flows.stores import standalone

    with Warehouse(dsn).connect() as connection:
        ledger = Ledger(connection)
        repaired = ledger.repair_manifest(lake)
        dropped = standalone.sweep(connection)
        swept = lake.sweep(ledger.named_paths)
        left = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'unpublished'::regnamespace AND relkind = 'r'"
        ).fetchall()
    return {"repaired": repaired, "dropped": dropped, "swept": swept, "left": [row[0] for row in left]}
