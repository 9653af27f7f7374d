"""The deployments of prefect.yaml at the sandbox's Prefect server: its start registers them, switched off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from flows import sandbox
from flows.sandbox import Part, State
from flows.sandbox.prefect_server import deploy
from flows.sandbox.state import ROOT
from tests.house import ask_prefect

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    folder = tmp_path_factory.mktemp("deployments") / "sandbox"
    try:
        yield sandbox.start(folder, frozenset({Part.PREFECT}))
    finally:
        sandbox.reset(folder)


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
