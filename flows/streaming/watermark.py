"""How far event time has come, as the partitions of a topic tell it. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

IDLE_AFTER = timedelta(minutes=5)
"""A partition that gave nothing for so long holds nobody back."""


@dataclass(frozen=True)
class Progress:
    """One partition: the latest event time that was taken in of it (None: nothing yet), and since when
    nothing came."""

    latest: datetime | None
    idle: timedelta


def watermark(partitions: Iterable[Progress], now: datetime, before: datetime | None) -> datetime | None:
    """The event time before which little is to be expected; never earlier than `before`. None: not known.

    The least of the partitions that are not idle. One that is not idle and gave nothing yet may give
    anything, so nothing moves. Where all are idle time goes on by the clock, as far behind it as it took to
    call them idle.
    """
    active = [partition.latest for partition in partitions if partition.idle < IDLE_AFTER]
    if None in active:
        return before
    found = min((latest for latest in active if latest is not None), default=now - IDLE_AFTER)
    return found if before is None else max(found, before)
