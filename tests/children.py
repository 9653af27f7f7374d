"""Processes of a test's own, which end or are killed: forked from one that has imported everything and read
the models but runs nothing, so that none of them takes seconds to begin.

They have the environment in which the test run began; what a test has set or patched since then is not there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from typing import Any

from flows import failpoints

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preloaded"])


def begun(do: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process that does this; what is done has to be found by importing. Whoever begins it ends it."""
    child = _context.Process(target=do, args=arguments)
    child.start()
    return child


def barrier(parties: int) -> Barrier:
    """Where so many of these processes meet before they go on."""
    return _context.Barrier(parties)


def exit_code(do: Callable[..., object], *arguments: Any, seconds: float = 240) -> int | None:
    """Of a process that does this; below zero the signal that killed it. AssertionError: it did not end."""
    child = begun(do, *arguments)
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"{do.__name__}{arguments[1:]} did not end within {seconds:.0f} s")
    return child.exitcode


def dies(
    failpoint: str,
    do: Callable[..., object],
    *arguments: Any,
    passes: int = 0,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Whether a process that does this dies at a failpoint, which it passes so often before; False: it ended
    without getting there. AssertionError if it ended in another way.
    """
    code = exit_code(_armed, failpoint, passes, dict(environment or {}), do, arguments)
    assert code in (0, -signal.SIGKILL), f"{do.__name__}, to be killed at {failpoint}, ended with {code}"
    return code == -signal.SIGKILL


def _armed(
    failpoint: str,
    passes: int,
    environment: dict[str, str],
    do: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    failpoints.arm(failpoint, passes)
    do(*arguments)
