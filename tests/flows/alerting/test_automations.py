"""Which runs Prefect's server reports, by what it makes of the triggers itself."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from flows.alerting.automations import declared


def _event(run: str) -> ReceivedEvent:
    now = datetime.now(UTC)
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": now,
            "received": now,
            "event": "prefect.flow-run.Failed",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
            "related": [
                {
                    "prefect.resource.id": "prefect.flow.erase",
                    "prefect.resource.role": "flow",
                    "prefect.resource.name": "erase",
                }
            ],
        }
    )


def test_of_two_runs_of_a_flow_that_fail_at_once_each_is_reported() -> None:
    trigger = EventTrigger.model_validate(declared("a run failed or crashed", str(uuid4()))["trigger"])
    assert all(trigger.covers(_event(run)) for run in ("one", "two"))
    assert trigger.bucketing_key(_event("one")) != trigger.bucketing_key(_event("two"))
