"""When the source committed, in the time of its rows: a sandbox's world has a time of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class SourceClock:
    """How far the rows' times are from the source server's clock: now, and until which of its moments it was
    what before, the oldest first.
    """

    offset: timedelta = timedelta(0)
    earlier: Sequence[tuple[datetime, timedelta]] = ()

    def sql(self, committed: str) -> str:
        """SQL: the rows' time of a commit; both in microseconds since 1970."""
        now = self.offset // _MICROSECOND
        if not self.earlier:
            return f"{committed} + {now}"
        cases = " ".join(
            f"when {committed} < {(until - _EPOCH) // _MICROSECOND} then {offset // _MICROSECOND}"
            for until, offset in self.earlier
        )
        return f"{committed} + case {cases} else {now} end"
