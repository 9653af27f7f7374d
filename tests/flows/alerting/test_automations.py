"""Which runs Prefect's server reports, by what it makes of the triggers itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from flows.alerting import deployed
from flows.alerting.automations import declared
from tests.flows.alerting.conftest import Prefect, Watch


def _event(run: str, flow: str = "erase", state: str = "Failed") -> ReceivedEvent:
    now = datetime.now(UTC)
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": now,
            "received": now,
            "event": f"prefect.flow-run.{state}",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
            "related": [
                {
                    "prefect.resource.id": f"prefect.flow.{flow}",
                    "prefect.resource.role": "flow",
                    "prefect.resource.name": flow,
                }
            ],
        }
    )


def test_of_two_runs_of_a_flow_that_fail_at_once_each_is_reported() -> None:
    trigger = EventTrigger.model_validate(declared("a run failed or crashed", str(uuid4()))["trigger"])
    assert all(trigger.covers(_event(run)) for run in ("one", "two"))
    assert trigger.bucketing_key(_event("one")) != trigger.bucketing_key(_event("two"))


@pytest.mark.parametrize(
    ("name", "state"), [("a run failed or crashed", "Crashed"), ("a run is late", "Late")]
)
def test_what_reports_runs_is_not_reported_itself(name: str, state: str) -> None:
    trigger = EventTrigger.model_validate(declared(name, str(uuid4()))["trigger"])
    assert trigger.covers(_event("one", "backup", state))
    assert trigger.expects(f"prefect.flow-run.{state}")
    assert not trigger.covers(_event("one", "report_run", state))


def _report(watch: Watch, flow: str, run: FlowRun, parameters: Mapping[str, Any] | None = None) -> None:
    """What Prefect's server says of a run is reported; of its deployment, that it has these parameters."""
    client = mock.create_autospec(SyncPrefectClient, instance=True)
    client.__enter__.return_value = client
    client.read_flow_run.return_value = run
    client.read_flow.return_value = SimpleNamespace(name=flow)
    schema = {"properties": parameters}
    client.read_deployment.return_value = SimpleNamespace(name="daily", parameter_openapi_schema=schema)
    with (
        mock.patch.object(deployed, "get_client", return_value=client),
        mock.patch.object(deployed, "open_services", watch.services),
    ):
        deployed.report_run.fn(f"prefect.flow-run.{run.id}")


def test_what_prefect_reports_is_entered_with_the_times_of_the_run_itself(watch: Watch) -> None:
    due = watch.now - timedelta(hours=3)
    began, ended = due + timedelta(seconds=9), due + timedelta(minutes=20)
    failed = State(type=StateType.FAILED, name="Failed", message="No room.")
    run = FlowRun(flow_id=uuid4(), state=failed, expected_start_time=due, start_time=began, end_time=ended)
    _report(watch, "backup", run)
    query = "select started_at, finished_at from ops.run where flow = %s"
    assert watch.rows(query, "backup") == [(began, ended)]
    crashed = State(type=StateType.CRASHED, name="Crashed", message="The worker went away.")
    _report(watch, "drill", FlowRun(flow_id=uuid4(), state=crashed, expected_start_time=due, end_time=ended))
    assert watch.rows(query, "drill") == [(due, ended)]
    late = State(type=StateType.SCHEDULED, name="Late")
    _report(watch, "api_ingest", FlowRun(flow_id=uuid4(), state=late, expected_start_time=due))
    assert watch.rows(query, "api_ingest") == [(due, None)]
    assert "A run of api_ingest should have started and has not" in str(watch.messages())


@pytest.mark.full
def test_a_run_that_crashed_has_left_no_task_at_work(watch: Watch, prefect: Prefect) -> None:
    run_id = prefect.run("RUNNING", "CRASHED")
    task = prefect.task(run_id, "RUNNING")
    crashed = State(type=StateType.CRASHED, name="Crashed", message="Process exited with status code: -9.")
    run = FlowRun(id=UUID(run_id), flow_id=uuid4(), state=crashed, expected_start_time=watch.now)
    _report(watch, "analytics_pipeline", run)
    assert prefect.said_of_task(task) == ("Crashed", crashed.message)


def test_a_schedule_that_gives_a_parameter_which_the_flow_does_not_have_is_told_with_its_name(
    watch: Watch,
) -> None:
    crashed = State(type=StateType.CRASHED, name="Crashed", message="Process exited with status code: 1.")
    given = {"parameters": {"yess": True}, "deployment_id": uuid4(), "auto_scheduled": True}
    run = FlowRun(flow_id=uuid4(), state=crashed, expected_start_time=watch.now, **given)
    _report(watch, "analytics_pipeline", run, {"select": {}, "yes": {}})
    (message,) = watch.messages()
    said = "yess is no parameter of analytics_pipeline: it has select, yes"
    assert message["title"].startswith(f"CRITICAL: analytics_pipeline failed: {said}")
