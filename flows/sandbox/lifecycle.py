"""Start, stop, look at and remove a sandbox as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from flows.errors import FlowsError
from flows.sandbox import flow_runs, kafka, postgres, prefect_server, processes
from flows.sandbox import state as states
from flows.sandbox.bring_up import Then, bring_up, bring_up_connect, bring_up_prefect, go_on, settle
from flows.sandbox.parts import Context, Progress, controls
from flows.sandbox.state import ALL, ROOT, Part, Running, State

CACHE = ROOT / ".cache"
"""What every sandbox of this project shares: Kafka's jars, Prefect's migrated database."""
OF_THE_WORLD = frozenset({Part.APP_POSTGRES, Part.KAFKA, Part.APIS})
"""What the company is in."""


class Health(StrEnum):
    """How a part is."""

    RUNNING = "running"
    NOT_ANSWERING = "not answering"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Status:
    """A sandbox and the health of each part that was ever started; parts that never were are not in it."""

    state: State
    health: dict[Part, Health]
    deployments_registered: bool

    @property
    def running(self) -> bool:
        """Whether every part that was started runs."""
        return bool(self.health) and all(health is Health.RUNNING for health in self.health.values())


def _silent(part: str, message: str) -> None:
    """Progress that nobody wants to see."""


def prepare(cache: Path = CACHE, progress: Progress = _silent) -> None:
    """Fetch and make everything that a start needs and that does not change, so that it needs no network.

    Raises `FlowsError` when something cannot be had.
    """
    _in_parallel(
        {
            "kafka": lambda: kafka.jars(cache, lambda message: progress("kafka", message)),
            "prefect": lambda: prefect_server.template(cache, lambda message: progress("prefect", message)),
        }
    )


def start(
    folder: Path,
    parts: frozenset[Part] = ALL,
    progress: Progress = _silent,
    *,
    cache: Path = CACHE,
    root: Path = ROOT,
    exactly_once: bool = False,
    then: Then | None = None,
) -> State:
    """Start what of `parts` does not run; what lives stays, what died comes back with its port and data.

    The worker comes with the Prefect server, Kafka with Connect, whose source support is `exactly_once` from
    its next start on. Two starts in one folder take turns. The folder is made. `then` is called once the
    application, the broker and the APIs are there, while other parts are still starting.
    Raises `FlowsError` naming every part that did not come up; the others keep running. After a Ctrl-C what
    was started stays known to the state, so that `stop` ends it.
    """
    folder = _place(folder)
    parts = _with_what_they_need(parts)
    if (running := _running_already(folder, parts)) is not None:
        if then is not None:
            then(running, False)
        return running
    with states.exclusive(folder, lambda: progress("sandbox", "waiting for another start or stop")):
        state = _known_or_new(folder)
        home = None
        if parts & postgres.INSTANCES.keys():
            home = postgres.home(folder, state.postgres_folder)
            outside = None if home.data.parent == folder else home.data.parent
            if state.postgres_folder != outside:
                state = states.update(folder, lambda known: replace(known, postgres_folder=outside))
        context = Context(folder, cache, root, home, progress, exactly_once)
        up = {part: Future[None]() for part in parts - {Part.CONNECT, Part.PREFECT, Part.PREFECT_WORKER}}
        chains: dict[str, Callable[[], object]] = {
            part.value: partial(settle, outcome, partial(bring_up, part, context))
            for part, outcome in sorted(up.items())
        }
        if Part.CONNECT in parts:
            chains[Part.CONNECT.value] = lambda: bring_up_connect(context, up[Part.KAFKA])
        if Part.PREFECT in parts:
            chains[Part.PREFECT.value] = lambda: bring_up_prefect(context)
        if then is not None:
            awaited = [up[part] for part in sorted(OF_THE_WORLD & parts)]
            chains["world"] = lambda: go_on(then, awaited, context)
        _in_parallel(chains)
    known = states.read(folder)
    assert known is not None
    return known


def _place(folder: Path) -> Path:
    """The sandbox's folder, made and absolute. Raises FlowsError where nothing can be written."""
    reason = "this user has no right to write there"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder.resolve()
    except OSError as error:
        reason = error.strerror or str(error)
    raise FlowsError(
        f"The sandbox can't be in {folder.absolute()} ({reason}): name a folder that can be written in "
        "ANALYTICS_SANDBOX."
    )


