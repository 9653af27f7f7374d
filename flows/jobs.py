"""What a run has still to start, and where it waits for a place."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from prefect.futures import PrefectFuture
from prefect.tasks import Task

if TYPE_CHECKING:
    from flows.tries import Pause


class Lane(StrEnum):
    """Where a task waits: each lane has `settings.workers` places, so that none waits for another's."""

    API = "api"
    """Pages come one by one from somebody else's machine."""
    LAND = "land"
    BUILD = "build"


@dataclass(frozen=True)
class Step:
    """A task and what it is given."""

    task: Task[..., Any]
    arguments: tuple[Any, ...]

    def submit(self, **options: Any) -> PrefectFuture[Any]:
        """Start it, with these options of Prefect's."""
        return self.task.with_options(**options).submit(*self.arguments)


@dataclass
class Job:
    """The tasks that are still to be started for one source entity, one table, one view or one check."""

    name: str
    lane: Lane
    steps: deque[Step]
    size: int = 0
    """Of a landing what hangs on it, of a build its rows, roughly: the largest job of a lane goes first."""
    is_check: bool = False
    is_refresh: bool = False
    begun: float = 0.0
    """When its running task got its place, by `time.perf_counter`."""
    pause: Pause | None = None
    """Where its task has failed and is to be tried again: it waits for its time, and then for a place."""
    not_before: float = 0.0
    """When that time has come, by `time.perf_counter`."""
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
