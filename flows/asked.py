"""What somebody asks a deployment for that can't be done: told to who asked, and to nobody else."""

from __future__ import annotations

from typing import Any, cast

from prefect import get_run_logger
from prefect.context import FlowRunContext
from prefect.states import Failed

REFUSED = "Refused"
"""Name of the state of a run that was asked for what can't be done. No automation waits for it."""


def refused(error: Exception) -> dict[str, Any]:
    """The end of such a run, to be returned by its flow: failed, with the error's sentence and nothing else.

    Raises the error where there is somebody else to tell: outside of a deployment the command line does, and
    what a schedule asks for is asked for again and again, in vain.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None or run.auto_scheduled:
        raise error
    get_run_logger().error(str(error))
    # Prefect takes a state that a flow returns for the one that it ends in.
    return cast("dict[str, Any]", Failed(name=REFUSED, message=str(error)))
