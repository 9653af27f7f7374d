"""Ending an incident by hand: what nobody will mend, and nobody has to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection

from flows.alerting import made_good, runs, words
from flows.alerting.incidents import Incident
from flows.errors import FlowsError
from flows.monitoring.streams import LAG
from flows.monitoring.verdict import State
from flows.streaming.tally import KIND, REPORTED_WITHIN


class CannotEnd(FlowsError):
    """An incident is over only when it is measured to be."""


def end(connection: Connection[Any], one: Incident, by: str, now: datetime) -> list[str]:
    """Let what an incident is about be: failed runs of a flow, each by itself, or a stream that died. What
    else failed with it has to become well. Returns what was let be, in lines.

    Raises CannotEnd for an incident that goes by what is measured now.
    """
    if one.signal == runs.SIGNAL:
        done = _runs(connection, one, by, now)
    elif one.signal == LAG:
        done = _stream(connection, one, by)
    else:
        raise CannotEnd(
            f"{one.incident_id} is about {one.signal} of {one.subject}: it ends when that is measured to be "
            f"well. Say that you know of it: `python -m flows alerts ack {one.incident_id}`."
        )
    return [*done, _when(connection, one, now)]


def _runs(connection: Connection[Any], one: Incident, by: str, now: datetime) -> list[str]:
    flow = one.subject.removeprefix("flow:")
    left = [run for run in made_good.unmended(made_good.ended(connection, now)) if run.flow == flow]
    if not left:
        raise CannotEnd(f"No failed run of {flow} has left anything undone. {_when(connection, one, now)}")
    made_good.let_be(connection, [run.run_id for run in left], by)
    lines = [f"Let be by {by}, and not to be done any more, of {flow}:"]
    for run in left:
        people = made_good.people_of([run])
        whom = f" ({words.listed(people)})" if people else ""
        lines.append(f"  run {run.run_id}, ended {words.at(run.ended_at)}{whom}: {runs.said(run)[0]}")
    return lines


def _stream(connection: Connection[Any], one: Incident, by: str) -> list[str]:
    kind = one.subject.removeprefix("stream:")
    ended = connection.execute(
        "update ops.stream_progress set ended_at = clock_timestamp() where ended_at is null "
        f"and reported_at < clock_timestamp() - %s and {KIND} = %s".encode(),
        (REPORTED_WITHIN, kind),
    )
    if not ended.rowcount:
        raise CannotEnd(
            f"No stream of {kind} has died: {one.incident_id} ends when what waits for the one that lives is "
            f"taken in. Say that you know of it: `python -m flows alerts ack {one.incident_id}`."
        )
    return [f"Let be by {by}, and not waited for any more: the stream of {kind} that died."]


def _when(connection: Connection[Any], one: Incident, now: datetime) -> str:
    """A sentence: when it ends, by what failed with it and is not well."""
    bad = {
        (said.signal, said.subject) for said in runs.verdicts(connection, now) if said.state is not State.OK
    }
    bad |= set(connection.execute("select signal, subject from ops.health where verdict <> 'ok'").fetchall())
    others = [member for member in one.members if (member["signal"], member["subject"]) in bad]
    when = f"once {words.told(others)} is well too" if others else "with the next look of the monitor"
    return f"{one.incident_id} ends {when}."
