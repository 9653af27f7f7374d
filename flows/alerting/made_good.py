"""What makes good what: the one rule by which a run that failed is over.

What a run left undone of its parts (`flows/monitoring/runs.py`) is made good part by part, by runs that
began and ended after it and have done that part, whatever their flow and however else they ended. Two flows
are good again when they show it: the stream when it says something of itself, the monitor when it has
measured.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.flow_names import BACKUP, ERASE, MENDING, OF_SOURCES, PHYSICAL
from flows.monitoring.runs import Run, recent
from flows.services import Services
from flows.summary import FAILED
from transforms import registry
from transforms.contract import ContractError

_log = logging.getLogger("flows.alerts")


def unmended(runs: Sequence[Run]) -> list[Run]:
    """Of these runs those that failed and that no later one has made good; `undone` is what is left of it."""
    failed = (run for run in runs if run.state in FAILED and not run.is_over)
    return [replace(run, undone=left) for run in failed if (left := _left(run, runs))]


def _left(failed: Run, among: Iterable[Run]) -> frozenset[str]:
    """What of a failed run nobody has done since."""
    left = failed.undone
    for run in among:
        if run.started_at > failed.started_at and run.ended_at > failed.ended_at:
            left -= run.done
    return left


def ended(connection: Connection[Any], now: datetime) -> list[Run]:
    """The runs that can be open or make something good, the one that ended last first."""
    runs = [run for run in recent(connection, now) if run.state != "Running"]
    return sorted(runs, key=lambda run: run.ended_at, reverse=True)


def let_be(connection: Connection[Any], run_ids: Collection[str], by: str) -> None:
    """Somebody says that what these failed runs left undone is not to be done."""
    connection.execute(
        "update ops.run set summary = summary || jsonb_build_object('let_be_by', %s::text) "
        "where run_id = any(%s)",
        (by, list(run_ids)),
    )


def about(flow: str, parameters: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a run was about by the parameters that Prefect started it with, as ops.run keeps it."""
    if flow == ERASE:
        return {"about": people(parameters.get("users") or ())}
    if flow == BACKUP and parameters.get("physical"):
        return {"about": [PHYSICAL]}
    words = parameters.get("select")
    if flow in (*OF_SOURCES, *MENDING) and words:
        try:
            return {"selected": sorted(registry.select(list(words)))}
        except ContractError:
            return {}
    return {}


def people(users: Iterable[int]) -> list[str]:
    """The parts of an erasure."""
    return [f"user {user}" for user in sorted(set(users))]


def people_of(runs: Iterable[Run]) -> list[str]:
    """Whom erasures left undone, the lowest number first."""
    left = {part.removeprefix(f"{ERASE} ") for run in runs if run.flow == ERASE for part in run.undone}
    return sorted(left - {ERASE}, key=lambda name: (len(name), name))


@contextmanager
def noted(services: Services, flow: str, about: Collection[str] = ()) -> Iterator[None]:
    """Enter into ops.run what is done within, once it has come to its end: a run of a flow that does not
    enter itself. It makes good what an earlier one left. Raises what is raised within, and nothing of its
    own: what was done is done.
    """
    began = services.settings.now()
    yield
    try:
        with services.warehouse.connect() as connection:
            connection.execute(
                "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) "
                "values (%s, %s, %s, %s, 'Completed', %s)",
                (
                    str(uuid4()),
                    flow,
                    began,
                    services.settings.now(),
                    Jsonb({"about": list(about), "failures": []}),
                ),
            )
    except Exception as error:  # noqa: BLE001 - what was done is done, entered or not
        _log.warning("That %s came to its end could not be entered: %s", flow, error)
