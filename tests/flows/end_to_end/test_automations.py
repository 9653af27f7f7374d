"""Runs that could not tell how they ended: Prefect's server tells of them, through a real worker."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from flows.alerting import automations
from flows.sandbox import Part
from tests.house import House, ask_prefect
from warehouse_ddl.files import bootstrap

pytestmark = pytest.mark.full
NAMES = {"a run failed or crashed", "a run is late"}
_OVER = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture
def dsn(house: House) -> str:
    """The warehouse of a sandbox with a Prefect server and a worker; it has its ops tables."""
    state = house.parts(Part.APP_POSTGRES, Part.WAREHOUSE_POSTGRES, Part.PREFECT, Part.PREFECT_WORKER)
    address = str(state.warehouse_dsn)
    with psycopg.connect(address, autocommit=True) as connection:
        for statement in bootstrap():
            connection.execute(statement.encode())
    return address


@pytest.fixture
def server(house: House, dsn: str) -> Any:
    state = house.parts(Part.PREFECT)
    with httpx.Client(base_url=f"{state.prefect_url}/", trust_env=False, timeout=30) as client:
        yield client


def _tried(server: httpx.Client, name: str, **parameters: Any) -> dict[str, Any]:
    """A run of a deployment, once it was tried and has ended or waits for another try."""
    found = server.get(f"deployments/name/{name}").raise_for_status().json()
    asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    run = ask_prefect(server, "POST", f"deployments/{found['id']}/create_flow_run", asked)
    deadline = time.monotonic() + 120
    while run["state_name"] != "AwaitingRetry" and run["state_type"] not in _OVER:
        assert time.monotonic() < deadline, f"{run['name']} is still {run['state_name']}"
        time.sleep(0.5)
        run = server.get(f"flow_runs/{run['id']}").raise_for_status().json()
    return dict(run)


def test_the_automations_are_there_with_the_deployments_and_made_once(server: httpx.Client) -> None:
    def names() -> list[str]:
        return sorted(item["name"] for item in server.post("automations/filter", json={}).json())

    assert set(names()) == NAMES
    automations.register(str(server.base_url).rstrip("/"))
    assert sorted(NAMES) == names()


def test_a_run_that_crashed_becomes_an_incident_without_any_code_of_it_having_run(
    server: httpx.Client, dsn: str
) -> None:
    found = server.get("deployments/name/maintain/maintain").raise_for_status().json()
    # Far ahead, so that the worker leaves it alone.
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    deadline = time.monotonic() + 90
    run = ask_prefect(server, "POST", f"deployments/{found['id']}/create_flow_run", {"state": later})["id"]
    crashed = {"type": "CRASHED", "name": "Crashed", "message": "The worker's machine went away."}
    server.post(f"flow_runs/{run}/set_state", json={"state": crashed, "force": True}).raise_for_status()
    query = (
        "select severity, message from ops.incident where subject = 'flow:maintain' and resolved_at is null"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not (rows := connection.execute(query).fetchall()):
            assert time.monotonic() < deadline, "the crashed run was not reported"
            time.sleep(0.5)
        connection.execute("delete from ops.run where run_id = %s", (run,))
        connection.execute("delete from ops.incident")
    assert rows == [("critical", "maintain failed: The worker's machine went away.")]


def test_a_report_of_a_run_that_was_deleted_meanwhile_ends_at_once_and_lets_the_others_be_told(
    server: httpx.Client,
) -> None:
    run = _tried(server, automations.REPORTER, flow_run=f"prefect.flow-run.{uuid4()}")
    assert run["state_name"] == "Completed", run["state"]["message"]


def test_a_report_of_what_is_no_run_is_refused_by_prefect_itself(server: httpx.Client) -> None:
    found = server.get(f"deployments/name/{automations.REPORTER}").raise_for_status().json()
    asked = {"parameters": {"flow_run": "the one of tonight"}}
    answer = server.post(f"deployments/{found['id']}/create_flow_run", json=asked)
    assert answer.status_code == httpx.codes.CONFLICT
    assert "flow_run" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        (
            "backfill/backfill",
            {"start": "2025-10-25", "end": "2025-10-20"},
            "start 2025-10-25 is not before end",
        ),
        ("replay/replay", {"topic": "no_such_topic", "start": "0"}, "no_such_topic"),
        ("erase/erase", {"users": [4_000_000_000]}, "There is no user 4000000000 in the warehouse"),
        ("analytics_pipeline/daily", {"select": ["no_such_table"]}, "'no_such_table' selects no table"),
    ],
)
def test_what_somebody_asks_a_deployment_for_in_vain_is_refused_in_a_line(
    server: httpx.Client, name: str, parameters: dict[str, Any], said: str
) -> None:
    run = _tried(server, name, **parameters)
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Refused"), run["state"]["message"]
    assert said in run["state"]["message"]
    assert "\n" not in run["state"]["message"]


def test_a_parameter_that_the_flow_does_not_have_is_refused_with_those_that_it_has(
    server: httpx.Client, dsn: str
) -> None:
    run = _tried(server, "backfill/backfill", start="2025-10-20", end="2025-10-21", selct=["dim_date"])
    deadline = time.monotonic() + 120
    while run["state_name"] != "Refused":  # Prefect's engine crashes by it before the flow could tell
        assert time.monotonic() < deadline, run["state"]
        time.sleep(0.5)
        run = server.get(f"flow_runs/{run['id']}").raise_for_status().json()
    said = "selct is no parameter of backfill: it has start, end, select."
    assert run["state"]["message"].startswith(said)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select from ops.run where run_id = %s", (run["id"],)).fetchall() == []
