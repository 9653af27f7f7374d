"""Flow runs end with the sandbox whose worker has started them, also where that was killed before."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import sandbox
from flows.sandbox import Part, State, flow_runs, processes
from flows.sandbox.state import Process
from tests.flows.streaming.topics import until
from tests.house import ask_prefect

pytestmark = pytest.mark.full
ONLY = frozenset({Part.PREFECT})
FLOW = """
import json, os, subprocess, sys, time
from prefect import flow
from prefect.runtime import flow_run

@flow
def long_one():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(f"{flow_run.id}.new", "w") as file:
        json.dump([os.getpid(), child.pid], file)
    os.rename(f"{flow_run.id}.new", f"{flow_run.id}.json")
    try:
        time.sleep(600)
    finally:
        open(f"{flow_run.id}.cleanly", "w").close()
"""


@dataclass
class World:
    """A sandbox of Prefect alone, with a deployment of a flow that starts a process and takes long."""

    folder: Path
    code: Path

    def start(self) -> State:
        return sandbox.start(self.folder, ONLY, root=self.code)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the server answers."""
        state = sandbox.read(self.folder)
        assert state is not None
        with httpx.Client(base_url=f"{state.prefect_url}/", trust_env=False) as server:
            return ask_prefect(server, method, path, body)

    def begin(self) -> str:
        """A run that is at work; its id."""
        step = {"prefect.deployments.steps.set_working_directory": {"directory": str(self.code)}}
        flow = self.ask("POST", "flows/", {"name": "long-one"})["id"]
        deployed = {"flow_id": flow, "entrypoint": "long_one.py:long_one", "pull_steps": [step]}
        deployed |= {"name": "long", "work_pool_name": "analytics"}
        deployment = self.ask("POST", "deployments/", deployed)["id"]
        asked = {"state": {"type": "SCHEDULED"}}
        run = str(self.ask("POST", f"deployments/{deployment}/create_flow_run", asked)["id"])
        until((self.code / f"{run}.json").exists, seconds=120)
        return run

    def processes(self, run: str) -> list[int]:
        """Of its processes, those that are there."""
        known: list[int] = json.loads((self.code / f"{run}.json").read_text())
        return [pid for pid in known if processes.born(pid)]

    def kill(self, run: str) -> None:
        for pid in self.processes(run):
            os.kill(pid, signal.SIGKILL)

    def worker(self) -> Process:
        state = sandbox.read(self.folder)
        assert state is not None
        worker = state.parts[Part.PREFECT_WORKER].process
        assert worker is not None
        return worker

    def kill_worker(self) -> None:
        processes.end(self.worker(), [(signal.SIGKILL, 10.0)])

    def state(self, run: str) -> tuple[str, str]:
        """Of a run at the server, and what it says."""
        found = self.ask("GET", f"flow_runs/{run}")
        return found["state_name"], found["state"]["message"] or ""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    code = tmp_path / "code"
    code.mkdir()
    (code / "long_one.py").write_text(FLOW)
    made = World(tmp_path / "sandbox", code)
    made.start()
    try:
        yield made
    finally:
        sandbox.reset(made.folder)


def test_a_run_at_work_ends_with_the_sandbox_that_is_stopped_and_is_cancelled(world: World) -> None:
    run = world.begin()

    sandbox.stop(world.folder)

    assert world.processes(run) == []
    assert (world.code / f"{run}.cleanly").exists()
    world.start()
    assert world.state(run) == ("Cancelled", "The sandbox was stopped: the next run goes on from there.")


def test_what_the_worker_begins_while_the_sandbox_is_stopped_is_cancelled_too(world: World) -> None:
    begun, told = list[str](), list[str]()
    state = sandbox.read(world.folder)
    assert state is not None

    def end_worker() -> None:
        begun.append(world.begin())
        processes.end_group(world.worker(), 10)

    flow_runs.stop(state, end_worker, told.append)

    assert world.processes(begun[0]) == []
    assert world.state(begun[0])[0] == "Cancelled"
    assert told == []


def test_what_a_killed_worker_has_left_goes_on_and_ends_with_the_sandbox(world: World) -> None:
    lives, is_gone = world.begin(), world.begin()
    world.kill_worker()
    world.kill(is_gone)

    world.start()

    state, said = world.state(is_gone)
    assert (state, said[:21]) == ("Crashed", "Its worker was killed")
    assert world.state(lives)[0] == "Running"
    assert len(world.processes(lives)) == 2
    world.kill_worker()
    sandbox.stop(world.folder)
    assert world.processes(lives) == []
    assert (world.code / f"{lives}.cleanly").exists()
    world.start()
    assert world.state(lives)[0] == "Cancelled"
