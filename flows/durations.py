"""Times and lengths of time as people type and read them."""

from __future__ import annotations

from datetime import UTC, datetime

from flows.errors import FlowsError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_READ = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class BadRange(FlowsError):
    """The range of a backfill can't be read or holds nothing."""


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


def spoken(seconds: float) -> str:
    """A length of time for people: 2.3 s, 45 s, 4 min 10 s, 3 h 5 min, 2 d 4 h."""
    if seconds < 10 and seconds % 1:
        return f"{max(0.0, seconds):.1f} s"
    whole = max(0, round(seconds))
    units = list(_READ)
    while len(units) > 1 and whole < units[0][0]:
        del units[0]
    told = [f"{whole // units[0][0]} {units[0][1]}"]
    if units[1:] and (rest := whole % units[0][0] // units[1][0]):
        told.append(f"{rest} {units[1][1]}")
    return " ".join(told)


def parse_bound(text: str) -> datetime:
    """A day or instant given on the command line, UTC. Raises ValueError, also for a week of ISO 8601, which
    Python takes for its first day.
    """
    if "W" in text.upper():
        raise ValueError(text)
    moment = datetime.fromisoformat(text)
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # by its offset it is of the year 0, or of 10000
        raise ValueError(text) from None


def days_between(start: str, end: str) -> tuple[datetime, datetime]:
    """The range [start, end) of a backfill, from what was typed. Raises BadRange."""
    first, last = _day("--from", start), _day("--to", end)
    if last <= first:
        raise BadRange(
            f"--from {start} is not before --to {end}: the range ends before the day that --to names."
        )
    return first, last


def _day(name: str, text: str) -> datetime:
    try:
        return parse_bound(text)
    except ValueError:
        raise BadRange(f"{name} '{text}' is no day; write it like 2025-10-07.") from None
