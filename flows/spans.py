"""Windows: which of them a span of time touches, or others of either kind, and which one a row is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from transforms.contract import Partition
from transforms.engine import quoted


def keys_between(partition: Partition, start: datetime, end: datetime) -> Iterator[str]:
    """The windows that a half-open range of time touches, in order."""
    moment = start
    while moment < end:
        key = partition.key(moment)
        yield key
        moment = partition.bounds(key)[1]


def windows_of(partition: Partition | None, keys: Iterable[str]) -> set[str]:
    """The windows that other keys touch, of either kind; what is no window stays as it is."""
    found = set[str]()
    for key in keys:
        if partition is not None and partition.is_window(key):
            found.update(keys_between(partition, *partition.span(key)))
        else:
            found.add(key)
    return found


def partition_expression(partition: Partition) -> str:
    """DuckDB SQL that gives a row's partition key (UTC); null for infinity."""
    form = "%Y-%m-%d" if partition.every == "day" else "%Y-%m"
    # By microseconds: a cast from a time zone asks ICU for each row, and takes half of all this.
    return f"strftime(make_timestamp(epoch_us({quoted(partition.by)})), '{form}')"
