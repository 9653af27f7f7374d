"""Whether the clock may say what is old: what goes for its age goes for good, and to a clock that is ahead
everything is old.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

_SILENCE = timedelta(days=8)
"""A week, and the time that one run takes or waits."""
_SETTLES = timedelta(days=1)


def doubt(connection: Connection[Any], now: datetime) -> str | None:
    """Why nothing is to go for its age now, for people; None where nothing speaks against it.

    Runs leave a trail by the same clock. Where no run is known of a week until less than a day ago, nobody
    ran anything, or the clock has jumped: a clock that is ahead for a run or a night is not believed.
    """
    row = connection.execute(
        "select max(started_at) from ops.run where started_at < %s", (now - _SETTLES,)
    ).fetchone()
    last: datetime | None = row[0] if row else None
    if last is None or now - last < _SILENCE:
        return None
    return (
        f"Nothing was let go of for its age: between {last:%Y-%m-%d %H:%M} UTC and today no run is known, "
        f"so the clock ({now:%Y-%m-%d %H:%M} UTC now) may be ahead. See which time is right (`timedatectl`). "
        "If this one is, run `python -m flows maintain` now and again a day to a week later: that lets it go."
    )
