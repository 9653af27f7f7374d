"""Runs that were reported late: late as long as Prefect waits for them, to which `finished_at` is an end."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection

from flows.alerting.cancelled import CANCELLED, STATES
from flows.alerting.runs import LATE_REMEMBERED, Reported, note
from flows.settings import Settings

_WAITS = {"SCHEDULED", "PENDING", "PAUSED"}
_SAID = "It was late, and somebody cancelled or deleted it at Prefect's server before it began."
_TIMEOUT_SECONDS = 5.0


def end_late(connection: Connection[Any], settings: Settings, now: datetime) -> None:
    """Take back, in the caller's transaction, that a run is late which has begun or ended since, and enter as
    cancelled one that is not to begin any more. Where Prefect's server can't be asked all stays as it is.
    """
    rows = connection.execute(
        "select run_id, flow, started_at from ops.run where state = 'Late' and finished_at is null "
        "and started_at > %s",
        (now - LATE_REMEMBERED,),
    ).fetchall()
    states = _states(settings, [run_id for run_id, *_ in rows])
    if states is None:
        return
    for run_id, flow, due in rows:
        state = states.get(run_id)
        if state is None or state in STATES:
            note(connection, Reported(run_id, flow, CANCELLED, _SAID, due, now))
        elif state not in _WAITS:
            # What it does, or did, it enters itself, or Prefect reports it.
            connection.execute(
                "update ops.run set finished_at = %s where run_id = %s and state = 'Late'", (now, run_id)
            )


def _states(settings: Settings, run_ids: list[str]) -> dict[str, str] | None:
    """The types of the states that the server has of these runs; None where there is nothing to ask, or
    nobody.
    """
    address = settings.prefect_address
    if address is None or not run_ids:
        return None
    import httpx

    from flows.http_client import client

    asked = {"flow_runs": {"id": {"any_": run_ids}}}
    try:
        with client(f"{address}/", seconds=_TIMEOUT_SECONDS) as server:
            answer = server.post("flow_runs/filter", json=asked).raise_for_status()
            return {run["id"]: run["state_type"] for run in answer.json()}
    except (httpx.HTTPError, OSError, ValueError, KeyError):
        return None
