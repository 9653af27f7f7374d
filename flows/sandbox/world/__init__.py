"""The generated company: one consistent world in the application's database, the topics and behind the APIs.

ensure(state)              # makes the world of a sandbox once, and sets its clock
ensure_empty(state, parts) # where a part of it is somebody's own: tables and topics without a company
advance(state, days=1)     # lets it live on, and its clock with it
lives.create / lives.advance / lives.exists     # the same on bare addresses, without a clock
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypedDict

from flows.errors import FlowsError
from flows.sandbox import clock
from flows.sandbox.state import Part, State, exclusive
from flows.sandbox.world import app, lives, topics
from flows.sandbox.world.lives import World, exists
from flows.sandbox.world.shape import WorldError

__all__ = ["World", "WorldError", "advance", "ensure", "ensure_empty", "exists", "hold_to_size", "sizes"]

_EVENTS_PER_DAY = 21_429
"""Of a world of scale 1."""
_MOST_DAYS = 3_650
"""Of a new world, and of one step forwards: the calendar of the models ends."""

Progress = Callable[[str, str], None]


def _silent(part: str, message: str) -> None:
    pass


def ensure(
    state: State,
    *,
    scale: float = 1.0,
    days: int = 14,
    progress: Progress = _silent,
    has_tables: Callable[[], None] | None = None,
    is_held: bool = False,
) -> World:
    """The world of a sandbox; it is made when there is none or only half of one.

    The sandbox's clock then stands at the world's end. Sizes are those of the first call. `has_tables` is
    called as soon as the application's tables are there; `is_held`: the caller holds the sandbox
    (`exclusive`). Raises FlowsError when database, broker or APIs were never started.
    """
    if (world := _whole(state)) is not None:
        if state.clock_offset_seconds == 0:  # the clock was not reached when the world was made
            _set_clock(state, world.end, None)
        if has_tables is not None:
            has_tables()
        return world
    dsn, bootstrap, apis = _addresses(state)
    waiting = partial(progress, "world", "waiting for another start or stop")
    with nullcontext() if is_held else exclusive(state.folder, waiting):
        if (world := _whole(state)) is not None:
            return world  # made by whom we waited for
        world = lives.create(
            state.folder,
            dsn,
            bootstrap,
            apis,
            **sizes(scale, days),
            progress=_lines(progress),
            has_tables=has_tables,
        )
        _set_clock(state, world.end, None)
    progress("world", f"ends at {world.end:%Y-%m-%d %H:%M} UTC")
    return world


class Sizes(TypedDict):
    """Of a new world, as `lives.create` takes them."""

    days: int
    events_per_day: int
    users: int
    newcomers: int
    orders: int


def sizes(scale: float, days: int) -> Sizes:
    """Scale 1 is 300,000 events in 14 days from 5,000 users, of whom 2,000 sign up in these days; 23.4 is
    500,000 events a day. A day holds as much in a world of any length.
    """
    newcomers = round(2_000 * scale * days / 14)
    return {
        "days": days,
        "events_per_day": round(_EVENTS_PER_DAY * scale),
        "users": round(3_000 * scale) + newcomers,
        "newcomers": newcomers,
        "orders": round(20_000 * scale * days / 14),
    }


def ensure_empty(state: State, parts: frozenset[Part]) -> None:
    """What a run reads of `parts`, which run, where the others are somebody's own: tables and topics are
    there, empty. A generated company beside real data would be a lie, and its clock is not theirs.
    """
    if Part.APP_POSTGRES in parts and state.app_dsn:
        app.ensure(state.app_dsn)
    if Part.KAFKA in parts and state.kafka_bootstrap:
        topics.ensure(state.kafka_bootstrap)


def hold_to_size(folder: Path, scale: float | None, days: int | None) -> None:
    """Raise FlowsError unless the world in `folder` is, or will be, of the size that is asked for; None: any
    is right.
    """
    if (scale is not None and not 0 < scale < math.inf) or (days is not None and not 1 <= days <= _MOST_DAYS):
        raise FlowsError(f"A world needs a --scale above 0 and 1 to {_MOST_DAYS:,} --days.")
    world = World.load(folder)
    if world is None or not world.done:
        return
    shape = world.shape
    is_scale = scale is None or round(_EVENTS_PER_DAY * scale) == shape.events_per_day
    if is_scale and days in (None, shape.days):
        return
    made_with = f"--scale {shape.events_per_day / _EVENTS_PER_DAY:.3g} --days {shape.days}"
    raise FlowsError(
        f"There is a world in {folder} already, made with {made_with}, and it keeps its size; nothing was "
        "started. Leave --scale and --days out, or delete it (python -m flows sandbox reset) and run this "
        "again for a new one."
    )


def _whole(state: State) -> World | None:
    return World.load(state.folder) if exists(state.folder) else None


def advance(
    state: State,
    *,
    days: int = 1,
    rate: float | None = None,
    progress: Progress = _silent,
) -> World:
    """Let the world and the clock of a sandbox go on by `days` days, its messages coming at `rate` a second;
    an interrupted advance is finished first, instead. The clock moves before rows and messages come: to a
    reader none is ahead of it.

    Raises WorldError when there is no world or it can't go on so, FlowsError when database, broker or APIs
    were never started.
    """
    if not 1 <= days <= _MOST_DAYS or (rate is not None and not 0 < rate < math.inf):
        raise WorldError(
            f"A world lives on by whole days, 1 to {_MOST_DAYS:,} at a time (--days 1), at a --rate above 0. "
            "Nothing was done."
        )
    dsn, bootstrap, apis = _addresses(state)
    with exclusive(state.folder, lambda: progress("world", "waiting for another start or stop")):
        before = World.load(state.folder)
        is_resumed = before is not None and before.pending is not None

        def move_clock(end: datetime) -> timedelta:
            # An interrupted advance may have moved it already: then it only must not stand before the end.
            gone = 0.0 if before is None or is_resumed else (end - before.end).total_seconds()
            return _set_clock(state, end, state.clock_offset_seconds + gone)

        world = lives.advance(
            state.folder,
            dsn,
            bootstrap,
            apis,
            days=days,
            rate=rate,
            progress=_lines(progress),
            clock=move_clock,
        )
    progress("world", f"ends at {world.end:%Y-%m-%d %H:%M} UTC")
    return world


def _set_clock(state: State, end: datetime, offset: float | None) -> timedelta:
    """Set the clock to `offset`, but never before the world's end; None: right to it. Returns the offset."""
    least = end.timestamp() - time.time()
    chosen = least if offset is None or offset < least else offset
    clock.set_offset(state.folder, chosen)
    return timedelta(seconds=chosen)


def _addresses(state: State) -> tuple[str, str, Path]:
    if not state.app_dsn or not state.kafka_bootstrap:
        raise FlowsError(
            f"The sandbox in {state.folder} has no database or no broker: "
            "`python -m flows sandbox start` brings up both."
        )
    return state.app_dsn, state.kafka_bootstrap, state.apis_database


def _lines(progress: Progress) -> lives.Progress:
    def line(what: str, done: int, steps: int) -> None:
        if done < steps:
            progress("world", f"{what} ({done + 1} of {steps})")

    return line