def _running_already(folder: Path, parts: frozenset[Part]) -> State | None:
    """The sandbox when nothing of `parts` has to be started: whoever lets its world live on keeps others from
    starting and stopping parts, not from using them.
    """
    found = status(folder)
    if found is None:
        return None
    is_there = all(found.health.get(part) is Health.RUNNING for part in parts)
    return found.state if is_there and (found.deployments_registered or Part.PREFECT not in parts) else None


def _with_what_they_need(parts: frozenset[Part]) -> frozenset[Part]:
    """The parts with those that they are nothing without."""
    prefect = frozenset({Part.PREFECT, Part.PREFECT_WORKER})
    needed = prefect if parts & prefect else frozenset()
    return parts | needed | ({Part.KAFKA} if Part.CONNECT in parts else frozenset())


def _known_or_new(folder: Path) -> State:
    state = states.read(folder)
    if state is None:
        strangers = sorted(path.name for path in folder.iterdir() if path.name != "state.lock")
        if strangers:
            raise FlowsError(
                f"{folder} holds {strangers[0]} and no sandbox: it is not touched. "
                "Name an empty or new folder in ANALYTICS_SANDBOX, or move what it holds."
            )
        state = states.new(folder)
        states.write(state)
    return state


def _in_parallel(jobs: dict[str, Callable[[], object]]) -> None:
    """Run all jobs, each in a thread; raise the failures together once all have ended.

    Ctrl-C makes the waiting loops of `processes` give up, so that the threads end soon.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
        try:
            while wait(futures.values(), timeout=0.1).not_done:
                pass
        except KeyboardInterrupt:
            processes.cancelled.set()
            wait(futures.values(), timeout=60)
            raise
        finally:
            processes.cancelled.clear()
    failures = {name: error for name, future in futures.items() if (error := future.exception())}
    for error in failures.values():
        if not isinstance(error, FlowsError):
            raise error
    if failures:
        raise FlowsError("; ".join(f"{name}: {error}" for name, error in sorted(failures.items())))


def stop(folder: Path, progress: Progress = _silent) -> None:
    """End exactly this sandbox's processes, PostgreSQL by fast shutdown. No sandbox: nothing to do."""
    if states.read(folder) is None:
        return
    folder = folder.resolve()
    with states.exclusive(folder, lambda: progress("sandbox", "waiting for another start or stop")):
        _stop(folder, progress)


def _stop(folder: Path, progress: Progress) -> None:
    state = states.read(folder)
    if state is None:
        return

    def end(part: Part, running: Running) -> None:
        if running.process and processes.alive(running.process):
            controls(part).stop(running.process)
            progress(part, "stopped")
        states.set_part(folder, part, replace(running, process=None))

    if (worker := state.parts.get(Part.PREFECT_WORKER)) is not None:
        flow_runs.stop(state, partial(end, Part.PREFECT_WORKER, worker), partial(progress, Part.PREFECT))
    if (connect := state.parts.get(Part.CONNECT)) is not None:
        # PostgreSQL's shutdown waits for those that read its log, and Connect waits for its broker.
        end(Part.CONNECT, connect)
    _in_parallel(
        {
            part.value: partial(end, part, running)
            for part, running in state.parts.items()
            if part not in (Part.CONNECT, Part.PREFECT_WORKER)
        }
    )


def status(folder: Path) -> Status | None:
    """The sandbox and how each part is, asked now; None where there is no sandbox."""
    state = states.read(folder)
    if state is None:
        return None
    context = Context(state.folder, CACHE, ROOT, None, _silent)
    health = {}
    for part, running in sorted(state.parts.items()):
        if not processes.alive(running.process):
            health[part] = Health.STOPPED
        elif controls(part).ready(context, running)():
            health[part] = Health.RUNNING
        else:
            health[part] = Health.NOT_ANSWERING
    registered = state.deployed is not None and state.deployed == prefect_server.digest(ROOT)
    return Status(state, health, registered)


def reset(folder: Path, progress: Progress = _silent) -> None:
    """Stop, and delete the folder with everything in it. No sandbox there: nothing is touched."""
    if states.read(folder) is None:
        return
    folder = folder.resolve()
    with states.exclusive(folder, lambda: progress("sandbox", "waiting for another start or stop")):
        _stop(folder, progress)
        postgres.remove(folder)
        # The state goes last: interrupted, the next reset still knows that this is a sandbox.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "state.json"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        folder.rmdir()
    progress("sandbox", f"{folder} is deleted")
