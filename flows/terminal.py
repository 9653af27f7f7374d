"""A command's terminal: what may be written there, and how its process ends."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys


def end_with(code: int) -> None:
    """End the process without tearing the interpreter down, once everything else was.

    Prefect's threads outlive a flow and hold objects of DuckDB, whose bindings would report each of them on
    the terminal as a leak.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def heed_ctrl_c() -> None:
    """Let Ctrl-C wake the main thread from waiting for others: Polars, once imported, handles it before
    Python does, in a way that has the system let it wait on.
    """
    importlib.import_module("polars")
    signal.siginterrupt(signal.SIGINT, True)


def say_anything() -> None:
    """Let a terminal that has not every letter get the others as `\\xb7`; nothing can be said to one that was
    closed, which Python has as None.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_scrubbed(_kind: object, error: BaseException, _where: object) -> None:
    """A traceback without the secrets that libraries quote."""
    from flows.scrubbing import told

    print(told(error), file=sys.stderr, end="")
