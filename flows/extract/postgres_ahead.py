"""Rows whose cursor lies ahead of the source's clock, as that of a subscription that ends in 2099 may.

Every read meets them again, however long ago they were landed. To recognise them by comparing landings, each
read would have to compare all of them since the first such row; so the position names these rows themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MOST = 10_000
"""Rows that a position names at most: where more are ahead, landings are compared after all."""

AHEAD = "ahead"
"""Key under which a position keeps them: the lowest of their cursors, and a digest of each row."""


def in_utc(cursor: Any) -> Any:
    """A cursor as it is compared with clocks and marks: a time without time zone is taken as UTC, which is
    what applications write there that know several zones. A number as it is.
    """
    is_naive = isinstance(cursor, datetime) and cursor.tzinfo is None
    return cursor.replace(tzinfo=UTC) if is_naive else cursor


def as_column(moment: datetime, kind: pa.DataType) -> datetime:
    """A moment as a column of that type has it, so that no session's time zone has a say in comparing."""
    utc = moment.astimezone(UTC)
    return utc.replace(tzinfo=None) if pa.types.is_timestamp(kind) and kind.tz is None else utc


class Ahead:
    """Those of one read. `clock`: the source's time when it began; `before`: the last read's position."""

    def __init__(self, cursor: str, clock: datetime, before: Mapping[str, Any]) -> None:
        self._cursor = cursor
        self._clock = clock
        told = before.get(AHEAD)
        self._known = frozenset(told["rows"]) if told else frozenset[str]()
        self._from = min(clock, datetime.fromisoformat(told["from"])) if told else clock
        self._rows: dict[str, datetime] = {}
        self._are_too_many = False

    def news(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch without rows that an earlier read has named; those that are ahead now are noted."""
        cursors = batch.column(self._cursor)
        if not pa.types.is_timestamp(cursors.type):
            return batch  # numbers have no clock
        if self._are_too_many and not self._known:
            return batch
        bound = pa.scalar(as_column(self._from, cursors.type), cursors.type)
        candidates = pc.indices_nonzero(pc.fill_null(pc.greater_equal(cursors, bound), False)).to_pylist()
        known = [
            int(number) for number in candidates if self._is_known(batch.slice(number, 1).to_pylist()[0])
        ]
        if not known:
            return batch
        return batch.filter(pc.invert(pc.is_in(pa.array(range(batch.num_rows)), pa.array(known))))

    def _is_known(self, row: Mapping[str, Any]) -> bool:
        digest = hashlib.sha256(repr(sorted(row.items())).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        is_known, at = digest in self._known, in_utc(row[self._cursor])
        # One that is ahead no more is named as long as it is met: no landing that is compared need hold it.
        if is_known or at > self._clock:
            if len(self._rows) < MOST:
                self._rows[digest] = at
            else:
                self._are_too_many = True
        return is_known

    def top(self, high: Any) -> Any:
        """Up to where a landing of this read holds rows that only a comparison with it recognises, `high`
        being the highest cursor that was read.
        """
        is_capped = isinstance(high, datetime) and not self._are_too_many
        return min(high, self._clock) if is_capped else high

    @property
    def position(self) -> dict[str, Any]:
        """What the next read needs; nothing where no row is ahead."""
        if not self._rows or self._are_too_many:
            return {}
        lowest = min(self._rows.values()).astimezone(UTC)
        return {AHEAD: {"from": lowest.isoformat(), "rows": sorted(self._rows)}}
