"""Sending what is owed: ops.notification is an outbox, and whoever looks into it sends what is due."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from psycopg import Connection
from psycopg.rows import dict_row

from flows.alerting.hushed import Said
from flows.alerting.routes import PAGER, AlertsError, Channel, Routes
from flows.alerting.words import fitting, scrubbed
from flows.monitoring.verdict import State, Verdict

TRIES = 8
"""With the pauses between them two hours; then a message is given up that nobody has to know any more."""
_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=1)
AT_ONCE = 50
"""So many messages are sent in one go; the next minute goes on."""
SIGNAL = "alert_channel"
SECONDS = 15.0
"""A channel that has not taken a message by then has not taken it: apprise waits 4 s for each sign of life,
and who gives one each second keeps it waiting for ever.
"""
MOST_OF_A_PAGER = 1_024
"""Characters of PagerDuty's `summary`, which is all that apprise sends there: a longer one is refused, and a
second message would call again (PagerDuty, Events API v2).
"""
_CARDS = ("workflow://", "workflows://")
"""Addresses of Teams: a card's text is Markdown, in which a single end of a line is a space."""
_SENDER = "User analytics"
"""Who a message is from, where a service says so and its address does not (the client of a pager's call)."""
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


def deliver(
    connection: Connection[Any],
    routes: Routes,
    now: datetime,
    hidden: Sequence[str],
    failed: Sequence[str] = (),
) -> list[str]:
    """Send what is due, oldest first. What a channel does not take is tried again, with pauses that double up
    to an hour; after a failure the rest for that channel waits too, and goes with the first that is taken.

    Each message is locked while it is sent, so that two who send at once send it once. Returns the channels
    that failed, those among them that had `failed` a moment ago and are not asked again. Raises nothing that
    a channel does.
    """
    failed = [*failed]
    well: set[str] = set()
    for _ in range(AT_ONCE):
        with connection.transaction():
            row = _next(connection, failed, now)
            if row is None:
                return failed
            problem = _problem(routes, row, hidden)
            _note(connection, row, problem, now, is_declared=row["channel"] in routes.channels)
        if problem:
            failed.append(row["channel"])
        elif row["channel"] not in well:
            well.add(row["channel"])
            send_what_waits(connection, row["channel"], now)
    return failed


def _next(connection: Connection[Any], failed: Sequence[str], now: datetime) -> dict[str, Any] | None:
    """The next message that is due; behind an earlier one of its channel that waits for another try it waits
    too, so that a resolution never comes before what it resolves.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """
            select * from ops.notification as owed
            where sent_at is null and given_up_at is null
                -- What a clock that was ahead has noted is due too.
                and (coalesce(due_at, created_at) <= %(now)s or created_at > %(now)s)
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


def send_what_waits(connection: Connection[Any], channel: str, now: datetime) -> None:
    """A channel takes messages: those that wait for another try are due. What somebody else sends just now is
    left to them.
    """
    connection.execute(
        "update ops.notification set due_at = %(now)s where notification_id in ("
        "select notification_id from ops.notification where channel = %(channel)s and sent_at is null "
        "and given_up_at is null and tries > 0 and due_at > %(now)s for update skip locked)",
        {"channel": channel, "now": now},
    )


def _note(
    connection: Connection[Any], row: dict[str, Any], problem: str, now: datetime, *, is_declared: bool
) -> None:
    tries = row["tries"] + 1
    is_last = bool(problem) and tries >= TRIES and not (is_declared and _is_worth_it(connection, row))
    # Tries have no end, but lengths of time have.
    pause = min(_PAUSE * 2 ** min(tries - 1, TRIES), _LONGEST_PAUSE)
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


def _is_worth_it(connection: Connection[Any], row: dict[str, Any]) -> bool:
    """Whether a message is tried however often: its incident is open, or nothing else waits that would show
    when the channel takes messages again.
    """
    asked = connection.execute(
        """
        select exists (select from ops.incident where incident_id = %(incident_id)s and resolved_at is null)
            or not exists (
                select from ops.notification as later
                where later.channel = %(channel)s and later.notification_id > %(notification_id)s
                    and later.sent_at is null and later.given_up_at is null)
        """,
        {name: row[name] for name in ("incident_id", "channel", "notification_id")},
    ).fetchone()
    return bool(asked and asked[0])


