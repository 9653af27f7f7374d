"""The flows of alerting that Prefect starts: what its automations report, and the daily summary."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

import httpx
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed
from pydantic import Field

from flows import alerts, http_client
from flows.alerting.made_good import noted
from flows.alerting.runs import Reported
from flows.alerting.words import listed
from flows.asked import REFUSED
from flows.batch import run_name
from flows.flow_names import MENDING, OF_SOURCES, STREAM
from flows.services import open_services
from flows.settings import Settings
from flows.summary import FAILED
from flows.task_runs import end_left

_RESOURCE = "prefect.flow-run."
_Id = Annotated[str, Field(pattern=r"^(prefect\.flow-run\.)?[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$")]
"""Prefect refuses another text when it is asked."""
_REPORTED = {"Late", *FAILED}
_SECONDS = 5.0
_NOTED = {*OF_SOURCES, *MENDING, STREAM}
"""Flows that tell when they start after all; of the others the signal missing_run tells."""


# The same run is entered once and is one incident, however often it is reported. What dies because PostgreSQL
# is away is reported while it still is: tried for six hours, since nobody else enters it.
@flow(
    name="report_run",
    flow_run_name="report_run",
    timeout_seconds=300,
    retries=72,
    retry_delay_seconds=300,
    result_serializer="json",
)
def report_run(flow_run: _Id) -> dict[str, Any]:
    """Tell of a run that failed, crashed or does not start, if that is still so. Of one that was deleted
    there is nothing to tell: tried again, it would keep all the others waiting. One that somebody asked for
    with a parameter that its flow does not have is refused instead: it dies before the flow could say so.

    Args:
        flow_run: Its id, or the resource that an event is about (`prefect.flow-run.…`).
    """
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(flow_run.removeprefix(_RESOURCE)))
        except ObjectNotFound:
            return {"flow": "", "state": "Deleted", "reported": False}
        name = client.read_flow(run.flow_id).name
        state = run.state.name if run.state else ""
        wrong = _wrong_parameters(client, run, name) if state == "Crashed" else ""
        if wrong and not run.auto_scheduled:
            client.set_flow_run_state(run.id, Failed(name=REFUSED, message=wrong), force=True)
            state = REFUSED
    if state not in _REPORTED or name == "report_run" or (state == "Late" and name not in _NOTED):
        return {"flow": name, "state": state, "reported": False}
    message = wrong or (run.state.message if run.state else None) or f"run {run.name} is {state.lower()}"
    services = open_services()
    # One that never started is of the time at which it was to.
    began = run.start_time or run.expected_start_time or run.created
    assert began is not None  # the server gives each run the time it was made at
    world = services.settings.world_time
    ended = None if state == "Late" else world(run.end_time or began)
    said = Reported(str(run.id), name, state, message, world(began), ended, run.parameters)
    alerts.report_flow_run(services, said)
    if state == "Crashed":
        _end_tasks(services.settings, said)
    return {"flow": name, "state": state, "reported": True}


def _end_tasks(settings: Settings, run: Reported) -> None:
    """What a run that crashed has left at work. A server that does not do it keeps them so."""
    if settings.prefect_address is None:
        return
    address = f"{settings.prefect_address}/"
    with suppress(httpx.HTTPError), http_client.client(address, seconds=_SECONDS) as server:
        end_left(server, run.run_id, run.message)


def _wrong_parameters(client: SyncPrefectClient, run: FlowRun, flow: str) -> str:
    """What is wrong with the names of a run's parameters, or nothing. Prefect's server takes any name, and
    its engine crashes by one that the flow does not have.
    """
    if run.deployment_id is None:
        return ""
    try:
        deployment = client.read_deployment(run.deployment_id)
    except ObjectNotFound:
        return ""
    known = (deployment.parameter_openapi_schema or {}).get("properties", {})
    unknown = sorted(run.parameters.keys() - known)
    if not unknown:
        return ""
    is_one = "is no parameter" if len(unknown) == 1 else "are no parameters"
    there_are = f"it has {listed([*known])}" if known else "it has none"
    return (
        f"{listed(unknown)} {is_one} of {flow}: {there_are}. "
        f"Correct the name where the run was asked for, or in the parameters of deployment {deployment.name}."
    )


# Who has got it does not get it again.
@flow(
    name="daily_summary",
    flow_run_name=run_name,
    timeout_seconds=600,
    retries=2,
    retry_delay_seconds=300,
    result_serializer="json",
)
def daily_summary() -> dict[str, str]:
    """Tell how the last 24 hours were: runs, checks, dead letters, incidents."""
    services = open_services()
    with noted(services, "daily_summary"):
        text = alerts.daily_summary(services, is_once=True)
    return {"text": text}
