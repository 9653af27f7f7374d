"""What a run has still to start, and where it waits for a place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prefect.futures import PrefectFuture


class Lane(StrEnum):
    """Where a task waits: each lane has `settings.workers` places, so that none waits for another's."""

    API = "api"
    """Pages come one by one from somebody else's machine."""
    LAND = "land"
    BUILD = "build"


@dataclass
class Job:
    """The tasks that are still to be started for one source entity, one table, one view or one check."""

    name: str
    lane: Lane
    steps: deque[Callable[[], PrefectFuture[Any]]]
    size: int = 0
    """Of a landing what hangs on it, of a build its rows, roughly: the largest job of a lane goes first."""
    is_check: bool = False
    is_refresh: bool = False
    begun: float = 0.0
    """When its running task was submitted, by `time.perf_counter`."""
    entities: tuple[str, ...] = ()
    """Of a landing, whose rows it brings: tables that are read by their changes land together."""

    @property
    def is_awaited(self) -> bool:
        """Whether a table may wait for it."""
        return not self.is_check and not self.is_refresh

    @property
    def step(self) -> str:
        """What its tasks do, for people: `build fct_orders`."""
        kind = "check" if self.is_check else "refresh" if self.is_refresh else ""
        return f"{kind or ('build' if self.lane is Lane.BUILD else 'land')} {self.name}"
