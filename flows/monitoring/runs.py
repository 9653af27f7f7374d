"""The runs that ops.run knows, and what of its parts each has done.

A run is about parts: the tables and views that it was to bring to an end, the people that it was to erase;
of any other flow, itself. A part is done when all that was to be done of it was done, and is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from flows.flow_names import ERASE, MENDING, MONITOR, OF_SOURCES, STREAM, reads
from transforms import registry
from warehouse_ddl.files import views

_REMEMBERED = timedelta(days=35)
"""How long a run counts. Data that is late by then is told as that; people who wait to be erased are not, so
an erasure counts for as long as ops.run is kept. Late since when is known by the last run that brought all:
of a flow of sources the runs since then count, however long ago it was.
"""


@dataclass(frozen=True)
class Run:
    """One run that began, with its parts."""

    run_id: str
    flow: str
    state: str
    started_at: datetime
    ended_at: datetime
    """When it began, while it is at work."""
    failures: tuple[str, ...]
    done: frozenset[str]
    undone: frozenset[str]
    is_narrowed: bool
    """Whether it was about some tables alone, or landed nothing: a selection, a backfill, a rebuild."""
    is_over: bool
    """Whether its flow has shown since that it goes on, for those that do that; or somebody let it be."""


def recent(connection: Connection[Any], now: datetime) -> list[Run]:
    """The one that began last first."""
    since = now - _REMEMBERED
    found = _read(connection, "started_at > %(since)s or flow = %(erase)s", since=since, erase=ERASE)
    for flow in OF_SOURCES:
        if not any(run.flow == flow and run.state == "Completed" and not run.is_narrowed for run in found):
            found += _read(connection, _SINCE_ALL_WAS_DONE, flow=flow, since=since)
    return sorted(found, key=lambda run: run.started_at, reverse=True)


_SINCE_ALL_WAS_DONE = """
flow = %(flow)s and started_at <= %(since)s and started_at >= (
    select last.started_at from ops.run as last
    where last.flow = %(flow)s and last.state <> 'Late' and last.started_at <= %(since)s
        and coalesce(last.summary -> 'selected', '[]') = '[]'
    order by last.state = 'Completed' desc, last.started_at desc limit 1
)
"""
"""Runs of a flow from before a moment: since one brought all; where none did, the last one."""


def _read(connection: Connection[Any], which: str, **given: Any) -> list[Run]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""
            select run_id, flow, state, started_at,
                coalesce(finished_at, started_at) as ended_at,
                coalesce(summary -> 'failures', '[]') as failures,
                coalesce(summary -> 'skipped', '[]') as skipped,
                coalesce(summary -> 'pending', '[]') as pending,
                coalesce(summary -> 'selected', '[]') as selected,
                coalesce(summary -> 'about', '[]') as about,
                summary ? 'let_be_by' or case flow
                    when %(stream)s then exists (
                        select from ops.stream_progress
                        where reported_at > (summary ->> 'reported_at')::timestamptz
                    )
                    when %(monitor)s then exists (
                        select from ops.health where measured_at > coalesce(finished_at, started_at)
                    )
                    else false
                end as is_over
            from ops.run
            where state <> 'Late' and ({which})
            order by started_at desc, run_id
            """.encode(),
            {"stream": STREAM, "monitor": MONITOR, **given},
        ).fetchall()
    return [_run(row) for row in rows]


def _run(row: Mapping[str, Any]) -> Run:
    flow, state, selected = row["flow"], row["state"], tuple(row["selected"])
    parts = _parts(flow, selected, tuple(row["about"]))
    if flow in (*OF_SOURCES, *MENDING):
        known = _left_undone(state, row["failures"], row["skipped"], row["pending"])
        undone = parts if known is None else parts & known
    else:
        undone = frozenset() if state == "Completed" else parts
    return Run(
        run_id=row["run_id"],
        flow=flow,
        state=state,
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        failures=tuple(map(str, row["failures"])),
        done=parts - undone,
        undone=undone,
        is_narrowed=bool(selected) or flow not in OF_SOURCES,
        is_over=row["is_over"],
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


def failed_tables(failures: Sequence[str]) -> frozenset[str]:
    """What a run's failures begin with: tables, views, several where one cause is theirs; anything else is
    about the whole run.
    """
    return frozenset(name.strip() for line in failures for name in line.partition(":")[0].split(","))


def _left_undone(
    state: str, failures: Sequence[str], skipped: Sequence[str], pending: Sequence[str]
) -> frozenset[str] | None:
    """From what a run said; None where it was not brought to an end. What it skipped begins with all that it
    left out; what somebody's lock keeps from being seen, with its name.
    """
    if state not in ("Completed", "Failed"):
        return None
    known = registry.tables()
    failed = failed_tables(failures)
    if any(name not in known and not name.startswith("mv_") for name in failed):
        return None
    left_out = {name.strip() for line in skipped for name in line.partition(":")[0].split(",")}
    return frozenset(failed | left_out | {line.split(maxsplit=1)[0] for line in pending})
