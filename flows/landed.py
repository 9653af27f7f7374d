"""What every landing has, whoever makes it: its folder, and a time that never goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flows.stores.ledger_rows import Position

LANDED_ON = "landed_on"
"""Folder column of raw files: the day they were landed."""
CLOCK = "landed_at"
"""Key under which a position keeps the time of its landing."""


def landing_time(now: datetime, position: Position) -> datetime:
    """The time of a landing that begins now: never the same or an earlier one for one entity, whatever the
    clock does.
    """
    last = position.positions.get(CLOCK)
    if last is None:
        return now.astimezone(UTC)
    return max(now.astimezone(UTC), datetime.fromisoformat(last) + timedelta(microseconds=1))
