"""Times and lengths of time as people type them."""

from __future__ import annotations

from datetime import UTC, datetime

from flows.errors import FlowsError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def length_of_time(text: str) -> float:
    """Seconds of 45s, 10m, 2h or a plain number of seconds. Raises FlowsError for anything else."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise FlowsError(f"'{text}' is no length of time; write it like 45s, 10m or 2h.")
    return seconds


def parse_bound(text: str) -> datetime:
    """A day or instant given on the command line, UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
