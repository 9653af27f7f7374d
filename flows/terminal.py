"""A command's terminal: what may be written there, and how its process ends."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from typing import Any, TextIO


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


class _Unheard(io.FileIO):
    """A stream of the process whose reader may leave (`| head`, a terminal that is closed): what is said then
    goes nowhere, for the work goes on, and its exit code is told all the same.
    """

    def write(self, data: Any, /) -> int:
        """As FileIO does; what nobody reads counts as written."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.EIO}:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def hear_ctrl_c() -> None:
    """Ctrl-C is an exception from here on. It just ended what has not begun (see flows/__init__.py); who has
    started us deaf to it keeps us so.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_ctrl_c(error: BaseException) -> bool:
    """Whether this is Ctrl-C, or what DuckDB makes of the exception that its handler has raised in the main
    thread: an error like any other, which would be told as a failure.
    """
    return isinstance(error, KeyboardInterrupt) or (
        type(error) is RuntimeError and str(error) == "Query interrupted"
    )


def let_ctrl_c_end() -> None:
    """Ctrl-C ends the process at once: what there was to be done is done, or given up."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def say_anything() -> None:
    """Let a terminal that has not every letter get the others as `\\xb7`, and one that has gone keep nothing
    from being done; nothing can be said to one that was closed, which Python has as None.
    """
    sys.stdout, sys.stderr = _heard(sys.stdout), _heard(sys.stderr)


def _heard(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unheard(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def show_scrubbed(_kind: object, error: BaseException, _where: object) -> None:
    """A traceback without the secrets that libraries quote."""
    from flows.scrubbing import told

    print(told(error), file=sys.stderr, end="")
