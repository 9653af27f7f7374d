"""What is known of a table's published rows by the hashes of their identities, window by window."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from flows.spans import partition_expression
from flows.stores.warehouse import Warehouse
from flows.streaming.membership import Hashes, Matches, Membership, Probes
from transforms.contract import Table
from transforms.engine import quoted
from warehouse_ddl.statements import home

LEARN_AFTER = 10_000
"""So many records are looked for in a window before the hashes of its rows are learned: most streams ask so
little of one that learning it would cost more."""
MOST_BYTES = 96 * 1024 * 1024
"""Memory for all hashes: 16 to 32 million identities."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

RowsOf = Callable[[str], Iterable[DuckDBPyRelation]]
"""Window → rows of it that PostgreSQL may not show yet."""


class Hashed:
    """The hashes of windows that are asked for often, in bounded memory. Close it.

    Windows are learned beside, one after the other: until then, and where there is no memory for one, every
    record in reach of it may be there. Only who brings as many at once as learning takes waits for it.
    """

    def __init__(
        self, duckdb: DuckDBPyConnection, warehouse: Warehouse, table: Table, identity: Sequence[str]
    ) -> None:
        assert table.partition is not None
        self._duckdb = duckdb
        self._warehouse = warehouse
        self._table = table
        self._partition = table.partition
        self._identity = tuple(identity)
        of_type = ", ".join(f"{quoted(name)}::{table.column(name).type}" for name in identity)
        self._hash = f"hash({of_type})"
        self._known: dict[str, Membership] = {}
        self._asked = Counter[str]()
        """Window → records that may have been in it, since nothing is known of it."""
        self._let_go = set[str]()
        """Windows for which there was no memory."""
        self._beside = ThreadPoolExecutor(max_workers=1)
        self._learning: dict[str, tuple[Membership, Future[Membership]]] = {}
        """Window that is being learned → what came into it meanwhile, and what stood there."""
        self._is_closed = threading.Event()

    def close(self) -> None:
        """Learn no more."""
        self._is_closed.set()
        self._beside.shutdown()

    def learn(self, reach: Sequence[str], rows: int, unseen: RowsOf) -> None:
        """Begin to learn what so many rows would ask often, or know what was begun.

        From now on the caller tells of each row that is published by this process (`note`), and knows
        whether another one has written: what it learns is no older than this.
        """
        due = [
            window
            for window in reach
            if window not in self._known
            and window not in self._learning
            and window not in self._let_go
            and self._asked[window] + rows >= LEARN_AFTER
        ]
        for window in due:
            meanwhile = Membership()
            for recent in unseen(window):
                meanwhile.add(self._hashes_of(recent))
            stood = self._beside.submit(self._published, self._duckdb.cursor(), window)
            self._learning[window] = meanwhile, stood
        for window, (meanwhile, stood) in [*self._learning.items()]:
            if stood.done() or rows >= LEARN_AFTER:
                known = stood.result()
                known.join(meanwhile)
                self._known[window] = known
                del self._learning[window]
        self._hold_to_memory()

    def note(self, rows: DuckDBPyRelation) -> int:
        """These are published too; returns how many they are."""
        count = 0
        for window, hashes in self._by_window(rows):
            count += hashes.size
            if window in self._known:
                self._known[window].add(hashes)
            elif window in self._learning:
                self._learning[window][0].add(hashes)
        self._hold_to_memory()
        return count

    def candidates(self, rows: DuckDBPyRelation, reach: Iterable[str]) -> Iterator[tuple[list[str], Matches]]:
        """Windows, and which of these rows may be in them; of none that are surely in none."""
        moment = f"epoch_us({quoted(self._partition.by)})"
        asked = rows.project(f"{self._hash}, {moment}").to_arrow_table()
        probes, moments = Probes.of(asked[0].to_numpy()), asked[1].to_numpy()
        lookback = self._table.lookback // timedelta(microseconds=1)
        unknown, in_reach = list[str](), np.zeros(asked.num_rows, np.bool_)
        for window in reach:
            if window in self._known:
                found = self._known[window].may_hold(probes)
                if found.any():
                    yield [window], found
                continue
            start, end = map(_microseconds, self._partition.bounds(window))
            near = (moments >= start - lookback) & (moments < end + lookback)
            self._asked[window] += int(near.sum())
            in_reach |= near
            unknown.append(window)
        if in_reach.any():
            yield unknown, in_reach

    def drop(self, windows: Iterable[str]) -> None:
        """Know nothing of these: others write into them, or nothing reaches them any more."""
        for window in windows:
            self._known.pop(window, None)
            self._asked.pop(window, None)
            self._let_go.discard(window)
            self._learning.pop(window, None)  # what comes of it is of before

    def _published(self, cursor: DuckDBPyConnection, window: str) -> Membership:
        known = Membership()
        by, (start, end) = quoted(self._partition.by), self._partition.bounds(window)
        query = (
            f"select {', '.join(map(quoted, self._identity))} from {home(self._table)}.{self._table.name} "
            f"where {by} >= '{start.isoformat()}' and {by} < '{end.isoformat()}'"
        )
        with closing(cursor), self._warehouse.reading(query) as reader:
            for batch in reader:
                # One that is larger than all the memory is let go of, as soon as it is known.
                if self._is_closed.is_set() or known.bytes > MOST_BYTES:
                    break
                known.add(self._hashes_of(cursor.from_arrow(pa.Table.from_batches([batch]))))
        return known

    def _hold_to_memory(self) -> None:
        """The oldest go first: they are the first that nothing reaches any more."""
        while sum(known.bytes for known in self._known.values()) > MOST_BYTES:
            oldest = min(self._known)
            del self._known[oldest]
            self._let_go.add(oldest)

    def _hashes_of(self, rows: DuckDBPyRelation) -> Hashes:
        hashes: Hashes = rows.project(self._hash).to_arrow_table()[0].to_numpy()
        return hashes

    def _by_window(self, rows: DuckDBPyRelation) -> Iterator[tuple[str, Hashes]]:
        by = quoted(self._partition.by)
        ((first, last),) = rows.aggregate(f"min({by}), max({by})").fetchall()
        if first is None:
            return
        # Most micro-batches have one window: a key for every row would cost more than all the rest here.
        if self._partition.key(first) == self._partition.key(last):
            yield self._partition.key(first), self._hashes_of(rows)
            return
        key = partition_expression(self._partition)
        by_window = rows.aggregate(f"{key}, list({self._hash})", key).to_arrow_table()
        for window, hashes in zip(by_window[0].to_pylist(), by_window[1], strict=True):
            yield window, hashes.values.to_numpy()


def _microseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
