"""Results, and how they are measured: both sides in turn, medians of the rounds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Unit = Literal["×", "s", "ms", "/s", "GB", "MB/h", "of 1"]

_LIBRARIES = (
    "adbc-driver-postgresql",
    "duckdb",
    "great-expectations",
    "polars",
    "prefect",
    "psycopg",
    "pyarrow",
)


@dataclass(frozen=True)
class Result:
    """One claim and what was measured. `bound` says on which side of `target` the value has to be."""

    claim: str
    value: float
    unit: Unit
    target: float
    bound: Literal["at most", "at least"]
    aim: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Seconds of every round by side, rows, and whatever else explains the value."""

    @property
    def holds(self) -> bool:
        """Whether the target is met."""
        return self.value <= self.target if self.bound == "at most" else self.value >= self.target

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "claim": self.claim,
            "value": round(self.value, 3),
            "unit": self.unit,
            "target": f"{'≤' if self.bound == 'at most' else '≥'} {self.target:g}",
            "aim": self.aim,
            "holds": self.holds,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class Rounds:
    """Seconds of every round by side; a round holds each side once, so it saw one and the same machine."""

    seconds: Mapping[str, list[float]]

    def ratio(self, numerator: str, denominator: str) -> float:
        """The median of the rounds' own ratios: what slows a whole round down cancels out."""
        pairs = zip(self.seconds[numerator], self.seconds[denominator], strict=True)
        return statistics.median(above / below for above, below in pairs)

    def median(self, side: str) -> float:
        """Seconds of one side."""
        return statistics.median(self.seconds[side])

    def details(self, **more: Any) -> dict[str, Any]:
        """For Result.details."""
        rounded = {side: [round(value, 3) for value in values] for side, values in self.seconds.items()}
        return {"seconds": rounded, **more}


def alternate(sides: Mapping[str, Callable[[int], float]], rounds: int) -> Rounds:
    """Run all sides in every round, each second round backwards. A side is given the round's number and
    returns the seconds that count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            seconds[name].append(sides[name](number))
    return Rounds(seconds)


def slope(samples: Iterable[tuple[float, float]], after: float) -> float:
    """How fast the second of each pair grows with the first, by least squares, over what comes `after`."""
    points = [point for point in samples if point[0] > after]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Gives a function that says how long the block took (or has taken so far)."""
    begun = time.perf_counter()
    ended: list[float] = []
    try:
        yield lambda: (ended[0] if ended else time.perf_counter()) - begun
    finally:
        ended.append(time.perf_counter())


def machine(**more: str) -> dict[str, Any]:
    """What the numbers were measured on. No names of hosts, no paths."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        **more,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
