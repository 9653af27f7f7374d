"""How far a table was read by its rows, as its position keeps it, and from where another way of reading goes
on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.extract.postgres_ahead import AHEAD
from flows.extract.schema_contract import CATALOG
from transforms.contract import FIRST_INSTANT
from transforms.entities import Postgres, SourceEntity

Mark = datetime | int
HOW = "how"
"""Key under which a position keeps the way in which its table was read."""
_OF_ROWS = frozenset({"mark", "pending", "recent", AHEAD, "compared_at", "content", "last", HOW})


def anew() -> dict[str, Any]:
    """What a table is read from when a mark says nothing: all of it, compared with all that was landed."""
    beginning = FIRST_INSTANT.isoformat()
    return {"recent": [[beginning, None]], "last": beginning}


def is_anew(positions: Mapping[str, Any]) -> bool:
    """Whether that is how an incremental read goes on."""
    return "last" in positions


def how(entity: SourceEntity, read: Postgres, log: tuple[str, int]) -> dict[str, Any]:
    """The way in which a declaration has its table read, of a server with this log, as positions keep it."""
    seconds = read.lookback.total_seconds()
    way = {"mode": read.mode, "cursor": read.cursor, "key": list(entity.key), "lookback": seconds}
    return {**way, "log": list(log)}


def continued(
    positions: Mapping[str, Any], now: Mapping[str, Any], table: int
) -> tuple[dict[str, Any], list[str]]:
    """The position from which the table with oid `table` is read in the way `now`, and what is otherwise than
    it was.

    A mark speaks of one column of one table, a digest of one content under one key; of any other they would
    hide what changed before. So where one of these is another now, the read begins anew. So it does where the
    server has gone back, to a backup or to a standby that lacks the last of it: rows are as they were then.
    """
    reasons = list(_otherwise(positions, now, table))
    if not reasons:
        return dict(positions), reasons
    return {name: value for name, value in positions.items() if name not in _OF_ROWS} | anew(), reasons


def begins_anew(positions: Mapping[str, Any], entity: SourceEntity, read: Postgres) -> bool:
    """Whether the declaration has the table read anew; what became of table and server only reading tells."""
    now = how(entity, read, positions.get(HOW, {}).get("log", ("", 0)))
    return any(_otherwise(positions, now, positions.get(CATALOG, {}).get("table", 0)))


def _otherwise(positions: Mapping[str, Any], now: Mapping[str, Any], table: int) -> Iterator[str]:
    modes = {"content": "snapshot", "mark": "incremental"}
    mode = next((mode for name, mode in modes.items() if name in positions), now["mode"])
    was = positions.get(HOW, now)
    if was["key"] != now["key"]:
        yield f"its key was {', '.join(was['key'])} before"
    if mode != now["mode"]:
        yield f"it was read by mode {mode} before"
    elif mode == "incremental":  # a snapshot is all of it anyway
        if was["cursor"] != now["cursor"]:
            yield f"its cursor was {was['cursor']} before"
        if was["lookback"] < now["lookback"]:
            yield f"its lookback was {timedelta(seconds=was['lookback'])} before"
        if positions.get(CATALOG, {}).get("table", table) != table:
            yield "its table in the database is another one than before"
        elif was["log"][0] != now["log"][0] or was["log"][1] > now["log"][1] > 0:
            yield "its server was restored or replaced since"


def reaches(high: Mark | None, lower: Mark) -> bool:
    """Whether what was read up to `high` may be met again from `lower` on."""
    if isinstance(high, datetime) and isinstance(lower, datetime):
        return high >= lower
    return isinstance(high, int) and isinstance(lower, int) and high >= lower


def as_json(mark: Mark | None) -> str | int | None:
    """A mark as a position keeps it."""
    return mark.astimezone(UTC).isoformat() if isinstance(mark, datetime) else mark


def parsed(value: str | int | None) -> Mark | None:
    """A mark that a position keeps."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value
