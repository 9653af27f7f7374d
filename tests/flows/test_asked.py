"""Who hears of what was asked for in vain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from prefect.server.events.schemas.automations import EventTrigger

from flows import asked
from flows.alerting.automations import declared
from flows.durations import BadRange

WRONG = BadRange("'tomorrow' is no day; write it like 2025-10-07.")


def _refused(**run: Any) -> Any:
    """What a flow returns whose run is as this says."""
    context = mock.Mock(**{"get.return_value": SimpleNamespace(flow_run=SimpleNamespace(**run))})
    with (
        mock.patch.object(asked, "FlowRunContext", context),
        mock.patch.object(asked, "get_run_logger"),
    ):
        return asked.refused(WRONG)


def test_a_run_that_somebody_has_asked_for_in_vain_ends_refused_with_the_sentence_alone() -> None:
    state = _refused(deployment_id=uuid4(), auto_scheduled=False)
    assert (state.type.value, state.name, state.message) == ("FAILED", asked.REFUSED, str(WRONG))


@pytest.mark.parametrize(
    "run",
    [{"deployment_id": uuid4(), "auto_scheduled": True}, {"deployment_id": None, "auto_scheduled": False}],
    ids=["by a schedule", "by hand"],
)
def test_what_a_schedule_or_a_command_asks_for_in_vain_fails_as_ever(run: dict[str, Any]) -> None:
    with pytest.raises(BadRange):
        _refused(**run)


def test_what_was_refused_is_reported_to_nobody() -> None:
    trigger = EventTrigger.model_validate(declared("a run failed or crashed", str(uuid4()))["trigger"])
    assert trigger.expects("prefect.flow-run.Failed")
    assert not trigger.expects(f"prefect.flow-run.{asked.REFUSED}")
