"""The flows of alerting that Prefect starts: what its automations report, and the daily summary."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import Field

from flows import alerts
from flows.alerting.made_good import noted
from flows.alerting.runs import Reported
from flows.batch import run_name
from flows.flow_names import MENDING, OF_SOURCES, STREAM
from flows.services import open_services
from flows.summary import FAILED

_RESOURCE = "prefect.flow-run."
_Id = Annotated[str, Field(pattern=r"^(prefect\.flow-run\.)?[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$")]
"""Prefect refuses another text when it is asked."""
_REPORTED = {"Late", *FAILED}
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
    there is nothing to tell: tried again, it would keep all the others waiting.

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
    if state not in _REPORTED or name == "report_run" or (state == "Late" and name not in _NOTED):
        return {"flow": name, "state": state, "reported": False}
    message = (run.state.message if run.state else None) or f"run {run.name} is {state.lower()}"
    services = open_services()
    # One that never started is of the time at which it was to.
    began = run.start_time or run.expected_start_time or run.created
    assert began is not None  # the server gives each run the time it was made at
    world = services.settings.world_time
    ended = None if state == "Late" else world(run.end_time or began)
    said = Reported(str(run.id), name, state, message, world(began), ended, run.parameters)
    alerts.report_flow_run(services, said)
    return {"flow": name, "state": state, "reported": True}


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
