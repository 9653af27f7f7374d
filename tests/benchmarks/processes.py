"""Work measured in a process of its own: seconds, and memory that nobody else's data are part of."""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import SecretStr

from flows.services import Services
from flows.settings import Settings, load
from quality.expectations import close as close_sessions
from tests.benchmarks.measure import stopwatch

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Done(Generic[T]):
    """What the work gave, and what it took."""

    result: T
    seconds: float
    peak_gb: float
    samples: tuple[tuple[float, float], ...]
    """(seconds since it began, resident GB), each second; none where the system does not tell."""


def in_child(settings: Settings, work: Callable[..., T], *arguments: Any) -> Done[T]:
    """`work(services, *arguments)` in a fresh process; both have to be found by importing."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    fields = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings.model_dump().items()
        if value is not None
    }
    child = context.Process(target=_child, args=(there, fields, work, arguments))
    child.start()
    there.close()
    try:
        done: Done[T] = here.recv()
    except EOFError:
        raise AssertionError(f"{work.__name__} died in its process; see the error above.") from None
    finally:
        child.join()
    return done


def _child(
    answer: Connection, fields: dict[str, object], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    importlib.import_module("adbc_driver_postgresql.dbapi")  # brings pandas: a start that is not counted
    services = Services(load(**{**fields, "lake": Path(str(fields["lake"]))}))
    samples: list[tuple[float, float]] = []
    is_over = threading.Event()
    sampling = threading.Thread(target=_sample, args=(samples, is_over), daemon=True)
    with services.lake, stopwatch() as elapsed:
        sampling.start()
        result = work(services, *arguments)
    is_over.set()
    sampling.join()
    close_sessions()
    answer.send(Done(result, elapsed(), _peak(), tuple(samples)))


def _sample(samples: list[tuple[float, float]], is_over: threading.Event) -> None:
    begun = time.perf_counter()
    while _STATUS.exists() and not is_over.wait(_SAMPLE_SECONDS):
        samples.append((time.perf_counter() - begun, _status("VmRSS")))


def _peak() -> float:
    """GB. Where it can be had, this program's own: `ru_maxrss` begins with that of the process it was forked
    from.
    """
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / (1 << 20)
    raise AssertionError(f"{_STATUS} has no {name}")
