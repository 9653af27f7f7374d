"""Runs as verdicts and as news: failed, completed, and how the day was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.alerting import made_good, words
from flows.alerting.cancelled import CANCELLED
from flows.counted import counted
from flows.flow_names import MENDING, MONITOR, OF_SOURCES, STREAM
from flows.monitoring.runs import Run, failed_tables
from flows.monitoring.verdict import State, Verdict
from flows.readable import readable
from flows.summary import FAILED, Summary

SIGNAL, LATE = "pipeline_failed", "run_late"
LATE_AFTER = timedelta(minutes=10)
"""A worker may be busy with the run before."""
_REMEMBERED = timedelta(days=7)
LATE_REMEMBERED = timedelta(days=1)
"""How long a run counts as late that never started."""


@dataclass(frozen=True)
class Reported:
    """What is known of a run that could not tell it itself. `state` is one of FAILED, Late or CANCELLED;
    times are the world's, of one that did not start the one at which it was to.
    """

    run_id: str
    flow: str
    state: str
    message: str
    started_at: datetime
    ended_at: datetime | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Those that it was started with."""


def verdicts(connection: Connection[Any], now: datetime) -> list[Verdict]:
    """Of each flow that ran: critical while a failed run of it is not made good (`made_good` says what does
    that), a warning when one is late that has not started since.
    """
    return [*_failed(connection, now), *_late(connection, now)]


def note(connection: Connection[Any], run: Reported) -> None:
    """Enter into ops.run what is known of a run; one that has told its end itself stays as it said."""
    # What is said of the stream is held against ops.stream_progress, which has the database's own time.
    connection.execute(
        "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) values "
        "(%(id)s, %(flow)s, %(began)s, %(end)s, %(state)s, jsonb_build_object('failures', "
        "jsonb_build_array(%(said)s::text), 'reported_at', clock_timestamp()) || %(about)s) "
        "on conflict (run_id) do update set state = excluded.state, finished_at = excluded.finished_at, "
        "started_at = case ops.run.state when 'Late' then excluded.started_at else ops.run.started_at end, "
        "summary = ops.run.summary || excluded.summary where ops.run.state in ('Running', 'Late')",
        {
            "id": run.run_id,
            "flow": run.flow,
            "began": run.started_at,
            "end": run.ended_at,
            "state": run.state,
            "said": readable(run.message),
            "about": Jsonb(made_good.about(run.flow, run.parameters)),
        },
    )


def _late(connection: Connection[Any], now: datetime) -> list[Verdict]:
    rows = connection.execute(
        b"""
        select flow, min(started_at) filter (where state = 'Late' and finished_at is null
            and started_at > %(since)s and not exists (
            select from ops.stream_progress
            where run.flow = %(stream)s and reported_at > (summary ->> 'reported_at')::timestamptz))
        from ops.run where started_at > %(remembered)s group by flow
        """,
        {"since": now - LATE_REMEMBERED, "remembered": now - _REMEMBERED, "stream": STREAM},
    ).fetchall()
    found = []
    for flow, since in rows:
        if since is None or now - since < LATE_AFTER:
            found.append(Verdict(LATE, f"flow:{flow}", State.OK, now, since=now))
            continue
        found.append(
            Verdict(
                signal=LATE,
                subject=f"flow:{flow}",
                state=State.WARNING,
                measured_at=now,
                value=(now - since).total_seconds(),
                limit=LATE_AFTER.total_seconds(),
                unit="s",
                message=f"A run of {flow} should have started and has not.",
                action="See whether a worker serves the work pool that Prefect's page of it names: "
                "`prefect worker start --pool NAME`.",
                since=since,
            )
        )
    return found


def _failed(connection: Connection[Any], now: datetime) -> Iterator[Verdict]:
    found = made_good.ended(connection, now)
    unmended = made_good.unmended(found)
    for flow in sorted({run.flow for run in found}):
        left = [run for run in unmended if run.flow == flow]
        if left:
            yield _verdict(left, now)
        else:
            last = next(run.ended_at for run in found if run.flow == flow)
            yield Verdict(SIGNAL, f"flow:{flow}", State.OK, now, since=last)


