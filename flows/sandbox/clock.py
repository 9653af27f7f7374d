"""The sandbox's world has a time of its own: so many seconds ahead of the real clock."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flows.sandbox.state import Offsets, State, read, update


def set_offset(folder: Path, seconds: float) -> State:
    """Let the sandbox's world be `seconds` ahead of the real clock (negative: behind) from now on."""

    def moved(state: State) -> State:
        if state.clock_offset_seconds == seconds:
            return state
        earlier = (*state.earlier_offsets, (time.time_ns() // 1000, state.clock_offset_seconds))
        return replace(state, clock_offset_seconds=seconds, earlier_offsets=earlier[-1_000:])

    return update(folder, moved)


def offset(folder: Path) -> tuple[float, Offsets]:
    """How far the sandbox's world is ahead, and was before. Asked often, read when the file changed."""
    try:
        return _offset(folder, (folder / "state.json").stat().st_mtime_ns)
    except OSError:
        return 0.0, ()


@lru_cache(maxsize=8)
def _offset(folder: Path, _changed_at: int) -> tuple[float, Offsets]:
    state = read(folder)
    return (state.clock_offset_seconds, state.earlier_offsets) if state is not None else (0.0, ())
