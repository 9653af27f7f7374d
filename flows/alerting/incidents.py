"""Incidents and messages as rows. Everything here is part of the caller's transaction; nothing is sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from flows.alerting import words
from flows.alerting.causes import Trouble


@dataclass(frozen=True)
class Incident:
    """A row of ops.incident that is open."""

    incident_id: str
    cause: str
    signal: str
    subject: str
    severity: str
    owner: str
    opened_at: datetime
    seen_at: datetime
    since: datetime
    severity_since: datetime
    message: str
    action: str
    runbook: str
    touches: list[str] = field(default_factory=list)
    members: list[dict[str, Any]] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    acknowledged_at: datetime | None = None
    escalated_at: datetime | None = None
    good_since: datetime | None = None
    patience: timedelta = timedelta(0)

    @property
    def trouble(self) -> Trouble:
        return Trouble(self.signal, self.subject, frozenset(self.about), self.since, is_told=True)

    @property
    def keys(self) -> set[str]:
        """Its cause and what failed with it."""
        return {self.cause, *(f"{member['signal']}:{member['subject']}" for member in self.members)}


_COLUMNS = tuple(column.name for column in fields(Incident))
_JSON = {"touches", "members", "about"}


def alone(connection: Connection[Any]) -> None:
    """One after the other, until the caller's transaction ends: who writes an incident writes all of it as it
    was read.
    """
    connection.execute("select pg_advisory_xact_lock(hashtext('ops.incident'))")


def save(
    connection: Connection[Any],
    one: Incident,
    resolved_at: datetime | None = None,
    taken_in_by: str | None = None,
) -> None:
    """Write an incident as it is now; `resolved_at` ends it, for good or as part of another."""
    values = {name: Jsonb(getattr(one, name)) if name in _JSON else getattr(one, name) for name in _COLUMNS}
    values |= {"resolved_at": resolved_at, "taken_in_by": taken_in_by}
    names = ", ".join(values)
    given = ", ".join(f"%({name})s" for name in values)
    changed = ", ".join(f"{name} = excluded.{name}" for name in values if name != "incident_id")
    connection.execute(
        f"insert into ops.incident ({names}) values ({given}) "
        f"on conflict (incident_id) do update set {changed}".encode(),
        values,
    )


def withdraw(
    connection: Connection[Any],
    incident_id: str,
    why: str,
    now: datetime,
    channels: Collection[str] | None = None,
) -> None:
    """Messages that wait for the end of the quiet hours are not sent any more: another says it all, to these
    channels (None: to each).
    """
    connection.execute(
        "update ops.notification set given_up_at = %(now)s, problem = %(why)s where incident_id = %(id)s "
        "and sent_at is null and given_up_at is null and tries = 0 and due_at > %(now)s "
        "and (%(channels)s::text[] is null or channel = any(%(channels)s))",
        {"now": now, "why": why, "id": incident_id, "channels": None if channels is None else [*channels]},
    )


def heard(connection: Connection[Any], incident_id: str) -> list[str]:
    """The channels that were told of an incident, or will be."""
    rows = connection.execute(
        "select distinct channel from ops.notification where incident_id = %s and given_up_at is null "
        "order by channel",
        (incident_id,),
    ).fetchall()
    return [channel for (channel,) in rows]


def owe(
    connection: Connection[Any],
    channels: Collection[str],
    *,
    kind: str,
    severity: str,
    title: str,
    body: str,
    now: datetime,
    due_at: datetime,
    incident_id: str | None = None,
    html: str = "",
    occasion: str = "",
) -> None:
    """Note a message for each of these channels; whoever delivers next sends it. `html` is the same as a
    page, for channels that are e-mail. Of an `occasion` each channel is told once: while it has not got the
    message, that one is renewed and due.
    """
    values: dict[str, Any] = {"incident_id": incident_id, "kind": kind, "severity": severity}
    values |= {"title": words.short(title, words.MOST_TITLE), "body": words.short(body, words.MOST_BODY)}
    values |= {"created_at": now, "due_at": due_at}
    # Named where they are needed alone: trouble is told too while the warehouse is from before these columns.
    if html:
        values |= {"html": html}
    once = ""
    if occasion:
        values |= {"occasion": occasion}
        anew = ", ".join(
            f"{name} = excluded.{name}" for name in ("title", "body", "html", "created_at", "due_at")
        )
        once = (
            f" on conflict (occasion, channel) where occasion is not null do update set {anew}, "
            "given_up_at = null, tries = 0 where notification.sent_at is null"
        )
    columns = ", ".join(["channel", *values])
    given = ", ".join(f"%({name})s" for name in ("channel", *values))
    with connection.cursor() as cursor:
        cursor.executemany(
            f"insert into ops.notification ({columns}) values ({given}){once}".encode(),
            [{"channel": name, **values} for name in channels],
        )


def opened(connection: Connection[Any]) -> list[Incident]:
    """The incidents that are open, the oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"select {', '.join(_COLUMNS)} from ops.incident where resolved_at is null "
            "order by opened_at, incident_id".encode()
        ).fetchall()
    return [_incident(row) for row in rows]


def _incident(row: Mapping[str, Any]) -> Incident:
    known = dict(row)
    known["since"] = known["since"] or known["opened_at"]
    known["severity_since"] = known["severity_since"] or known["opened_at"]
    return Incident(**known)
