"""The sandbox's Prefect server: its deployments are registered, switched off, and what it knows of runs lasts
longer than its process.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import sandbox
from flows.sandbox import Part, State, processes
from flows.sandbox.prefect_server import STOP, deploy, log, start_worker
from flows.sandbox.state import ROOT
from tests.flows.streaming.topics import until
from tests.house import ask_prefect

pytestmark = pytest.mark.full

ONLY = frozenset({Part.PREFECT})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One sandbox for all: a server and its deployments cost more than what is asked of them."""
    folder = tmp_path_factory.mktemp("prefect") / "sandbox"
    try:
        yield folder
    finally:
        sandbox.reset(folder)


@pytest.fixture
def state(folder: Path) -> State:
    """Its server and its worker at work, whatever the test before did to them."""
    return sandbox.start(folder, ONLY)


def _client(state: State) -> httpx.Client:
    return httpx.Client(base_url=f"{state.prefect_url}/", trust_env=False, timeout=30)


def test_the_deployments_are_registered_and_their_schedules_paused(state: State) -> None:
    deployments = httpx.post(f"{state.prefect_url}/deployments/filter", json={}).raise_for_status().json()
    assert {deployment["name"] for deployment in deployments} >= {"daily", "hourly", "backfill"}
    assert not any(schedule["active"] for deployment in deployments for schedule in deployment["schedules"])
    # Run from the project's folder as it is, not from a clone of wherever it came from.
    for deployment in deployments:
        steps = deployment["pull_steps"] or []
        assert [list(step) for step in steps] == [["prefect.deployments.steps.set_working_directory"]]
        assert [step["directory"] for (step,) in map(dict.values, steps)] == [str(ROOT)]
    status = sandbox.status(state.folder)
    assert status is not None
    assert status.deployments_registered


def test_no_schedule_is_on_while_the_deployments_are_registered_but_what_somebody_switched_on(
    state: State,
) -> None:
    with httpx.Client(base_url=f"{state.prefect_url}/", trust_env=False) as client:

        def ask(path: str, **words: object) -> list[dict[str, Any]]:
            return list(ask_prefect(client, "POST", path, words))

        def switch_daily(on: bool) -> str:
            (daily,) = ask("deployments/filter", deployments={"name": {"any_": ["daily"]}})
            (schedule,) = daily["schedules"]
            address = f"deployments/{daily['id']}/schedules/{schedule['id']}"
            ask_prefect(client, "PATCH", address, {"active": on})
            return str(daily["id"])

        daily = switch_daily(True)
        to_come: set[str] = set()
        try:
            with ThreadPoolExecutor(1) as beside:
                registering = beside.submit(deploy, state, ROOT)
                deadline = time.monotonic() + 90
                # The server makes the runs of what is on a few seconds after it was registered.
                while not registering.done() or (daily not in to_come and time.monotonic() < deadline):
                    to_come |= {str(run["deployment_id"]) for run in ask("flow_runs/filter")}
                    time.sleep(0.2)
                registering.result()
            found = ask("deployments/filter")
            assert [one["name"] for one in found for when in one["schedules"] if when["active"]] == ["daily"]
            assert to_come == {daily}
        finally:
            switch_daily(False)


def test_a_schedule_that_somebody_has_changed_stays_on_as_it_is_when_the_deployments_are_registered_anew(
    state: State,
) -> None:
    changed = {"cron": "25 * * * *", "timezone": "Europe/Berlin", "day_or": True}
    given = {"active": True, "schedule": changed, "parameters": {"yes": True}}
    deploy(state, ROOT)
    with _client(state) as server:
        daily = server.get("deployments/name/analytics_pipeline/daily").raise_for_status().json()
        address = f"deployments/{daily['id']}/schedules/{daily['schedules'][0]['id']}"
        ask_prefect(server, "PATCH", address, given)
        hourly = server.get("deployments/name/api_ingest/hourly").raise_for_status().json()
        address = f"deployments/{hourly['id']}/schedules/{hourly['schedules'][0]['id']}"
        ask_prefect(server, "PATCH", address, {"active": True})
        ask_prefect(server, "POST", f"deployments/{hourly['id']}/pause_deployment", None)

        deploy(state, ROOT)

        found = server.get(f"deployments/{daily['id']}").raise_for_status().json()["schedules"]
        assert [(one["schedule"], one["parameters"]) for one in found if one["active"]] == [
            (changed, {"yes": True})
        ]
        assert [one["schedule"]["cron"] for one in found if not one["active"]] == ["0 2 * * *"]
        paused = server.get(f"deployments/{hourly['id']}").raise_for_status().json()
        assert paused["paused"] or not any(one["active"] for one in paused["schedules"])


