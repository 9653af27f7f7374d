"""What makes good what: the one rule by which a run that failed is over.

A run is about parts: the tables and views that it was to bring to an end, the people that it was to erase;
of any other flow, itself. What it left undone is made good part by part, by runs that began and ended after
it and have done that part, whatever their flow and however else they ended. Two flows are good again when
they show it: the stream when it says something of itself, the monitor when it has measured.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import uuid4

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from flows.flow_names import ERASE, MENDING, MONITOR, OF_SOURCES, STREAM, reads
from flows.monitoring.runs import left_undone
from flows.services import Services
from transforms import registry
from transforms.contract import ContractError
from warehouse_ddl.files import views

FAILED = ("Failed", "Crashed", "TimedOut")
_REMEMBERED = timedelta(days=35)
"""How long a failure counts. Data that is late by then is told as that; people who wait to be erased are not,
so an erasure counts for as long as ops.run is kept.
"""
_log = logging.getLogger("flows.alerts")


@dataclass(frozen=True)
class Ended:
    """One run that ended. `undone`: those of its parts that it did not bring to an end."""

    run_id: str
    flow: str
    state: str
    began_at: datetime
    ended_at: datetime
    failures: tuple[str, ...]
    parts: frozenset[str]
    undone: frozenset[str]
    is_over: bool
    """Whether its flow has shown since that it goes on, for those that do that; or somebody let it be."""


def unmended(runs: Sequence[Ended]) -> list[Ended]:
    """Of these runs, the newest first, those that failed and that no later one has made good; `undone` is
    what is left of it.
    """
    failed = (run for run in runs if run.state in FAILED and not run.is_over)
    return [replace(run, undone=left) for run in failed if (left := _left(run, runs))]


def _left(failed: Ended, among: Iterable[Ended]) -> frozenset[str]:
    """What of a failed run nobody has done since."""
    left = failed.undone
    for run in among:
        if run.began_at > failed.began_at and run.ended_at > failed.ended_at:
            left -= run.parts - run.undone
    return left


def ended(connection: Connection[Any], now: datetime) -> list[Ended]:
    """The runs that can be open or make something good, the newest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            select run_id, flow, state, started_at, coalesce(finished_at, started_at) as ended_at,
                coalesce(summary -> 'failures', '[]') as failures,
                coalesce(summary -> 'skipped', '[]') as skipped,
                coalesce(summary -> 'selected', '[]') as selected,
                coalesce(summary -> 'about', '[]') as about,
                summary ? 'let_be_by' or case flow
                    when %(stream)s then exists (
                        select from ops.stream_progress
                        where reported_at > (summary ->> 'reported_at')::timestamptz
                    )
                    when %(monitor)s then exists (select from ops.health where measured_at > started_at)
                    else false
                end as is_over
            from ops.run
            where state not in ('Running', 'Late') and (started_at > %(since)s or flow = %(erase)s)
            order by ended_at desc, run_id
            """,
            {"since": now - _REMEMBERED, "stream": STREAM, "monitor": MONITOR, "erase": ERASE},
        ).fetchall()
    return [_ended(row) for row in rows]


def _ended(row: Mapping[str, Any]) -> Ended:
    flow, state, failures = row["flow"], row["state"], tuple(map(str, row["failures"]))
    parts = _parts(flow, tuple(row["selected"]), tuple(row["about"]))
    if flow in (*OF_SOURCES, *MENDING):
        known = left_undone(state, failures, row["skipped"])
        undone = parts if known is None else parts & known
    else:
        undone = frozenset() if state == "Completed" else parts
    return Ended(
        row["run_id"],
        flow,
        state,
        row["started_at"],
        row["ended_at"],
        failures,
        parts,
        undone,
        row["is_over"],
    )


@cache
def _parts(flow: str, selected: tuple[str, ...], about: tuple[str, ...]) -> frozenset[str]:
    """A run of the batch refreshes whatever view is owed, and builds what is due of the models that it was
    narrowed to, or of all.
    """
    if flow not in (*OF_SOURCES, *MENDING):
        return frozenset(f"{flow} {one}" for one in about) or frozenset({flow})
    landed = {entity.table for entity in reads(flow)}
    built = selected or [table.name for table in registry.build_order()]
    return frozenset({*landed, *built, *(view.name for view in views())})


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


def people_of(runs: Iterable[Ended]) -> list[str]:
    """Whom erasures left undone, the lowest number first."""
    left = {part.removeprefix(f"{ERASE} ") for run in runs if run.flow == ERASE for part in run.undone}
    return sorted(left - {ERASE}, key=lambda name: (len(name), name))


def note_completed(services: Services, flow: str, about: Collection[str] = ()) -> None:
    """Enter into ops.run that a run came to its end whose flow does not enter itself: it makes good what an
    earlier one left. Never raises: what was done is done.
    """
    try:
        now = services.settings.now()
        with services.warehouse.connect() as connection:
            connection.execute(
                "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) "
                "values (%s, %s, %s, %s, 'Completed', %s)",
                (str(uuid4()), flow, now, now, Jsonb({"about": list(about), "failures": []})),
            )
    except Exception as error:  # noqa: BLE001 - what was done is done, entered or not
        _log.warning("That %s came to its end could not be entered: %s", flow, error)
