"""backup, drill: can the way back be gone, and was it?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Watch
from flows.stores.locks import DRILL_LOCK, is_anybodys

BACKUP, DRILL = "backup", "drill"
BACKUP_WITHIN, DRILL_WITHIN = timedelta(hours=26), timedelta(days=8)
"""A day and a week, and the time that one takes or waits."""
_TAKE, _REHEARSE = "python -m flows backup", "python -m flows restore --verify"


def backups(watch: Watch) -> Iterator[Verdict]:
    """Seconds since the newest backup was taken; held to its schedule where that is on."""
    row = watch.rows("select max(taken_at) from ops.backup where taken_at <= %s", watch.now)[0]
    yield _aged(watch, BACKUP, row[0], BACKUP_WITHIN, "No backup was taken", f"Take one: {_TAKE}")


def drills(watch: Watch) -> Iterator[Verdict]:
    """Whether the last rehearsal of a restore led to what was live, and seconds since then. One that broke
    off did not; one that is under way says nothing yet.
    """
    seen = _newest(watch)
    is_one_alive = is_anybodys(watch.connection, *DRILL_LOCK)
    rows = _newest(watch)
    # One enters its end before it lets go of the lock, and its beginning once it has it: killed is what had
    # not ended before nobody had the lock, and has not since.
    if rows and not rows[0][1] and not rows[0][2] and (is_one_alive or rows[0] not in seen):
        rows = rows[1:]  # it is under way
    if rows and not rows[0][1]:
        started, _, differences = rows[0]
        first = str(differences[0]) if differences else "it did not come to its end"
        yield watch.says(
            DRILL,
            "warehouse",
            (watch.now - started).total_seconds(),
            DRILL_WITHIN.total_seconds(),
            "s",
            state=State.CRITICAL,
            message=f"The last drill did not lead back to what is live: {first}",
            action=f"Mend what it names, take a backup ({_TAKE}), then rehearse again: {_REHEARSE}",
            observed={"differences": differences[:5]},
        )
        return
    last = rows[0][0] if rows else None
    yield _aged(watch, DRILL, last, DRILL_WITHIN, "The way back was not rehearsed", f"Go it: {_REHEARSE}")


def _newest(watch: Watch) -> list[tuple[Any, ...]]:
    return watch.rows(
        "select started_at, is_equal, differences from ops.drill where started_at <= %s "
        "order by started_at desc limit 2",
        watch.now,
    )


def _aged(
    watch: Watch, signal: str, last: datetime | None, limit: timedelta, what: str, action: str
) -> Verdict:
    """How long ago something was done. Where its schedule is off nobody has promised it."""
    age = (watch.now - last).total_seconds() if last else None
    is_promised = watch.schedules.problem or signal in watch.schedules.on
    is_late = bool(is_promised) and (age is None or age > limit.total_seconds())
    since = f" since {last:%Y-%m-%d %H:%M} UTC" if last else " yet"
    return watch.says(
        signal,
        "warehouse",
        age,
        limit.total_seconds(),
        "s",
        state=State.WARNING if is_late else State.OK,
        message=f"{what}{since}." if is_late else "",
        action=action,
        observed={} if is_promised else {"schedule": "off"},
    )
