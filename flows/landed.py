"""What every landing has, whoever makes it: its folder, and a time that never goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from flows.stores.ledger_rows import Position

LANDED_ON = "landed_on"
"""Folder column of raw files: the day they were landed."""
CLOCK = "landed_at"
"""Key under which a position keeps the time of its landing."""


def landing_time(now: datetime, position: Position) -> datetime:
    """The time of a landing that begins now: never the same or an earlier one for one entity, whatever the
    clock does.
    """
    last = position.positions.get(CLOCK)
    if last is None:
        return now.astimezone(UTC)
    return max(now.astimezone(UTC), datetime.fromisoformat(last) + timedelta(microseconds=1))


def landed_schema(rows: pa.Schema) -> pa.Schema:
    """The columns of landed rows: their own, and those that say where they stand in raw."""
    place = [
        pa.field("_batch_id", pa.string()),
        pa.field("_landed_at", pa.timestamp("us", tz="UTC")),
        pa.field("_seq", pa.int64()),
    ]
    return pa.schema([*rows, *place])


def with_place(batch: pa.RecordBatch, batch_id: str, landed_at: datetime, first: int = 0) -> pa.RecordBatch:
    """Rows with their place: their batch, its time, and their number in it from `first` on."""
    count, schema = batch.num_rows, landed_schema(batch.schema)
    places = [
        pa.repeat(pa.scalar(batch_id), count),
        pa.repeat(pa.scalar(landed_at, schema.field("_landed_at").type), count),
        pa.array(range(first, first + count), pa.int64()),
    ]
    return pa.record_batch([*batch.columns, *places], schema=schema)
