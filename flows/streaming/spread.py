"""In which windows the rows of a micro-batch stand, and how far each Kafka partition has come."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from duckdb import DuckDBPyConnection

from flows.spans import partition_expression
from transforms.contract import Table
from transforms.engine import quoted


def spread(
    cursor: DuckDBPyConnection, rows: str, table: Table, place: str = "null"
) -> tuple[Counter[str], dict[Any, datetime]]:
    """How many of these rows (SQL) stand in which window; value of `place` → the latest time of its rows."""
    partition = table.partition
    by = quoted(partition.by) if partition else "null::timestamptz"
    measures = f"min({by}), max({by}), count({by}), count(*)"
    found = cursor.execute(f"select {place}, {measures} from ({rows}) group by 1").fetchall()
    latest = {there: last for there, _, last, _, _ in found if last is not None}
    windows: Counter[str] = Counter()
    for _, first, last, timed, count in found:
        # Most micro-batches have one window: a key for every row would cost more than all the rest here.
        if partition and (timed < count or partition.key(first) != partition.key(last)):
            key = partition_expression(partition)
            counted = cursor.execute(f"select {key}, count(*) from ({rows}) group by 1").fetchall()
            return Counter(dict(counted)), latest
        windows[partition.key(first) if partition else ""] += count
    return windows, latest
