"""The sandbox's Prefect server: what it knows of runs lasts longer than its process."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from flows import sandbox
from flows.sandbox import Part, State, processes
from flows.sandbox.prefect_server import deploy, log, make_pool, start_worker
from flows.sandbox.state import ROOT
from tests.flows.streaming.topics import until
from tests.house import ask_prefect

ONLY = frozenset({Part.PREFECT})


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    try:
        yield sandbox.start(tmp_path / "sandbox", ONLY)
    finally:
        sandbox.reset(tmp_path / "sandbox")


def _client(state: State) -> httpx.Client:
    return httpx.Client(base_url=f"{state.prefect_url}/", trust_env=False, timeout=30)


@pytest.mark.full
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


@pytest.mark.full
def test_who_asks_while_somebody_else_writes_is_told_soon_to_ask_again(state: State) -> None:
    """Long before a client has waited too long: who holds the lock may be waiting for the server itself."""
    database = sqlite3.connect(state.prefect_home / "prefect.db", isolation_level=None)
    with _client(state) as server, closing(database):
        database.execute("begin immediate")
        assert server.post("flows/", json={"name": "waits"}).status_code == httpx.codes.SERVICE_UNAVAILABLE
    with _client(state) as server:
        assert ask_prefect(server, "POST", "flows/", {"name": "waits"})["name"] == "waits"


@pytest.mark.full
def test_a_worker_begins_where_another_user_of_the_machine_has_one(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runner_storage").touch()  # as closed as another user's folder, to root too
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    make_pool(state)
    worker = start_worker(state, ROOT)
    try:
        # It is registered before; this is its last step.
        storage = state.prefect_home / "tmp" / "runner_storage"
        until(lambda: storage.is_dir() or not processes.alive(worker), seconds=90)
        assert processes.alive(worker), log(state, Part.PREFECT_WORKER).read_text()
    finally:
        processes.end_group(worker, 1)


@pytest.mark.full
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


@pytest.mark.full
def test_a_schedule_that_somebody_has_changed_stays_on_as_it_is_when_the_deployments_are_registered_anew(
    state: State,
) -> None:
    changed = {"cron": "25 * * * *", "timezone": "Europe/Berlin", "day_or": True}
    given = {"active": True, "schedule": changed, "parameters": {"yes": True}}
    make_pool(state)
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
