"""How far event time has come, as the partitions of a topic tell it. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

IDLE_AFTER = timedelta(minutes=5)
"""A partition that was read to its end and gave nothing for so long holds nobody back by more than that."""


@dataclass(frozen=True)
class Progress:
    """What is known of one partition, from what was taken in of it and committed; it stays true whoever reads
    it next, and however long nobody does.
    """

    latest: datetime | None
    """The latest event time in it; None: nothing yet."""
    idle: datetime | None
    """IDLE_AFTER before it was last read to its end, by the world's clock. None: it gave something less than
    IDLE_AFTER before that, or was never read to its end: what waits in it may be of any time since `latest`.
    """

    @property
    def reached(self) -> datetime | None:
        """How far event time has come in it; None: not known."""
        known = [moment for moment in (self.latest, self.idle) if moment is not None]
        return max(known, default=None)


def watermark(partitions: Iterable[Progress], before: datetime | None) -> datetime | None:
    """The event time before which little is to be expected; never earlier than `before`. None: not known.

    That of the slowest partition. No clock moves it by itself: where messages wait unread nothing says of
    which time they are, so it stands until they are read, and `before` stays while one partition has told
    nothing yet.
    """
    reached = [partition.reached for partition in partitions]
    known = [moment for moment in reached if moment is not None]
    if not known or len(known) < len(reached):
        return before
    return min(known) if before is None else max(min(known), before)
