"""How big a world is, when it lives, and where its chance comes from.

A world is made in periods of 24 hours counted from its start. What happens in a period depends on the seed
and the period's number alone, so 14 days and one more are the same rows as 15 days.
All times inside the world are integers: microseconds since 1970 (UTC). `NEVER` stands for "does not happen".
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from flows.errors import FlowsError

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NEVER = 2**62
LATEST = 8 * DAY
"""No event is delivered later than this after it happened."""

DEFAULT_SEED = 20251103
DEFAULT_END = datetime(2025, 11, 3, 12, tzinfo=UTC)
"""Both clock changes, Europe's on 26 October and America's on 2 November, lie in the 14 days before."""

BASE = -1
"""The number of the period that stands for everything before the world's start."""


class WorldError(FlowsError):
    """There is no world where one is needed, or it is another one than asked for, or it can't go on."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a world. `users` and `orders` are the totals at `until`, `newcomers` those of the users who
    sign up in its days; rates stay the same afterwards.
    """

    seed: int
    start: int
    days: int
    events_per_day: int
    users: int
    newcomers: int
    orders: int

    @property
    def base_users(self) -> int:
        """Users who signed up in the year before the world starts."""
        return self.users - self.newcomers

    def period_start(self, period: int) -> int:
        """First microsecond of a period."""
        return self.start + period * DAY

    def users_before(self, period: int) -> int:
        """How many users signed up before `period` starts; their ids are 1 to that number."""
        return self.base_users + self.newcomers * period // self.days

    def orders_before(self, period: int) -> int:
        """How many orders were placed before `period` starts; their numbers are 0 to that number minus 1."""
        return self.orders * period // self.days

    def rng(self, stream: str, period: int) -> np.random.Generator:
        """The source of chance for one kind of thing in one period; independent of every other."""
        return np.random.default_rng([self.seed, zlib.crc32(stream.encode()), period + 1])

    def save(self, path: Path) -> None:
        """Write the sizes as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> Shape:
        """Read what `save` wrote."""
        return Shape(**json.loads(path.read_text()))


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def moment(micros_since_1970: int) -> datetime:
    """The aware datetime of a number of microseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros_since_1970))


def instant(column: str | pl.Expr) -> pl.Expr:
    """A column of microseconds as timestamptz; NEVER becomes null."""
    expression = pl.col(column) if isinstance(column, str) else column
    return pl.when(expression < NEVER).then(expression).cast(pl.Datetime("us", "UTC"))


def day_of(column: str | pl.Expr) -> pl.Expr:
    """The UTC day of a column of microseconds."""
    return instant(column).dt.date()


def uuids(rng: np.random.Generator, count: int) -> pl.Series:
    """`count` random UUIDs (version 4) as text."""
    raw = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x40
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    text = np.full((count, 36), ord("-"), dtype=np.uint8)
    places = [i for i in range(36) if i not in (8, 13, 18, 23)]
    text[:, places[0::2]] = digits[raw >> 4]
    text[:, places[1::2]] = digits[raw & 15]
    return fixed_text(text)


def tokens(rng: np.random.Generator, count: int, length: int) -> pl.Series:
    """`count` random strings of letters and digits, as the ids of SaaS objects have them."""
    alphabet = np.frombuffer(
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", dtype=np.uint8
    )
    return fixed_text(alphabet[rng.integers(0, 62, (count, length))])


def fixed_text(letters: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> pl.Series:
    """A matrix of ASCII codes, one row a string, as a column of strings (no Python object per row)."""
    count, length = letters.shape
    offsets = np.arange(0, (count + 1) * length, length or 1, dtype=np.int64)[: count + 1]
    array = pa.LargeStringArray.from_buffers(
        count, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(letters))
    )
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series


def chance(
    rng: np.random.Generator, count: int, probability: float
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """`count` throws of a coin that shows True with `probability`."""
    return rng.random(count) < probability


def between(
    rng: np.random.Generator, count: int, low: float, high: float
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """`count` whole numbers from [low, high)."""
    return rng.integers(int(low), int(high), count)
