"""When the warehouse itself is away, or takes no writes, and with it the state of incidents: told once,
escalated once when it lasts and nobody is on it, remembered outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

from psycopg import Connection

from flows.alerting import incidents, words
from flows.alerting.delivery import Message, NotSent, send
from flows.alerting.remembered import alone, read, write
from flows.alerting.routes import Routes
from flows.monitoring.storage import WAREHOUSE

_DONE = {"opened": "channels", "escalated": "escalated"}
"""Kind of message → where the file names the channels that have it."""
_TOUCHES = ["everything in analytics"]
START = (
    "Start PostgreSQL again (in the sandbox: `python -m flows sandbox start`), then `python -m flows doctor`."
)


def away(lake: Path, known: Routes, problem: str, action: str, now: datetime, hidden: Sequence[str]) -> None:
    """Tell that the warehouse is away, or takes no writes: each channel of critical messages once, and once
    more, with those of escalations, when it lasts; one that fails is tried again with the next call.
    """
    with alone(lake):
        told = read(lake) or {
            "incident": token_hex(4),
            "since": now.isoformat(),
            "message": words.scrubbed(problem, hidden),
            "action": action,
            "runbook": f"{known.runbook}#{WAREHOUSE}",
            "channels": [],
        }
        told["seen_at"] = now.isoformat()
        write(lake, told)
        _tell_all(lake, told, known, now)


def _action(told: dict[str, Any]) -> str:
    """What an earlier version has noted says no word of it."""
    return str(told.get("action", START))


def _tell_all(lake: Path, told: dict[str, Any], known: Routes, now: datetime) -> None:
    body = words.body(
        message=told["message"],
        action=_action(told),
        since=datetime.fromisoformat(told["since"]),
        now=now,
        members=[],
        touches=_TOUCHES,
        runbook=told["runbook"],
        incident_id=told["incident"],
    )
    lasted = now - datetime.fromisoformat(told["since"])
    _tell(lake, told, known, "opened", known.to("critical"), body, lasted, now)
    after = known.escalate_after.get("critical")
    if after is not None and lasted >= after and "acknowledged_by" not in told:
        _tell(lake, told, known, "escalated", known.to("critical", escalated=True), body, lasted, now)


def _tell(
    lake: Path,
    told: dict[str, Any],
    known: Routes,
    kind: str,
    channels: Sequence[str],
    body: str,
    lasted: timedelta,
    now: datetime,
) -> None:
    title = words.title("critical", kind, told["message"], lasted)
    message = Message(title, body, "critical", kind, told["incident"], now)
    done = told.setdefault(_DONE[kind], [])
    for name in channels:
        if name not in done:
            try:
                send(known.channels[name], message)
            except NotSent:
                continue
            done.append(name)
            if kind == "escalated":
                told.setdefault("escalated_at", now.isoformat())
            write(lake, told)


def outage(lake: Path) -> dict[str, Any] | None:
    """What is remembered of the warehouse being away, its incident as a row of ops.incident; None when it is
    not.
    """
    told = read(lake)
    if told is None:
        return None
    times = {
        name: datetime.fromisoformat(told[name]) if name in told else None
        for name in ("since", "seen_at", "acknowledged_at", "escalated_at")
    }
    return {
        "incident_id": told["incident"],
        "signal": WAREHOUSE,
        "subject": WAREHOUSE,
        "severity": "critical",
        "owner": "",
        **times,
        "opened_at": times["since"],
        "resolved_at": None,
        "acknowledged_by": told.get("acknowledged_by"),
        "message": told["message"],
        "action": _action(told),
        "runbook": told["runbook"],
        "touches": _TOUCHES,
        "members": [],
    }


def acknowledge(lake: Path, incident_id: str, by: str, now: datetime) -> bool:
    """Note who is on it, where the warehouse is away and this is the incident of that; says whether it was.
    The id may be cut short.
    """
    if not incident_id or read(lake) is None:
        return False
    with alone(lake):
        told = read(lake)
        if told is None or not told["incident"].startswith(incident_id):
            return False
        write(lake, {**told, "acknowledged_by": by, "acknowledged_at": now.isoformat()})
    return True


def back(connection: Connection[Any], lake: Path, known: Routes, now: datetime) -> bool:
    """In the caller's transaction: enter the incident that could not be kept, and owe its end to those who
    were told of it. Says whether the warehouse was away: to be forgotten once that is committed.
    """
    told = read(lake)
    if told is None:
        return False
    since = datetime.fromisoformat(told["since"])
    entered = connection.execute(
        "insert into ops.incident (incident_id, cause, signal, subject, severity, opened_at, seen_at, since, "
        "severity_since, good_since, resolved_at, acknowledged_at, acknowledged_by, escalated_at, message, "
        "action, runbook) "
        "values (%(id)s, 'warehouse:warehouse', 'warehouse', 'warehouse', 'critical', %(since)s, "
        "%(now)s, %(since)s, %(since)s, %(now)s, %(now)s, %(acknowledged_at)s, %(acknowledged_by)s, "
        "%(escalated_at)s, "
        "%(message)s, %(action)s, %(runbook)s) on conflict (incident_id) do nothing",
        {
            "id": told["incident"],
            "since": since,
            "now": now,
            "message": told["message"],
            "action": _action(told),
            "runbook": told["runbook"],
            **{name: told.get(name) for name in ("acknowledged_at", "acknowledged_by", "escalated_at")},
        },
    )
    if entered.rowcount:
        body = words.body(
            message=told["message"],
            action="",
            since=since,
            now=now,
            members=[],
            touches=_TOUCHES,
            runbook="",
            incident_id=told["incident"],
            is_over=True,
        )
        incidents.owe(
            connection,
            [
                name
                for name in dict.fromkeys([*told["channels"], *told.get("escalated", [])])
                if name in known.channels and known.channels[name].tells_resolved
            ],
            incident_id=told["incident"],
            kind="resolved",
            severity="critical",
            title=words.title("critical", "resolved", told["message"], now - since),
            body=body,
            now=now,
            due_at=now,
        )
    return True
