"""The monitor, each minute by its deployment: `python -m flows monitor` is the same outside of Prefect."""

from __future__ import annotations

from collections import Counter

from prefect import flow

from flows.batch import run_name
from flows.errors import FlowsError
from flows.flow_names import MONITOR
from flows.monitoring.look import is_away, look
from flows.services import open_services


class WarehouseAway(FlowsError):
    """The warehouse could not be asked, so nothing was measured of it."""


# A minute that failed is not looked at later: the next one is near. Prefect would keep what each gives in a
# file of its own, which nobody removes: half a million a year.
@flow(
    name=MONITOR,
    flow_run_name=run_name,
    timeout_seconds=50,
    retries=0,
    result_serializer="json",
    persist_result=False,
)
def monitor() -> dict[str, int]:
    """Measure every signal, keep the verdicts, tell who is to be told; returns how many are how.

    What is not well does not fail the run: it is told, and the run did what it is for. Raises WarehouseAway
    where it could not.
    """
    verdicts = look(open_services())
    if is_away(verdicts):
        raise WarehouseAway(next(verdict.message for verdict in verdicts))
    return dict(Counter(verdict.state.value for verdict in verdicts))
