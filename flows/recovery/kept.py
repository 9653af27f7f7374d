"""What a folder of backups holds: those that are whole, those that can't be read, and which of them stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True)
class Kept:
    """A whole backup of either kind, as its backup.json tells."""

    folder: Path
    taken_at: datetime
    server_version: int
    recipient: str | None
    """The public key that it is sealed for."""
    warehouse: str | None
    """Which one it is of (`ops.identity`); None where an earlier version took it."""

    @property
    def id(self) -> str:
        """Its name: the moment at which it was begun."""
        return self.folder.name

    @property
    def bytes(self) -> int:
        """Bytes of its own files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


K = TypeVar("K", bound=Kept)
_JUMP = timedelta(hours=1)


@dataclass(frozen=True)
class Unreadable:
    """A backup that does not tell what it holds. It is left alone, and nothing that it may need goes."""

    folder: Path
    problem: str
    """What is wrong with it and what to do, for people."""

    @property
    def id(self) -> str:
        """Its name."""
        return self.folder.name


def by(there: Sequence[K], now: datetime) -> list[K]:
    """Those of backups that were taken by a time. One that says it was taken later was taken by a clock that
    was ahead: how old it is nobody knows.
    """
    return [backup for backup in there if backup.taken_at <= now]


def is_steady(began: datetime, now: datetime, seconds: float) -> bool:
    """Whether a clock went on as long as `seconds` lasted, within an hour."""
    return abs((now - began).total_seconds() - seconds) < _JUMP.total_seconds()


def staying(there: Sequence[K], now: datetime, days: int, weeks: int) -> Iterator[K]:
    """Of backups, the newest first, those whose time has not come (`Shelf.expire`)."""
    past = by(there, now)
    yield from (backup for backup in there if backup not in past)
    newest_of: set[tuple[Any, ...]] = set()
    for backup in past:  # the newest first
        day, week = backup.taken_at.date(), backup.taken_at.isocalendar()[:2]
        age = now - backup.taken_at
        is_first = not newest_of
        is_of_day = ("day", day) not in newest_of and age < timedelta(days=days)
        is_of_week = ("week", week) not in newest_of and age < timedelta(weeks=weeks)
        newest_of.update({("day", day), ("week", week)})
        if is_first or is_of_day or is_of_week:
            yield backup
