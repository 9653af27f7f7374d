"""A DuckDB connection for models, and folders of models that a test writes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest
from duckdb import DuckDBPyConnection

from transforms import engine, registry
from transforms.contract import Column
from transforms.entities import Kafka, Postgres, SourceEntity
from transforms.registry import Registry

USERS = SourceEntity(
    source="app",
    name="users",
    read=Postgres("users", mode="incremental", cursor="updated_at"),
    key=("id",),
    grain="one row per user",
    columns=(
        Column("id", "bigint"),
        Column("email", "text", pii=True),
        Column("created_at", "timestamptz"),
        Column("updated_at", "timestamptz"),
    ),
)
CLICKS = SourceEntity(
    source="events", name="clicks", read=Kafka("clicks"), key=("event_id",), grain="one row per click"
)

ReadModels = Callable[[Mapping[str, str]], Registry]


@pytest.fixture
def duck() -> Iterator[DuckDBPyConnection]:
    """A connection as the flows use it."""
    connection = engine.connect(threads=1)
    yield connection
    connection.close()


@pytest.fixture
def read_models(tmp_path: Path) -> ReadModels:
    """Write files (`staging/stg_app__users.sql` → text) and read them with the entities app.users and
    events.clicks."""

    def read(files: Mapping[str, str]) -> Registry:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
        return registry.read(tmp_path, [USERS, CLICKS])

    return read
