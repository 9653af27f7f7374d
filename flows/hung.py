"""The end of a run whose time is up while something in it hangs: its process goes, what it held is free."""

from __future__ import annotations

import os
import threading

HOUR = 3600
"""Seconds."""
GRACE = 60.0
"""Seconds that a run whose time is up has to tell so and to end."""


def end_process_soon(seconds: float = GRACE) -> None:
    """End this process, whatever its threads wait for, if it is still there after `seconds`.

    Prefect ends a flow whose time is up and then waits for its tasks, and Python for its threads: one that
    hangs would keep the locks that the next run waits for. A kill at any moment is made good by that run.
    """
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
