"""How each part of the sandbox is started, asked and stopped, in one form for all of them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.errors import FlowsError
from flows.sandbox import connect, kafka, postgres, prefect_server, processes
from flows.sandbox import state as states
from flows.sandbox.state import ROOT, Part, Process, Running, State

Progress = Callable[[str, str], None]
"""Called with the part and what happens to it, from several threads."""


@dataclass(frozen=True)
class Context:
    """What the start of a part needs to know."""

    folder: Path
    cache: Path
    root: Path
    home: postgres.Home | None
    progress: Progress
    exactly_once: bool = False
    """Whether Kafka Connect offers exactly-once source support."""

    def state(self) -> State:
        """The state as it is now: other parts are changing it."""
        known = states.read(self.folder)
        if known is None:
            raise FlowsError(
                f"The sandbox in {self.folder} was removed while it was starting: start it again."
            )
        return known


@dataclass(frozen=True)
class Control:
    """A part's handles. `ready` gives a question that is asked until the answer is yes."""

    start: Callable[[Context, int], Process]
    ready: Callable[[Context, Running], Callable[[], bool]]
    stop: Callable[[Process], None]
    seconds: float
    """How long a start may take."""
    listens: bool = True


def _port(running: Running) -> int:
    assert running.port is not None
    return running.port


def _postgres(part: Part) -> Control:
    instance = postgres.INSTANCES[part]

    def start(context: Context, port: int) -> Process:
        assert context.home is not None
        return postgres.start(instance, context.state(), context.home, port)

    return Control(
        start=start,
        ready=lambda context, running: postgres.ready(instance, context.state(), _port(running)),
        stop=lambda process: processes.end(process, postgres.FAST_SHUTDOWN),
        seconds=60,
    )


def _start_kafka(context: Context, port: int) -> Process:
    return kafka.start(
        context.state(), context.cache, port, lambda message: context.progress(Part.KAFKA, message)
    )


def _start_prefect(context: Context, port: int) -> Process:
    tell = lambda message: context.progress(Part.PREFECT, message)  # noqa: E731
    return prefect_server.start(context.state(), context.cache, port, tell)


def _start_apis(context: Context, port: int) -> Process:
    return processes.spawn(
        [sys.executable, "-m", "flows.sandbox.apis", "--folder", context.folder, "--port", str(port)],
        log=context.state().logs / f"{Part.APIS}.log",
        cwd=ROOT,
    )


_CONTROLS = {
    Part.APP_POSTGRES: _postgres(Part.APP_POSTGRES),
    Part.WAREHOUSE_POSTGRES: _postgres(Part.WAREHOUSE_POSTGRES),
    Part.KAFKA: Control(
        start=_start_kafka,
        ready=lambda _, running: kafka.ready(_port(running)),
        stop=lambda process: processes.end(process, kafka.STOP),
        seconds=90,
    ),
    Part.CONNECT: Control(
        start=lambda context, port: connect.start(
            context.state(), context.cache, port, exactly_once=context.exactly_once
        ),
        ready=lambda context, running: connect.ready(context.state(), _port(running)),
        stop=lambda process: processes.end(process, connect.STOP),
        seconds=90,
    ),
    Part.PREFECT: Control(
        start=_start_prefect,
        ready=lambda _, running: prefect_server.ready(_port(running)),
        stop=lambda process: processes.end(process, prefect_server.STOP),
        seconds=120,
    ),
    Part.PREFECT_WORKER: Control(
        start=lambda context, _: prefect_server.start_worker(context.state(), context.root),
        # It registers with the server some seconds later; runs wait for it there, nobody has to wait here.
        ready=lambda _, running: lambda: processes.alive(running.process),
        stop=lambda process: processes.end_group(process, 10),
        seconds=30,
        listens=False,
    ),
    Part.APIS: Control(
        start=_start_apis,
        ready=lambda _, running: lambda: processes.healthy(f"http://127.0.0.1:{_port(running)}/healthz"),
        stop=lambda process: processes.end(process, [(signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)]),
        seconds=60,
    ),
}


def controls(part: Part) -> Control:
    """The handles of a part."""
    return _CONTROLS[part]
