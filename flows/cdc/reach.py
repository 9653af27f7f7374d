"""How far a topic was read, and whether nothing of it is left: as silence tells, and as its broker does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_NEVER = 0.0
"""Before anything that was read."""


@dataclass(frozen=True)
class _Answer:
    at: float
    end: int


@dataclass
class Reach:
    """Where reading a topic has got to, and when nothing was left to read."""

    position: int
    end: int
    """Its end when reading began."""
    ask: Callable[[], int | None]
    """Its end at this moment; None while the broker does not answer."""
    is_at_end: bool = False
    at: float = _NEVER
    _answers_since: float | None = None
    """Since when every question was answered; None: the last one was not, or there was no reason to ask."""
    _to_reach: _Answer = field(default=_Answer(_NEVER, 0))
    """An end that was told, and maybe not reached yet: where much comes, there is always a newer one."""
    _read_at: float = _NEVER
    """All that was there at this moment was read: the broker told the end then."""

    def note(self, after: int, *, is_end: bool) -> None:
        """Its end was reached at this offset, or the record before it was read."""
        self.position = max(self.position, after)
        self.is_at_end = is_end
        if is_end:
            self.at = time.monotonic()

    def silent(self, seconds: float) -> float:
        """What came before this moment would be here so many seconds later, if silence says that nothing is
        left. It does not when the broker is away.
        """
        return (time.monotonic() if self.is_at_end else self.at) - seconds

    def read(self, seconds: float) -> float:
        """What came before this moment would be here so many seconds later: the broker has answered for as
        long, and all was read that it had.
        """
        before = self._read_at - seconds
        has_answered = self._answers_since is not None and self._answers_since <= before
        return before if has_answered else _NEVER

    def look(self) -> bool:
        """Ask the broker how far the topic goes; whether it answered."""
        end, now = self.ask(), time.monotonic()
        if end is None:
            self.rest()
            return False
        if self._answers_since is None:
            self._answers_since = now
        if self._is_reached():
            self._to_reach = _Answer(now, end)
            self._is_reached()
        return True

    def rest(self) -> None:
        """Nothing is asked for a while: whether the broker is there meanwhile nobody knows."""
        self._answers_since = None

    def _is_reached(self) -> bool:
        is_reached = self._to_reach.end <= self.position
        if is_reached:
            self._read_at = self._to_reach.at
        return is_reached
