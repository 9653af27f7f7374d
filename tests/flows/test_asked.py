"""Who hears of what was asked for in vain."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRunPolicy
from prefect.server.events.schemas.automations import EventTrigger

from flows import asked
from flows.__main__ import parser
from flows.alerting.automations import declared
from flows.backfill import backfill
from flows.durations import BadRange, days_between
from flows.errors import FlowsError
from flows.replay import replay
from flows.streaming.replays import Asked

WRONG = BadRange("'tomorrow' is no day; write it like 2025-10-07.")


def _refused(error: Exception, **run: Any) -> Any:
    """What a flow returns by this error whose run is as this says."""
    told = SimpleNamespace(empirical_policy=FlowRunPolicy(retries=0), **run)
    context = mock.Mock(**{"get.return_value": SimpleNamespace(flow_run=told)})
    with (
        mock.patch.object(asked, "FlowRunContext", context),
        mock.patch.object(asked, "get_run_logger"),
    ):
        return asked.refused(error)


@pytest.mark.parametrize("by_schedule", [False, True])
@pytest.mark.parametrize(
    ("ask", "typed", "given"),
    [
        (
            lambda: days_between("2025-10-25", "2025-10-20"),
            "--from 2025-10-25 is not before --to 2025-10-20: the range ends before the day that --to names.",
            "start 2025-10-25 is not before end 2025-10-20: the range ends before the day that end names.",
        ),
        (
            lambda: days_between("2025-10-25", "tomorrow"),
            "--to 'tomorrow' is no day; write it like 2025-10-07.",
            "end 'tomorrow' is no day; write it like 2025-10-07.",
        ),
        (
            lambda: Asked.parse("now", None, None),
            "--from now is neither an offset nor a time; write it like 1500 or 2025-10-07T12:00.",
            "start now is neither an offset nor a time; write it like 1500 or 2025-10-07T12:00.",
        ),
    ],
)
def test_a_deployment_speaks_of_its_parameters_and_the_command_line_of_its_options(
    ask: Callable[[], object], typed: str, given: str, by_schedule: bool
) -> None:
    with pytest.raises(FlowsError) as caught:
        ask()
    assert str(caught.value) == typed
    if not by_schedule:
        assert _refused(caught.value, deployment_id=uuid4(), auto_scheduled=False).message == given
        return
    with pytest.raises(type(caught.value)) as failed:
        _refused(caught.value, deployment_id=uuid4(), auto_scheduled=True)
    assert str(failed.value) == given


def test_what_is_an_option_and_a_parameter_is_there_as_both() -> None:
    verbs = next(one.choices for one in parser()._actions if isinstance(one.choices, dict))
    options = set(verbs["backfill"]._option_string_actions) | set(verbs["replay"]._option_string_actions)
    assert options >= asked.PARAMETERS.keys()
    parameters = {*backfill.parameters.properties, *replay.parameters.properties}
    assert parameters >= set(asked.PARAMETERS.values())


def test_a_run_that_somebody_has_asked_for_in_vain_ends_refused_with_the_sentence_alone() -> None:
    state = _refused(WRONG, deployment_id=uuid4(), auto_scheduled=False)
    assert (state.type.value, state.name, state.message) == ("FAILED", asked.REFUSED, str(WRONG))


@pytest.mark.parametrize(
    "run",
    [{"deployment_id": uuid4(), "auto_scheduled": True}, {"deployment_id": None, "auto_scheduled": False}],
    ids=["by a schedule", "by hand"],
)
def test_what_a_schedule_or_a_command_asks_for_in_vain_fails_as_ever(run: dict[str, Any]) -> None:
    with pytest.raises(BadRange):
        _refused(WRONG, **run)


def test_what_was_refused_is_reported_to_nobody() -> None:
    trigger = EventTrigger.model_validate(declared("a run failed or crashed", str(uuid4()))["trigger"])
    assert trigger.expects("prefect.flow-run.Failed")
    assert not trigger.expects(f"prefect.flow-run.{asked.REFUSED}")
