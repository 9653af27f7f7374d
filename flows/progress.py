"""What a person sees while long work goes on: one line that lives on a terminal, plain lines elsewhere; in
Prefect's UI these lines again, as the run's logs.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType
from typing import IO


class Progress:
    """Counts steps and says what was done. Safe to call from several threads.

    On a terminal a rich bar counts the steps and finished lines scroll above it; when the output is
    a file or a pipe, each finished step is one line. Made within a flow, it tells that run's logs too.
    """

    def __init__(self, title: str, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._title = title
        self._begun = time.perf_counter()
        self._lock = threading.Lock()
        self._logger = _logger_of_run()
        self._bar = None
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            self._task = self._bar.add_task(title, total=0)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, steps: int) -> None:
        """Add steps to the bar's total."""
        with self._lock:
            if self._bar is not None:
                self._bar.update(self._task, total=(self._bar.tasks[0].total or 0) + steps)

    def advance(self) -> None:
        """Count one step as done."""
        with self._lock:
            if self._bar is not None:
                self._bar.update(self._task, advance=1)

    def say(self, part: str, message: str, level: int = logging.INFO) -> None:
        """One finished thing, on a line of its own: `part` is what it is about, `level` is for the log."""
        with self._lock:
            line = f"{time.perf_counter() - self._begun:6.1f} s  {part:<34} {message}"
            if self._bar is not None:
                self._bar.console.print(line, markup=False, highlight=False)
            else:
                print(line, file=self._stream, flush=True)
        if self._logger is not None:
            self._logger.log(level, "%s: %s", part, message)


def _logger_of_run() -> logging.Logger | logging.LoggerAdapter[logging.Logger] | None:
    """That of the flow run which this is part of, if any. No command imports Prefect for it."""
    if "prefect" not in sys.modules:
        return None
    from prefect import get_run_logger
    from prefect.exceptions import MissingContextError

    try:
        return get_run_logger()
    except MissingContextError:
        return None
