"""The deployments of prefect.yaml on a real server, run by a real worker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx
import psycopg
import pyarrow.parquet as pq
import pytest

from tests.flows.company import Company, where
from tests.flows.streaming.topics import until
from tests.house import ask_prefect

pytestmark = pytest.mark.full

SCHEDULES = {
    "daily": ["0 2 * * *"],
    "hourly": ["10 * * * *"],
    "stream": ["0 * * * *"],
    "backfill": [],
    "replay": [],
    "monitor": ["* * * * *"],
    "check-history": ["0 3 * * *"],
    "maintain": ["30 3 * * *"],
    "daily-summary": ["0 7 * * *"],
    "report-run": [],
    "backup": ["0 4 * * *"],
    "drill": ["0 5 * * 0"],
    "weekly-report": ["0 7 * * 1"],
    "erase": [],
}
"""Every deployment there is to be, and when it is to run by itself (UTC)."""


@pytest.fixture
def server(company: Company) -> Any:
    """A client of the Prefect server that stands beside the built world."""
    company.built()
    with httpx.Client(base_url=f"{company.state().prefect_url}/", trust_env=False, timeout=30) as client:
        yield client


def _trigger(
    server: httpx.Client,
    name: str,
    seconds: float = 200,
    environment: Mapping[str, str] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """A run of a deployment, once it has ended; `environment` adds to that of the worker's process for it."""
    found = server.get(f"deployments/name/{name}").raise_for_status().json()
    asked = {
        "parameters": parameters,
        "state": {"type": "SCHEDULED"},
        "job_variables": {"env": dict(environment or {})},
    }
    run = ask_prefect(server, "POST", f"deployments/{found['id']}/create_flow_run", asked)
    return _ended(server, run, seconds)


