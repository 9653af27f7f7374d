"""A warehouse database, and one table that has a column for every form of rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import psycopg
import pytest

from quality import expectations
from tests.house import Server
from transforms import engine
from transforms.contract import Column, Layer, Partition, Rule, RuleKind, Table

Row = tuple[int, str | None, str | None, Any, float | None, datetime | None]

COLUMNS = (
    Column("id", "BIGINT", nullable=False),
    Column("kind", "VARCHAR"),
    Column("code", "VARCHAR"),
    Column("amount", "DECIMAL(10,2)"),
    Column("score", "DOUBLE"),
    Column("happened_at", "TIMESTAMP WITH TIME ZONE"),
)


def make_rule(check: str, kind: str = "accuracy", name: str | None = None, **arguments: Any) -> Rule:
    row_level = check not in {"unique", "sql"}
    return Rule(name or check, check, RuleKind(kind), arguments, row_level=row_level)


def make_table(*expect: Rule, name: str = "fct_things", key: tuple[str, ...] = ("id",)) -> Table:
    return Table(
        name=name,
        layer=Layer.FACTS,
        grain="one row per thing",
        key=key,
        columns=COLUMNS,
        partition=Partition("happened_at", "day"),
        expect=expect,
    )


@pytest.fixture(scope="session")
def warehouse(postgres18: Server) -> Iterator[str]:
    """The address of a database with the schemas that checks look into; its password shows where it leaks."""
    dsn = postgres18.empty(is_kept=True)
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Roles belong to the server: another process of this run may have made it.
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            connection.execute("create role checker superuser login password 'secret-canary'")
        for schema in ("analytics", "ops", "unpublished"):
            connection.execute(f"create schema {schema}".encode())
        host, port, name = connection.info.host, connection.info.port, connection.info.dbname
    yield f"postgresql://checker:secret-canary@{host}:{port}/{name}"
    expectations.close()


class Content:
    """The same rows in DuckDB (a table `things`) and in PostgreSQL (`unpublished.things`)."""

    relation = "things"
    leaf = "unpublished.things"

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.duck = engine.connect(threads=1)
        self.postgres = psycopg.connect(dsn, autocommit=True)
        self.postgres.execute("set timezone to 'UTC'")
        columns = ", ".join(f"{column.name} {column.type}" for column in COLUMNS)
        self.duck.execute(f"create table things ({columns})")
        self.duck.execute("create table dim_kinds (kind varchar)")
        self.postgres.execute("drop table if exists unpublished.things, analytics.dim_kinds")
        self.postgres.execute(
            f"create table unpublished.things ({columns.replace('DOUBLE', 'DOUBLE PRECISION')})"
        )
        self.postgres.execute("create table analytics.dim_kinds (kind varchar)")

    def fill(self, rows: Sequence[Row], kinds: Sequence[str] = ()) -> None:
        self.duck.execute("delete from things")
        self.duck.execute("delete from dim_kinds")
        self.postgres.execute("truncate unpublished.things, analytics.dim_kinds")
        if rows:
            self.duck.executemany("insert into things values (?, ?, ?, ?, ?, ?)", rows)
            with self.postgres.cursor() as cursor:
                cursor.executemany(
                    "insert into unpublished.things values (%s, %s, %s, %s, %s, %s)", list(rows)
                )
        for kind in kinds:
            self.duck.execute("insert into dim_kinds values (?)", [kind])
            self.postgres.execute("insert into analytics.dim_kinds values (%s)", [kind])

    def close(self) -> None:
        self.duck.close()
        self.postgres.close()


@pytest.fixture
def content(warehouse: str) -> Iterator[Content]:
    made = Content(warehouse)
    yield made
    made.close()


def counts(results: Sequence[Any]) -> Mapping[str, int]:
    return {result.rule: result.failing_rows for result in results}
