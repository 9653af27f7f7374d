"""Asking the services: what was asked, what was seen, what to do."""

from __future__ import annotations

from dataclasses import dataclass

TIMEOUT_SECONDS = 5
"""How long a service may take to answer one question."""
LEAST_FREE_BYTES = 2 << 30
"""What a run needs, however large a disk is."""
_MOST_CLOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """What was asked of one service, whether it is well, what was seen, and what to do when it is not."""

    subject: str
    well: bool
    seen: str
    advice: str = ""


def clock(subject: str, there: float, asked: float, answered: float) -> Finding:
    """How far a service's clock is from this machine's, in seconds since 1970: it said `there` at some moment
    between the two others.
    """
    seconds = max(0.0, asked - there, there - answered)
    return Finding(
        f"{subject}: clock",
        seconds <= _MOST_CLOCK_SECONDS,
        f"{seconds:.1f} s from this machine's",
        "Set both machines by NTP: freshness is judged by comparing their clocks.",
    )


def room(subject: str, place: str, free: int) -> Finding:
    """Whether a disk has room for a run. `place` is what stands there, `free` bytes."""
    advice = f"Less than {LEAST_FREE_BYTES >> 30} GiB are free: make room there before the next run."
    return Finding(subject, free >= LEAST_FREE_BYTES, f"{place}, {free / 1e9:.0f} GB free", advice)
