"""When the warehouse itself is away, and with it the state of incidents: told once, remembered in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson
from psycopg import Connection

from flows.alerting import incidents, words
from flows.alerting.delivery import Message, NotSent, send
from flows.alerting.routes import Routes
from flows.monitoring.storage import WAREHOUSE

FILE = "_warehouse_away.json"
"""In the lake's folder: what outlasts the warehouse."""
_ACTION = (
    "Start PostgreSQL again (in the sandbox: `python -m flows sandbox start`), then `python -m flows doctor`."
)


def away(lake: Path, known: Routes, problem: str, now: datetime, hidden: Sequence[str]) -> None:
    """Tell that the warehouse is away: each channel of critical messages once; one that fails is tried again
    with the next call.
    """
    lake.mkdir(parents=True, exist_ok=True)
    path = lake / FILE
    told: dict[str, Any] = {"incident": token_hex(4), "since": now.isoformat(), "message": "", "channels": []}
    told["message"] = words.scrubbed(f"The warehouse is away: {problem}", hidden)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        try:
            told = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return  # another monitor is writing it this moment
    else:
        os.write(descriptor, orjson.dumps(told))
        os.close(descriptor)
    body = words.body(
        message=told["message"],
        action=_ACTION,
        since=datetime.fromisoformat(told["since"]),
        now=now,
        members=[],
        touches=["everything in analytics"],
        runbook=f"{known.runbook}#{WAREHOUSE}",
        incident_id=told["incident"],
    )
    title = words.title("critical", "opened", told["message"], timedelta(0))
    message = Message(title, body, "critical", "opened", told["incident"], now)
    for name in known.to("critical"):
        if name not in told["channels"]:
            try:
                send(known.channels[name], message)
            except NotSent:
                continue
            told["channels"].append(name)
            _write(path, told)


def back(connection: Connection[Any], lake: Path, known: Routes, now: datetime) -> Path | None:
    """In the caller's transaction: enter the incident that could not be kept, and owe its end to those who
    were told of it. Gives the file to remove once that is committed; None when the warehouse was not away.
    """
    path = lake / FILE
    try:
        told = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    since = datetime.fromisoformat(told["since"])
    entered = connection.execute(
        "insert into ops.incident (incident_id, cause, signal, subject, severity, opened_at, seen_at, since, "
        "severity_since, good_since, resolved_at, message, action, runbook) "
        "values (%(id)s, 'warehouse:warehouse', 'warehouse', 'warehouse', 'critical', %(since)s, "
        "%(now)s, %(since)s, %(since)s, %(now)s, %(now)s, "
        "%(message)s, %(action)s, %(runbook)s) on conflict (incident_id) do nothing",
        {
            "id": told["incident"],
            "since": since,
            "now": now,
            "message": told["message"],
            "action": _ACTION,
            "runbook": f"{known.runbook}#{WAREHOUSE}",
        },
    )
    if entered.rowcount:
        body = words.body(
            message=told["message"],
            action="",
            since=since,
            now=now,
            members=[],
            touches=["everything in analytics"],
            runbook="",
            incident_id=told["incident"],
            is_over=True,
        )
        incidents.owe(
            connection,
            [
                name
                for name in told["channels"]
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
    return path


def _write(path: Path, told: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(orjson.dumps(told))
    temporary.replace(path)
