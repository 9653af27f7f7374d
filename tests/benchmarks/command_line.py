"""How long the command line takes to answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.server import Server

_ROOT = Path(__file__).resolve().parents[2]


def run(_server: Server, full: bool) -> Iterator[Result]:
    """`python -m flows --help` as a person types it, files in the operating system's cache."""

    def ask(number: int) -> float:
        with stopwatch() as elapsed:
            subprocess.run(
                [sys.executable, "-m", "flows", "--help"], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL
            )
        return elapsed()

    ask(0)
    times = alternate({"help": ask}, rounds=21 if full else 11)
    yield Result("python -m flows --help", times.median("help"), "s", 0.3, "at most", None, times.details())
