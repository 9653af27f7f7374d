"""Another try of a task: whether it can end differently, and that nothing waits for it meanwhile.

Prefect counts and shows the tries. Its own delay would keep the place of the task's lane: the lists of one
API that is away would be waited for, one after the other, by everything else that is to be landed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from flows.build.content import ContentError
from flows.build.guard import CheckFailed
from flows.extract import SourceRefused
from flows.jobs import Job
from flows.settings import SettingsError
from flows.stores.manifest import ManifestDamaged
from flows.stores.verified import DamagedFile
from flows.stores.warehouse_errors import NoRight, NotLetIn, UnfitValue
from transforms.contract import ContractError
from transforms.engine import ModelError

_LASTING = (
    *(CheckFailed, ContentError, ContractError, ModelError),
    *(NoRight, NotLetIn, SettingsError, SourceRefused, UnfitValue),
    *(DamagedFile, ManifestDamaged),
)
"""Errors that the same data, code and settings would only give again."""


def may_pass(error: object) -> bool:
    """Whether another try can end differently: a service may come back, a wrong row stays wrong."""
    return not isinstance(error, _LASTING)


@dataclass
class Pause:
    """A task between two tries."""

    job: Job
    error: BaseException
    is_over: bool = False


class Pauses:
    """The pauses of one run. Each holds a thread of Prefect's, which sleeps, and no place of a lane.

    `retries`: how often a task is tried again; `tell` hears of each pause when it begins, and has to end it.
    """

    def __init__(self, retries: int, tell: Callable[[Pause], None]) -> None:
        self._retries = retries
        self._tell = tell
        self._change = threading.Condition()
        self._is_given_up = False

    def options(self, job: Job) -> dict[str, Any]:
        """What Prefect is to know of a task of this job: how often it is tried, and whom to ask whether."""

        def is_to_be_tried(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
            error = state.result(raise_on_failure=False)
            return may_pass(error) and self._rest(Pause(job, error))

        return {"retries": self._retries, "retry_condition_fn": is_to_be_tried}

    def _rest(self, pause: Pause) -> bool:
        """Sleep until it is over; whether the task is to be tried again. In the thread of the task."""
        self._tell(pause)
        with self._change:
            self._change.wait_for(lambda: pause.is_over or self._is_given_up)
            return not self._is_given_up

    def end(self, pause: Pause) -> None:
        """Let a task have its next try."""
        with self._change:
            pause.is_over = True
            self._change.notify_all()

    def give_up(self) -> None:
        """End all of them, also those to come: nobody hears any more how a task ends."""
        with self._change:
            self._is_given_up = True
            self._change.notify_all()
