"""Landings entered without a source: rows that a test made, as the next landing of their table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from flows.extract import repaired
from flows.judge import placed
from flows.landed import LANDED_ON, rows_by_window
from flows.services import Services
from flows.stores.manifest import Commit
from transforms import changes
from transforms.entities import SourceEntity

_NOON = datetime(2025, 11, 3, 12, tzinfo=UTC)


def enter_object(services: Services, entity: SourceEntity, number: int, value: Mapping[str, Any]) -> None:
    """Land an object of an API as `enter` does."""
    at = _NOON + timedelta(minutes=number)
    row, window = repaired.of_api(entity, json.dumps(value).encode(), at)
    enter(services, entity, number, placed([row], f"b{number}", at), {window: 1})


def enter(
    services: Services,
    entity: SourceEntity,
    number: int,
    rows: pa.Table,
    windows: Mapping[str, int] | None = None,
) -> None:
    """Land `rows`, which have their place, as the landing of that number, a minute after the one before.
    `windows`: how many rows touch which, where their columns don't say.
    """
    with services.ledger() as ledger, duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        name = entity.table
        file = services.lake.write(
            "raw", name, LANDED_ON, "2025-11-03", f"b{number}", rows, measured="_landed_at"
        )
        path = str(Path(services.lake.root, file.path))
        among = changes.VISIBLE if changes.is_of_changes(rows.column_names) else "true"
        windows = windows or rows_by_window(connection, entity, [path], among)
        at = _NOON + timedelta(minutes=number)
        commit = Commit(
            f"land-{name}-{number}", "land", "raw", name, add=(file,), windows=windows, row_count=file.rows,
            landed_at=at,
        )  # fmt: skip
        ledger.record(services.lake, commit, version=ledger.positions(name).version)
