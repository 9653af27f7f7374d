"""What somebody asks a deployment for that can't be done: told to who asked, in words of the deployment, and
to nobody else.
"""

from __future__ import annotations

import re
from typing import Any, cast

from prefect import get_client, get_run_logger
from prefect.context import FlowRunContext
from prefect.states import Failed

REFUSED = "Refused"
"""Name of the state of a run that was asked for what can't be done. No automation waits for it."""

PARAMETERS = {"--from": "start", "--to": "end", "--partition": "partitions"}
"""Options of the command line, which is what errors name → what a deployment has for them."""
_OPTION = re.compile(r"--\w+(?![\w-])")


def refused(error: Exception) -> dict[str, Any]:
    """The end of such a run, to be returned by its flow: failed, with the error's sentence and nothing else,
    in which a deployment's parameters stand for options of the command line.

    Raises the error where there is somebody else to tell: outside of a deployment the command line does, and
    what a schedule asks for is asked for again and again, in vain.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        raise error
    said = _OPTION.sub(lambda option: PARAMETERS.get(option[0], option[0]), str(error))
    if run.auto_scheduled:
        error.args = (said,)
        raise error
    get_run_logger().error(said)
    if run.empirical_policy.retries:
        # Prefect tries a flow again that returns a failed state, as one that raises; this would fail again.
        never = run.empirical_policy.model_copy(update={"retries": 0})
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, empirical_policy=never)
    # Prefect takes a state that a flow returns for the one that it ends in.
    return cast("dict[str, Any]", Failed(name=REFUSED, message=said))
