"""Runs that were killed together with whoever would have told it: nobody ends them but who looks."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import Connection

from flows.alerting.cancelled import CANCELLED, SAID, is_cancelled
from flows.alerting.runs import Reported, note
from flows.settings import Settings
from flows.stores.sessions import is_alive

LONGEST = timedelta(days=1)
"""No run that enters its beginning has as much time (the batch, 12 hours): what began longer ago and has left
nothing to look at is not at work any more."""
_AT_WORK = {"RUNNING", "CANCELLING"}
_TIMEOUT_SECONDS = 5.0
_SAID = (
    "It was killed, or its machine went down, and its process is gone without a word; the system's log says "
    "what ended it"
)


def end_killed(connection: Connection[Any], settings: Settings, now: datetime) -> list[str]:
    """Enter as crashed, in the caller's transaction, the runs whose process is gone, or as cancelled where
    somebody wished that, and tell Prefect, which would take them to be at work for ever; returns their ids.

    A run holds its lake's session (`WritingSession`) as long as it lives, so the kernel tells. Where that
    can't be looked at (another machine's lake, a run of an older version), its time alone does.
    """
    rows = connection.execute(
        "select run_id, flow, started_at, summary ->> 'session' from ops.run where state = 'Running'"
    ).fetchall()
    ended = []
    for run_id, flow, started_at, session in rows:
        is_at_work = is_alive(Path(session)) if session else None
        if is_at_work is None:
            is_at_work = now - started_at < LONGEST
        if not is_at_work and _is_still(connection, run_id, session):
            state, said = (CANCELLED, SAID) if is_cancelled(settings, run_id) else ("Crashed", _SAID)
            note(connection, Reported(run_id, flow, state, said, started_at, now))
            _tell_prefect(settings, run_id, state, said)
            ended.append(str(run_id))
    return ended


def _tell_prefect(settings: Settings, run_id: str, state: str, said: str) -> None:
    """End a run at Prefect's server where it is at work, and the tasks that it has left so. A server that
    does not answer keeps them so.
    """
    address = settings.prefect_address
    if address is None:
        return
    import httpx

    from flows.http_client import client
    from flows.task_runs import end_left

    ended = {"type": state.upper(), "name": state, "message": said}
    try:
        with client(f"{address}/", seconds=_TIMEOUT_SECONDS) as server:
            answer = server.get(f"flow_runs/{run_id}")
            if answer.is_success and answer.json()["state_type"] in _AT_WORK:
                server.post(f"flow_runs/{run_id}/set_state", json={"state": ended, "force": True})
            end_left(server, run_id, said)
    except (httpx.HTTPError, OSError, ValueError, KeyError):
        return


def _is_still(connection: Connection[Any], run_id: str, session: str | None) -> bool:
    """Whether it has neither ended nor been tried again since it was looked at; until the transaction's end
    it does neither.
    """
    row = connection.execute(
        "select 1 from ops.run where run_id = %s and state = 'Running' "
        "and summary ->> 'session' is not distinct from %s for update skip locked",
        (run_id, session),
    ).fetchone()
    return row is not None
