"""The flow runs of the sandbox's worker: each is a session of its own and may outlive its worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from flows.errors import FlowsError
from flows.sandbox import processes
from flows.sandbox.prefect_server import POOL
from flows.sandbox.state import Part, Process, State
from flows.summary import AT_WORK

_ID, _HOME = "PREFECT__FLOW_RUN_ID", "PREFECT_HOME"
"""What Prefect's workers give each run that they start, and what this sandbox gives its own."""
_CLEANLY = ((signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0))
"""A run enters that it was stopped, and ends what it has started."""
_SECONDS = 10.0
_STOPPED = "The sandbox was stopped: the next run goes on from there."
_LOST = "Its worker was killed, or its machine went down, while it was at work: its process is gone."


def stop(state: State, end_worker: Callable[[], object], tell: Callable[[str], object]) -> None:
    """Cancel the runs at work, and end the processes that this sandbox's worker has started for them, each
    cleanly where it can be within 30 s; those too that a killed worker has left. Where the system has no
    /proc no process is known. `end_worker` ends the worker itself.

    A server that is not told (`tell` gets why) learns it from `end_lost`. Raises FlowsError naming a process
    that does not end.
    """
    begun = datetime.now(UTC)
    server = state.parts.get(Part.PREFECT)
    is_there = server is not None and processes.alive(server.process)

    def cancel(found_as: Sequence[str], since: datetime | None = None, *, are_gone: bool = True) -> None:
        try:
            if is_there:
                _set(state, found_as, "CANCELLED", _STOPPED, since=since, are_gone=are_gone)
        except FlowsError as error:
            tell(str(error))

    def end_processes() -> None:
        _end([process for process in _processes(state) if _leads(process)])
        _end(_processes(state))

    cancel(AT_WORK, are_gone=False)
    end_processes()
    end_worker()  # not before: it kills its runs, which could tell nobody any more that they were stopped
    end_processes()
    cancel(AT_WORK)
    # Of what a signal ends Prefect says, against all that was said before, that it crashed.
    cancel(["CRASHED"], begun)


def _processes(state: State) -> list[Process]:
    home = str(state.prefect_home)
    return [process for process, given in processes.started_with(_ID, _HOME) if given[_HOME] == home]


def _leads(process: Process) -> bool:
    """Whether it is the run itself, and not what it has started."""
    try:
        return os.getpgid(process.pid) == process.pid
    except ProcessLookupError:
        return False


def _end(found: Sequence[Process]) -> None:
    if found:
        with ThreadPoolExecutor(max_workers=len(found)) as pool:
            list(pool.map(lambda process: processes.end(process, _CLEANLY), found))


def end_lost(state: State) -> None:
    """Tell the server of the runs which it takes to be at work and which have no process on this machine.
    Only while no worker serves the pool: one that does may be about to start it.

    Raises FlowsError when the server does not do it.
    """
    _set(state, AT_WORK, "CRASHED", _LOST, but={given[_ID] for _, given in processes.started_with(_ID)})


def _set(
    state: State,
    found_as: Sequence[str],
    ended: str,
    message: str,
    *,
    since: datetime | None = None,
    but: Collection[str] = (),
    are_gone: bool = True,
) -> None:
    """End what the server has in these states in the pool, `but` some; what somebody has cancelled is that.
    With `since` only what has ended since then. Where their processes `are_gone`, so are the tasks that they
    have left.
    """
    import httpx

    from flows.http_client import asked, client
    from flows.task_runs import end_left

    which: dict[str, Any] = {"state": {"type": {"any_": [*found_as]}}}
    if since is not None:
        which["end_time"] = {"after_": since.isoformat()}
    question = {"work_pools": {"name": {"any_": [POOL]}}, "flow_runs": which}
    try:
        with client(f"{state.prefect_url}/", seconds=_SECONDS) as server:
            for run in asked(server, "POST", "flow_runs/filter", question).raise_for_status().json():
                if run["id"] in but:
                    continue
                kind = "CANCELLED" if run["state_type"] == "CANCELLING" else ended
                wanted = {"type": kind, "name": kind.capitalize(), "message": message}
                forced = {"state": wanted, "force": True}
                asked(server, "POST", f"flow_runs/{run['id']}/set_state", forced).raise_for_status()
                if are_gone:
                    end_left(server, run["id"], message)
    except httpx.HTTPError as error:
        raise FlowsError(
            f"the Prefect server at {state.prefect_url} was not told which runs have ended ({error}): the "
            "next start of the sandbox tells it."
        ) from error
