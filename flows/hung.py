"""What hangs: a call that does not keep to its time is left to itself; the process of a run whose time is up
ends, and what it held is free.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

HOUR = 3600
"""Seconds."""
GRACE = 25.0
"""Seconds that a run that is stopped, or whose time is up, has to tell so and to end."""


def end_process_soon(seconds: float = GRACE, code: int = 1) -> None:
    """End this process with this exit code, whatever its threads wait for, if it is still there after
    `seconds`.

    Prefect ends a flow whose time is up and then waits for its tasks, and Python for its threads: one that
    hangs would keep the locks that the next run waits for. A kill at any moment is made good by that run.
    """
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def stop_when_told(stop: threading.Event, leaving: threading.Timer) -> None:
    """Have SIGTERM and Ctrl-C set `stop`, and start what ends the process if that does not help in time.

    Only the first does: another one that comes while it is handled (a group is often told beside its leader)
    would start a thread that is starting, and wait for ever for the event that is being set.
    """
    first = iter((stop,))

    def end(*_: object) -> None:
        for event in first:
            leaving.start()
            event.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises. Raises TimeoutError when it takes longer: it goes on in a thread that
    nobody waits for, not even the end of the process, and what it holds must not be used again.
    """
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised to whoever waits
            done.set_exception(error)

    threading.Thread(target=work, name="within", daemon=True).start()
    return done.result(seconds)