def channel_verdicts(connection: Connection[Any], routes: Routes, now: datetime) -> list[Verdict]:
    """How the channels are, by what the file says of them and what became of their last message."""
    rows = connection.execute(
        """
        select channel, case when last.sent_at is null then last.problem end, last.tried_at,
            (select count(*) from ops.notification as waiting
                where waiting.channel = channels.channel and waiting.sent_at is null and waiting.tries > 0)
        from unnest(%s::text[]) as channels (channel)
        left join lateral (
            select sent_at, problem, tried_at from ops.notification
            where notification.channel = channels.channel and tries > 0
            order by tried_at <= %s desc, tried_at desc, sent_at is null desc limit 1
        ) as last on true
        """,
        (list(routes.channels), now),
    ).fetchall()
    found = []
    for name, refused, tried_at, waiting in rows:
        problem = routes.channels[name].problem or refused
        message = f"Channel {name} takes no message: {problem}."
        found.append(
            Verdict(
                signal=SIGNAL,
                subject=f"channel:{name}",
                state=State.WARNING if problem else State.OK,
                measured_at=now,
                value=float(waiting),
                limit=0.0,
                unit="messages",
                since=tried_at if refused else now,
                message=message + (f" {waiting} were not sent." if waiting else "") if problem else "",
                action=f"Correct channels.{name} in the file of ANALYTICS_ALERTS, or the service behind it; "
                f"what waits is sent within the hour, or at once by `python -m flows alerts test {name}`.",
            )
        )
    return found


def nobody_is_told(error: AlertsError, now: datetime) -> Verdict:
    """What a file of routes is that can't be used."""
    return Verdict(
        SIGNAL,
        "channels",
        State.CRITICAL,
        now,
        message=f"Nobody is told of anything: {error}",
        action="Correct the file of ANALYTICS_ALERTS; `python -m flows doctor` reads it.",
    )


def send(channel: Channel, message: Message) -> None:
    """Send one message now. A redirect is followed only where the address says `redirect=yes`: the message
    would be lost at whatever page answers. Raises NotSent.
    """
    if channel.problem:
        raise NotSent(channel.problem)
    if channel.url.startswith("file://"):
        _write(Path(channel.url.removeprefix("file://")), message)
        return
    answer: Future[str] = Future()

    def ask() -> None:
        try:
            answer.set_result(_by_apprise(channel.url, message))
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, and fails nothing but its message
            answer.set_result(f"{type(error).__name__}: {error}")

    # Nobody can end a thread that waits for a server; the process does not wait for it.
    threading.Thread(target=ask, name=f"alerts {channel.name}", daemon=True).start()
    try:
        problem = answer.result(SECONDS)
    except TimeoutError:
        problem = f"it took longer than {SECONDS:.0f} s"
    if problem:
        raise NotSent(problem)


def _by_apprise(url: str, message: Message) -> str:
    """Why a message was not sent; empty once it was."""
    import apprise

    is_page = bool(message.html) and url.startswith("mailto")
    text = message.body
    if url.startswith(PAGER):
        text = fitting(text, MOST_OF_A_PAGER - len(message.title) - len("\r\n"))
    elif url.startswith(_CARDS):
        text = text.replace("\n", "\n\n")
    kind = _KINDS.get(message.kind, "failure" if message.severity == "critical" else "warning")
    with Said() as said:
        asset = apprise.AppriseAsset(http_redirects=False, app_id=_SENDER, app_desc=_SENDER)
        service = apprise.Apprise.instantiate(url, asset=asset)
        if service is not None and not is_page and "overflow_mode" not in vars(service):
            # What a service has no room for in one message it would refuse for ever.
            service.overflow_mode = apprise.OverflowMode.SPLIT
        to = apprise.Apprise()
        is_sent = (
            service is not None
            and to.add(service)
            and to.notify(
                title=message.title,
                body=message.html if is_page else text,
                notify_type=apprise.NotifyType(kind),
                body_format=apprise.NotifyFormat.HTML if is_page else apprise.NotifyFormat.TEXT,
            )
        )
    return "" if is_sent else said.last or "it did not say why"


def _write(path: Path, message: Message) -> None:
    """Append a line of JSON, whole or not at all: one write, so that lines of two processes never mix."""
    line = orjson.dumps(
        {
            "at": message.created_at.isoformat(),
            "severity": message.severity,
            "kind": message.kind,
            "incident": message.incident_id,
            "title": message.title,
            "body": message.body,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            begin = os.fstat(descriptor).st_size
            written = os.write(descriptor, line)
            if written < len(line):
                if os.fstat(descriptor).st_size == begin + written:
                    os.ftruncate(descriptor, begin)
                raise OSError(errno.ENOSPC, "its disk takes no whole line any more")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotSent(f"{path} can't be written: {error.strerror}") from None
