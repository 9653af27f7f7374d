"""What of a record could not be read: it is null where the rest of it is landed, counted, and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class _Kind:
    """What they came without, and why, for people."""

    what: str
    why: str
    came: str
    cure: str


KINDS = {
    "headers": _Kind(
        "headers",
        "a name that is not UTF-8",
        "with a header whose name is not UTF-8",
        "Let their producer write header names as UTF-8.",
    ),
    "kafka_timestamp": _Kind(
        "timestamp",
        "no moment of the years 1 to 9999",
        "without a timestamp, or with one that is no moment of the years 1 to 9999",
        "Let their producer give milliseconds since 1970.",
    ),
}
"""By the column of raw that is null then."""


def counted(batch: pa.RecordBatch) -> Counter[str]:
    """Column → how many of these landed records are without it; none where all could be read."""
    found = {name: batch.column(name).null_count for name in KINDS}
    return Counter({name: count for name, count in found.items() if count})


def telling(batches: Iterable[pa.RecordBatch], warnings: list[str]) -> Iterator[pa.RecordBatch]:
    """The records of one topic as they are; what came without something is a warning in the end."""
    counts: Counter[str] = Counter()
    firsts: dict[str, str] = {}
    for batch in batches:
        found = counted(batch)
        for name in found.keys() - firsts:
            place = batch.filter(pc.is_null(batch.column(name))).slice(0, 1).to_pylist()[0]
            there = f"partition {place['kafka_partition']}, offset {place['kafka_offset']}"
            firsts[name] = f"topic {place['topic']}, {there}"
        counts += found
        yield batch
    for name, count in counts.items():
        kind = KINDS[name]
        warnings.append(
            f"{count:,} records came {kind.came}, the first at {firsts[name]}. They are "
            f"landed with all but their {kind.what} (null in raw). {kind.cure}"
        )
