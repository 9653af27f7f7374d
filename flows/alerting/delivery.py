"""Sending what is owed: ops.notification is an outbox, and whoever looks into it sends what is due."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from psycopg import Connection
from psycopg.rows import dict_row

from flows.alerting.routes import Channel, Routes
from flows.alerting.words import scrubbed
from flows.monitoring.verdict import State, Verdict

TRIES = 8
"""With the pauses between them two hours; then a message is given up."""
_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=1)
AT_ONCE = 50
"""So many messages are sent in one go; the next minute goes on."""
SIGNAL = "alert_channel"
_KINDS = {"resolved": "success", "info": "info"}


class NotSent(Exception):
    """A channel did not take a message; the reason is one line."""


@dataclass(frozen=True)
class Message:
    """One message for one channel."""

    title: str
    body: str
    severity: str
    kind: str
    incident_id: str | None
    created_at: datetime
    html: str = ""
    """The same as a page, for channels that are e-mail."""


def deliver(connection: Connection[Any], routes: Routes, now: datetime, hidden: Sequence[str]) -> None:
    """Send what is due, oldest first. What a channel does not take is tried again, with pauses that double;
    after a failure the rest for that channel waits too.

    Each message is locked while it is sent, so that two who send at once send it once. Raises nothing that a
    channel does.
    """
    failed: list[str] = []
    for _ in range(AT_ONCE):
        with connection.transaction():
            row = _next(connection, failed, now)
            if row is None:
                return
            problem = _problem(routes, row, hidden)
            _note(connection, row, problem, now)
        if problem:
            failed.append(row["channel"])


def _next(connection: Connection[Any], failed: Sequence[str], now: datetime) -> dict[str, Any] | None:
    """The next message that is due; behind an earlier one of its channel that waits for another try it waits
    too, so that a resolution never comes before what it resolves.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """
            select * from ops.notification as owed
            where sent_at is null and given_up_at is null and coalesce(due_at, created_at) <= %(now)s
                and channel <> all(%(failed)s)
                and not exists (
                    select from ops.notification as earlier
                    where earlier.channel = owed.channel and earlier.notification_id < owed.notification_id
                        and earlier.sent_at is null and earlier.given_up_at is null and earlier.tries > 0
                        and earlier.due_at > %(now)s and earlier.incident_id = owed.incident_id)
            order by notification_id limit 1 for update skip locked
            """,
            {"now": now, "failed": list(failed)},
        ).fetchone()


def _problem(routes: Routes, row: dict[str, Any], hidden: Sequence[str]) -> str:
    """Why a message was not sent; empty once it was."""
    channel = routes.channels.get(row["channel"])
    if channel is None:
        return "no channel of that name is declared any more"
    message = Message(
        title=row["title"],
        body=row["body"],
        severity=row["severity"],
        kind=row["kind"],
        incident_id=row["incident_id"],
        created_at=row["created_at"],
        html=row.get("html", ""),  # a warehouse from before this column is told of its trouble too
    )
    try:
        send(channel, message)
    except NotSent as error:
        return scrubbed(str(error), hidden)
    return ""


def _note(connection: Connection[Any], row: dict[str, Any], problem: str, now: datetime) -> None:
    tries = row["tries"] + 1
    is_last = bool(problem) and tries >= TRIES
    pause = min(_PAUSE * 2 ** (tries - 1), _LONGEST_PAUSE)
    connection.execute(
        "update ops.notification set tries = %s, tried_at = %s, problem = %s, sent_at = %s, due_at = %s, "
        "given_up_at = %s where notification_id = %s",
        (
            tries,
            now,
            problem,
            None if problem else now,
            now + pause if problem else row["due_at"],
            now if is_last else None,
            row["notification_id"],
        ),
    )


def channel_verdicts(connection: Connection[Any], routes: Routes, now: datetime) -> list[Verdict]:
    """How the channels are, by what became of their last message: one verdict for each that was used."""
    rows = connection.execute(
        """
        select channel, last.sent_at is not null, last.problem, last.tried_at,
            (select count(*) from ops.notification as waiting
                where waiting.channel = channels.channel and waiting.sent_at is null and waiting.tries > 0)
        from unnest(%s::text[]) as channels (channel)
        cross join lateral (
            select sent_at, problem, tried_at from ops.notification
            where notification.channel = channels.channel and tries > 0
            order by tried_at desc, sent_at is null desc limit 1
        ) as last
        """,
        (list(routes.channels),),
    ).fetchall()
    found = []
    for name, works, problem, tried_at, waiting in rows:
        found.append(
            Verdict(
                signal=SIGNAL,
                subject=f"channel:{name}",
                state=State.OK if works else State.WARNING,
                measured_at=now,
                value=float(waiting),
                limit=0.0,
                unit="messages",
                since=None if works else tried_at,
                message=""
                if works
                else f"Channel {name} takes no message: {problem}. {waiting} were not sent.",
                action=f"Correct channels.{name} in the file of ANALYTICS_ALERTS, or the service behind it; "
                "what waits is sent by itself.",
            )
        )
    return found


def send(channel: Channel, message: Message) -> None:
    """Send one message now. Raises NotSent."""
    if channel.url.startswith("file://"):
        _write(Path(channel.url.removeprefix("file://")), message)
        return
    import apprise

    to = apprise.Apprise()
    is_page = bool(message.html) and channel.url.startswith("mailto")
    kind = _KINDS.get(message.kind, "failure" if message.severity == "critical" else "warning")
    with _Said() as said:
        try:
            sent = to.add(channel.url) and to.notify(
                title=message.title,
                body=message.html if is_page else message.body,
                notify_type=apprise.NotifyType(kind),
                body_format=apprise.NotifyFormat.HTML if is_page else apprise.NotifyFormat.TEXT,
            )
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and fails nothing but its message
            raise NotSent(f"{type(error).__name__}: {error}") from None
    if not sent:
        raise NotSent(said.last or "it did not say why")


def _write(path: Path, message: Message) -> None:
    """Append a line of JSON: one write, so that lines of two processes never mix."""
    line = orjson.dumps(
        {
            "at": message.created_at.isoformat(),
            "severity": message.severity,
            "kind": message.kind,
            "incident": message.incident_id,
            "title": message.title,
            "body": message.body,
        }
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            os.write(descriptor, line + b"\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotSent(f"{path} can't be written: {error.strerror}") from None


class _Said(logging.Handler):
    """What apprise logs while a message is sent: its only way to say why it was not."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._lines: list[tuple[int, str]] = []

    @property
    def last(self) -> str:
        """The weightiest line, the last of those."""
        worst = max((level for level, _ in self._lines), default=0)
        reasons = [text for _, text in self._lines if "rror" in text or "xception" in text]
        lines = [text for level, text in self._lines if level == worst]
        return (reasons or lines or [""])[-1].strip()[:300].rstrip(".")

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append((record.levelno, record.getMessage()))

    def __enter__(self) -> _Said:
        self._logger = logging.getLogger("apprise")
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before