def _verdict(left: Sequence[Run], now: datetime) -> Verdict:
    """Of runs of one flow that failed and are not made good, the newest first."""
    last, failures = left[0], [line for run in left for line in said(run)]
    more = [f"{len(failures) - 1} more failures"] if len(failures) > 1 else []
    more += [f"in {len(left)} runs"] if len(left) > 1 else []
    message = f"{last.flow} failed: {failures[0]}"
    if more:
        message = f"{message.removesuffix('.')} ({', '.join(more)})"
    if people := made_good.people_of(left):
        message = f"{message.removesuffix('.')}. Still to be erased: {words.listed(people)}."
    return Verdict(
        signal=SIGNAL,
        subject=f"flow:{last.flow}",
        state=State.CRITICAL,
        measured_at=now,
        value=float(len(failures)),
        limit=0.0,
        unit="failures",
        message=message,
        action=_action(last.flow),
        since=min(run.ended_at for run in left),
        observed={"run_id": last.run_id, "tables": sorted(failed_tables(failures))},
    )


def said(run: Run) -> Sequence[str]:
    """What a run that failed said of it, a line for each failure; never nothing."""
    return run.failures or (f"it {run.state.lower()} and said nothing",)


def _action(flow: str) -> str:
    if flow in (*OF_SOURCES, *MENDING):
        return "Mend what the line names, then `python -m flows`: it goes on where this run ended."
    if flow in (STREAM, MONITOR):
        return f"Mend what the line names; {flow} goes on by its deployment, and with that this is over."
    return f"Mend what the line names, then run {flow} again for the same: no other run makes it good."


def ended_well(summary: Summary) -> tuple[str, str]:
    """Title and text of the news that a run completed, or that somebody has cancelled it."""
    landed = sum(summary.landed.values())
    title = (
        f"INFO: {summary.flow} completed: {counted(landed, 'row')} landed, "
        f"{counted(summary.partitions, 'partition')} published, {summary.seconds:.0f} s"
    )
    if summary.state == CANCELLED:
        title = f"INFO: {summary.flow} was cancelled by somebody"
    return title, "\n".join(summary.lines()[-1 - len(summary.warnings) - len(summary.pending) :])


def day(connection: Connection[Any], now: datetime) -> tuple[str, str]:
    """Title and text of the daily summary: the last 24 hours of runs, checks, dead letters, incidents."""
    since = now - timedelta(days=1)
    runs = connection.execute(
        "select flow, count(*), count(*) filter (where state = any(%s)) from ops.run "
        "where started_at > %s group by flow order by flow",
        (list(FAILED), since),
    ).fetchall()
    counts = connection.execute(
        b"""
        with recent as (
            select kind, row_count from ops.ledger
            where committed_at > clock_timestamp() - interval '1 day'
        )
        select (select coalesce(sum(row_count), 0) from recent where kind = 'land'),
            (select count(*) from recent where kind = 'publish'),
            (select count(*) from ops.check_result where checked_at > %(since)s),
            (select count(*) from ops.check_result where checked_at > %(since)s and not passed),
            (select count(*) from ops.dead_letter where status = 'waiting')
        """,
        {"since": since},
    ).fetchone()
    assert counts is not None
    incidents = connection.execute(
        "select incident_id, severity, message, resolved_at from ops.incident "
        "where resolved_at is null or resolved_at > %s order by resolved_at nulls first, opened_at",
        (since,),
    ).fetchall()
    still = [row for row in incidents if row[3] is None]
    failed = sum(row[2] for row in runs)
    title = (
        f"INFO: the last 24 hours: {counted(sum(row[1] for row in runs), 'run')}, {failed} failed; "
        f"{counted(len(still), 'incident')} open, {len(incidents) - len(still)} resolved"
    )
    lines = [f"{flow}: {counted(all_, 'run')}, {bad} failed" for flow, all_, bad in runs] or ["No run."]
    landed, published, checks, broken, letters = counts
    lines.append(
        f"{counted(landed, 'row')} landed, {counted(published, 'partition')} published, "
        f"{checks - broken:,} of {checks:,} checks passed, {counted(letters, 'dead letter')} waiting."
    )
    for incident_id, severity, message, resolved_at in incidents:
        lines.append(f"{'resolved' if resolved_at else 'OPEN'} {severity} {incident_id}: {message}")
    return title, "\n".join(lines)
