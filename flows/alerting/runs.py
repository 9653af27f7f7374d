"""Runs as verdicts and as news: failed, completed, and how the day was."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from flows.flow_names import BATCH, STREAM
from flows.monitoring.runs import failed_tables
from flows.monitoring.verdict import State, Verdict
from flows.summary import Summary

SIGNAL, LATE = "pipeline_failed", "run_late"
LATE_AFTER = timedelta(minutes=10)
"""A worker may be busy with the run before."""
FAILED = ("Failed", "Crashed", "TimedOut")
_REMEMBERED = timedelta(days=7)
_OTHERS_REMEMBERED = timedelta(days=1)
"""How long a failure counts of a flow that notes no run that completes."""


def verdicts(connection: Connection[Any], now: datetime) -> list[Verdict]:
    """Of each flow that ran: critical when its last run failed and no ordinary run completed since, a warning
    when one is late that has not started since.
    """
    return [*_failed(connection, now), *_late(connection, now)]


def note(
    connection: Connection[Any], run_id: str, flow: str, state: str, message: str, now: datetime
) -> None:
    """Enter into ops.run what Prefect says of a run; one that has told its end itself stays as it said."""
    # What is said of the stream is held against ops.stream_progress, which has the database's own time.
    connection.execute(
        "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) values "
        "(%(id)s, %(flow)s, %(now)s, %(end)s, %(state)s, jsonb_build_object('failures', "
        "jsonb_build_array(%(said)s::text), 'reported_at', clock_timestamp())) "
        "on conflict (run_id) do update set state = excluded.state, finished_at = excluded.finished_at, "
        "summary = ops.run.summary || excluded.summary where ops.run.state in ('Running', 'Late')",
        {
            "id": run_id,
            "flow": flow,
            "now": now,
            "end": None if state == "Late" else now,
            "state": state,
            "said": message,
        },
    )


def _late(connection: Connection[Any], now: datetime) -> list[Verdict]:
    rows = connection.execute(
        b"""
        select flow, min(started_at) filter (where state = 'Late' and started_at > %(since)s and not exists (
            select from ops.stream_progress
            where run.flow = %(stream)s and reported_at > (summary ->> 'reported_at')::timestamptz))
        from ops.run where started_at > %(remembered)s group by flow
        """,
        {"since": now - _OTHERS_REMEMBERED, "remembered": now - _REMEMBERED, "stream": STREAM},
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
                action="See whether a worker serves the pool: `prefect worker start --pool analytics`.",
                since=since,
            )
        )
    return found


def _failed(connection: Connection[Any], now: datetime) -> list[Verdict]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            with ended as (
                select run_id, flow, state, summary, coalesce(finished_at, started_at) as ended_at
                from ops.run where state not in ('Running', 'Late') and started_at > %(since)s
            ),
            last as (select distinct on (flow) * from ended order by flow, ended_at desc, run_id)
            select last.*, exists (
                    select from ended where ended.state = 'Completed' and ended.flow = %(ordinary)s
                        and ended.ended_at > last.ended_at
                ) or exists (
                    select from ops.stream_progress
                    where last.flow = %(stream)s
                        and reported_at > (last.summary ->> 'reported_at')::timestamptz
                ) as is_made_good,
                (
                    select min(bad.ended_at) from ended as bad
                    where bad.flow = last.flow and bad.ended_at > coalesce((
                        select max(good.ended_at) from ended as good
                        where good.flow = last.flow and good.state = 'Completed'), '-infinity')
                ) as failed_since
            from last
            """,
            {"since": now - _REMEMBERED, "ordinary": BATCH, "stream": STREAM},
        ).fetchall()
    return [_verdict(row, now) for row in rows]


def _verdict(row: Mapping[str, Any], now: datetime) -> Verdict:
    flow, failures = row["flow"], list(row["summary"].get("failures") or [])
    is_old = now - row["ended_at"] > _OTHERS_REMEMBERED and "landed" not in row["summary"]
    if row["state"] not in FAILED or row["is_made_good"] or is_old:
        return Verdict(SIGNAL, f"flow:{flow}", State.OK, now, since=row["ended_at"])
    more = f" ({len(failures) - 1} more failures)" if len(failures) > 1 else ""
    reason = failures[0] if failures else f"it {row['state'].lower()} and said nothing"
    return Verdict(
        signal=SIGNAL,
        subject=f"flow:{flow}",
        state=State.CRITICAL,
        measured_at=now,
        value=float(max(1, len(failures))),
        limit=0.0,
        unit="failures",
        message=f"{flow} failed: {reason}{more}",
        action="Mend what the line names, then `python -m flows`: it goes on where this run ended.",
        since=row["failed_since"] or row["ended_at"],
        observed={"run_id": row["run_id"], "tables": sorted(failed_tables(failures))},
    )


def completed(summary: Summary) -> tuple[str, str]:
    """Title and text of the news that a run completed."""
    landed = sum(summary.landed.values())
    title = (
        f"INFO: {summary.flow} completed: {landed:,} rows landed, "
        f"{summary.partitions:,} partitions published, {summary.seconds:.0f} s"
    )
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
        f"INFO: the last 24 hours: {sum(row[1] for row in runs)} runs, {failed} failed; "
        f"{len(still)} incidents open, {len(incidents) - len(still)} resolved"
    )
    lines = [f"{flow}: {all_} runs, {bad} failed" for flow, all_, bad in runs] or ["No run."]
    landed, published, checks, broken, letters = counts
    lines.append(
        f"{landed:,} rows landed, {published:,} partitions published, "
        f"{checks - broken:,} of {checks:,} checks passed, {letters:,} dead letters wait."
    )
    for incident_id, severity, message, resolved_at in incidents:
        lines.append(f"{'resolved' if resolved_at else 'OPEN'} {severity} {incident_id}: {message}")
    return title, "\n".join(lines)
