"""What an API lists is let go of by the days that stand within its objects."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.extract import repaired
from flows.landed import rows_by_window
from transforms import registry

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("table", "objects"),
    [
        ("raw_stripe__payouts", [{"id": "po_1", "created": 1_762_171_200}, {"id": "po_2", "created": "?"}]),
        (
            "raw_stripe__events",
            [{"id": "evt_1", "created": 1_762_171_200, "data": {"object": {"created": 1}}}],
        ),
        ("raw_sendgrid__stats", [{"date": "2025-11-02", "stats": []}]),
    ],
)
def test_the_windows_of_what_was_listed_are_those_that_its_landing_told(
    tmp_path: Path, table: str, objects: list[object]
) -> None:
    entity, path = registry.entity(table), tmp_path / "b1.parquet"
    landed = [repaired.of_api(entity, json.dumps(value).encode(), NOW) for value in objects]
    pq.write_table(pa.Table.from_batches([batch for batch, _ in landed]), path)
    with duckdb.connect() as connection:
        windows = rows_by_window(connection, entity, [str(path)])
    assert windows == Counter(window for _, window in landed)
    assert any(windows)