def _ended(server: httpx.Client, run: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while run["state_type"] not in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
        assert time.monotonic() < deadline, f"{run['name']} is still {run['state_name']} after {seconds} s"
        time.sleep(1)
        run = server.get(f"flow_runs/{run['id']}").raise_for_status().json()
    return dict(run)


def test_every_deployment_is_registered_and_its_schedule_paused(server: httpx.Client) -> None:
    found = {item["name"]: item for item in server.post("deployments/filter", json={}).json()}
    crons = {name: [s["schedule"]["cron"] for s in item["schedules"]] for name, item in found.items()}
    assert crons == SCHEDULES
    assert all(item["description"] and item["tags"] for item in found.values())
    assert not any(schedule["active"] for item in found.values() for schedule in item["schedules"])
    assert {item["work_pool_name"] for item in found.values()} == {"analytics"}


@pytest.mark.parametrize("name", ["analytics_pipeline/daily", "api_ingest/hourly"])
def test_a_deployment_that_is_triggered_is_run_by_the_worker_and_completed(
    server: httpx.Client, company: Company, name: str
) -> None:
    run = _trigger(server, name)
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert run["name"].startswith(name.split("/")[0])
    place = company.built()
    assert place.rows("select state from ops.run where run_id = %s", run["id"]) == [("Completed",)]
    assert place.differences() == []


def test_a_run_that_somebody_cancels_in_the_ui_is_no_incident(server: httpx.Client, company: Company) -> None:
    place = company.built()
    waits = "select pg_advisory_lock(hashtextextended('land:raw_stripe__charges', 0))"
    found = server.get("deployments/name/api_ingest/hourly").raise_for_status().json()
    with psycopg.connect(place.warehouse_dsn) as somebody:
        somebody.execute(waits)
        asked = {"state": {"type": "SCHEDULED"}}
        run = ask_prefect(server, "POST", f"deployments/{found['id']}/create_flow_run", asked)
        state = "select state from ops.run where run_id = %s"
        until(lambda: place.rows(state, run["id"]) == [("Running",)], 120)
        as_the_ui = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        ask_prefect(server, "POST", f"flow_runs/{run['id']}/set_state", as_the_ui)
        assert _ended(server, run, 120)["state_name"] == "Cancelled"
        until(lambda: place.rows(state, run["id"]) == [("Cancelled",)])
    assert place.rows("select subject from ops.incident where subject = 'flow:api_ingest'") == []


def test_upkeep_that_is_triggered_is_completed_and_changes_nothing(
    server: httpx.Client, company: Company
) -> None:
    place = company.built()
    before = place.physical()
    run = _trigger(server, "maintain/maintain")
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert place.physical() == before


def test_the_check_of_all_history_that_is_triggered_is_completed_and_kept(
    server: httpx.Client, company: Company
) -> None:
    run = _trigger(server, "check_history/check-history")
    assert run["state_name"] == "Completed", run["state"]["message"]
    place = company.built()
    kept = place.rows("select rule, passed from ops.check_result where run_id like 'check-history-%'")
    assert kept == [("event_id_once_in_all_history", True)]


def test_a_backup_and_the_drill_of_it_that_are_triggered_are_completed(
    server: httpx.Client, company: Company
) -> None:
    for name in ("backup/backup", "drill/drill"):
        run = _trigger(server, name)
        assert run["state_name"] == "Completed", run["state"]["message"]
    place = company.built()
    assert place.rows("select is_equal, differences from ops.drill") == [(True, [])]


def test_the_monitor_the_summary_and_what_reports_runs_are_completed(
    server: httpx.Client, company: Company
) -> None:
    company.built()
    runs = [_trigger(server, name) for name in ("monitor/monitor", "daily_summary/daily-summary")]
    runs.append(_trigger(server, "report_run/report-run", flow_run=runs[0]["id"]))
    assert [run["state_name"] for run in runs] == ["Completed"] * 3, [run["state"] for run in runs]
    assert company.built().value("select count(*) from ops.health where signal = 'data_freshness'") > 0


def test_every_parameter_of_a_deployment_has_a_type_and_says_what_it_is(server: httpx.Client) -> None:
    for deployment in server.post("deployments/filter", json={}).json():
        for name, parameter in deployment["parameter_openapi_schema"]["properties"].items():
            assert parameter.get("type") or parameter.get("anyOf"), (deployment["name"], name)
            assert parameter.get("description"), (deployment["name"], name)


def test_a_shift_of_the_stream_takes_in_what_is_there_and_ends_completed(
    server: httpx.Client, company: Company
) -> None:
    run = _trigger(server, "event_stream/stream", minutes=0.4)
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert company.built().differences() == []


def test_a_deployed_backfill_takes_its_range_as_parameters(server: httpx.Client, company: Company) -> None:
    place = company.built()
    day = place.value("select min(event_time::date) from analytics.fct_events")
    run = _trigger(server, "backfill/backfill", start=str(day), end=str(day.replace(day=day.day + 1)))
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert place.differences() == []


def test_a_deployed_replay_takes_its_range_as_parameters(server: httpx.Client, company: Company) -> None:
    place = company.built()
    before = place.physical()
    run = _trigger(server, "replay/replay", topic="clicks", start="0", end="20", partitions=[0])
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert place.physical() == before


def test_the_weekly_report_that_is_triggered_is_completed(server: httpx.Client, company: Company) -> None:
    company.built()
    run = _trigger(server, "weekly_report/weekly-report")
    assert run["state_name"] == "Completed", run["state"]["message"]


def test_a_deployed_erasure_takes_a_person_out_of_the_warehouse_it_is_pointed_at_and_nobody_else(
    server: httpx.Client, company: Company
) -> None:
    copy = company.copy()
    users = where("dim_users")
    user, email = copy.rows(
        f"select user_id, email from {users} join analytics.fct_orders using (user_id) "
        "where not is_deleted order by 1 limit 1"
    )[0]
    others = f"select * from {users} where user_id <> {user} order by user_id"
    people, orders = copy.rows(others), copy.content("fct_orders")
    run = _trigger(server, "erase/erase", environment=copy.environment, users=[user], reason="asked")
    assert run["state_name"] == "Completed", run["state"]["message"]
    done = "select user_id, reason from ops.erasure where finished_at is not null"
    assert copy.rows(done) == [(user, "asked")]
    assert copy.rows(f"select email, is_deleted from {users} where user_id = {user}") == [(None, True)]
    assert copy.rows(others) == people
    assert copy.content("fct_orders") == orders
    raw = [row for path in copy.files("raw/raw_app__users") for row in pq.read_table(path).to_pylist()]
    assert raw
    assert email not in str(raw)
    assert company.built().differences() == []
