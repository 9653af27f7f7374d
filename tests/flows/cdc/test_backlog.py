"""Change records that wait: as they came, in their order, in memory or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from flows.cdc.backlog import Backlog
from flows.extract import kafka_records

NOON = datetime(2025, 10, 7, 12, tzinfo=UTC)


def _batch(topic: str, offsets: Sequence[int], size: int = 10) -> pa.RecordBatch:
    rows = [
        {
            "topic": topic,
            "kafka_partition": 0,
            "kafka_offset": offset,
            "kafka_timestamp": NOON,
            "key": b"%d" % offset,
            "headers": [{"name": "a", "value": None}],
            "value": None if offset == 3 else b"v" * size,
        }
        for offset in offsets
    ]
    return pa.RecordBatch.from_pylist(rows, kafka_records.SCHEMA)


def _offsets(batches: Iterable[pa.RecordBatch]) -> list[int]:
    return [offset for batch in batches for offset in batch.column("kafka_offset").to_pylist()]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("memory", [0, 1_000, 1 << 20])
def test_records_come_back_as_they_came_wherever_they_waited(tmp_path: Path, memory: int) -> None:
    backlog = Backlog(tmp_path, memory)
    came = [_batch("orders", (0, 1, 3)), _batch("orders", (4, 7), 400), _batch("orders", (8, 9), 400)]
    for number, batch in enumerate(came):
        backlog.keep(batch)
        backlog.keep(_batch("users", (number,)))
    assert bool(_files(tmp_path)) is (memory < 1 << 20)
    records = backlog.before("orders", 8)
    for _ in range(2):
        assert pa.Table.from_batches(records) == pa.Table.from_batches(came[:2])
    assert _offsets(backlog.before("orders", 5)) == [0, 1, 3, 4]
    backlog.forget({"orders": 5})
    assert _offsets(backlog.before("orders", 9)) == [7, 8]
    backlog.forget({"orders": 9})
    assert _offsets(backlog.before("orders", 100)) == [9]
    assert _offsets(backlog.before("users", 100)) == [0, 1, 2]
    backlog.close()
    assert _files(tmp_path) == []


def test_memory_is_bounded_however_many_records_wait(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, 10_000)
    before = pa.total_allocated_bytes()
    for number in range(200):
        backlog.keep(_batch("orders", range(number * 10, number * 10 + 10), 1_000))
    assert backlog.bytes > 2_000_000
    assert pa.total_allocated_bytes() - before < 100_000
    assert _offsets(backlog.before("orders", 2_000)) == list(range(2_000))


def test_what_was_handed_on_leaves_the_disk(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, 0)
    for number in range(4):
        backlog.keep(_batch("orders", (number,)))
    backlog.forget({"orders": 3})
    assert len(_files(tmp_path)) == 1