def test_a_server_that_was_killed_still_knows_who_is_at_work(state: State) -> None:
    """The place of a run is renewed by the run, and given free once nobody renews it any more."""
    with _client(state) as server:
        flow = ask_prefect(server, "POST", "flows/", {"name": "waited_for"})
        limited = {"name": "one", "flow_id": flow["id"], "concurrency_limit": 1}
        deployment = ask_prefect(server, "POST", "deployments/", limited)
        scheduled = {"state": {"type": "SCHEDULED"}}
        run = ask_prefect(server, "POST", f"deployments/{deployment['id']}/create_flow_run", scheduled)
        pending = {"state": {"type": "PENDING"}}
        taken = ask_prefect(server, "POST", f"flow_runs/{run['id']}/set_state", pending)
    lease = taken["state"]["state_details"]["deployment_concurrency_lease_id"]
    assert lease
    process = state.parts[Part.PREFECT].process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)

    with _client(sandbox.start(state.folder, ONLY)) as server:
        ask_prefect(server, "POST", f"v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 60})


def test_who_asks_while_somebody_else_writes_is_told_soon_to_ask_again(state: State) -> None:
    """Long before a client has waited too long: who holds the lock may be waiting for the server itself."""
    database = sqlite3.connect(state.prefect_home / "prefect.db", isolation_level=None)
    with _client(state) as server, closing(database):
        database.execute("begin immediate")
        assert server.post("flows/", json={"name": "waits"}).status_code == httpx.codes.SERVICE_UNAVAILABLE
    with _client(state) as server:
        assert ask_prefect(server, "POST", "flows/", {"name": "waits"})["name"] == "waits"


def test_a_server_that_lost_its_port_has_a_worker_that_asks_at_the_new_one(state: State) -> None:
    server, worker = (state.parts[part] for part in (Part.PREFECT, Part.PREFECT_WORKER))
    assert server.process is not None
    assert server.port is not None
    assert sandbox.start(state.folder, ONLY).parts[Part.PREFECT_WORKER] == worker
    processes.end(server.process, [(signal.SIGKILL, 5.0)])
    with socket.create_server(("127.0.0.1", server.port)):
        after = sandbox.start(state.folder, ONLY)
    assert after.parts[Part.PREFECT].port != server.port
    begun = after.parts[Part.PREFECT_WORKER].process
    asks = {process: given["PREFECT_API_URL"] for process, given in processes.started_with("PREFECT_API_URL")}
    assert begun is not None
    assert asks[begun] == after.prefect_url
    assert not processes.alive(worker.process)


def test_a_worker_begins_where_another_user_of_the_machine_has_one(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runner_storage").touch()  # as closed as another user's folder, to root too
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    storage = state.prefect_home / "tmp" / "runner_storage"
    before = state.parts[Part.PREFECT_WORKER].process
    assert before is not None
    processes.end(before, STOP)
    shutil.rmtree(storage, ignore_errors=True)
    worker = start_worker(state, ROOT)
    try:
        # It is registered before; this is its last step.
        until(lambda: storage.is_dir() or not processes.alive(worker), seconds=90)
        assert processes.alive(worker), log(state, Part.PREFECT_WORKER).read_text()
    finally:
        processes.end_group(worker, 1)
