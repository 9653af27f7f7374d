"""What is measured against what is open: what begins, grows, lasts and ends, and what is told."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

from flows.alerting import words
from flows.alerting.causes import owner, root, served, trouble
from flows.alerting.incidents import Incident, alone, heard, opened, owe, save, withdraw
from flows.alerting.routes import SEVERITIES, Routes
from flows.monitoring.verdict import State, Verdict

UNKNOWN_AFTER = timedelta(minutes=10)
"""From then on what could not be measured counts as a warning."""
GONE_AFTER = timedelta(minutes=5)
"""From then on a subject counts as gone of which its signal, measured whole, says nothing any more."""
FORGOTTEN_AFTER = timedelta(days=1)
"""From then on an incident is over of which no signal says anything at all."""
AGAIN_WITHIN = timedelta(minutes=15)
"""What comes back so soon after it was resolved has to be well for as long before that is told again."""
_CHANNEL = "alert_channel"


def settle(
    connection: Connection[Any],
    routes: Routes,
    verdicts: Sequence[Verdict],
    now: datetime,
    hidden: Sequence[str],
) -> None:
    """Bring ops.incident in line with what is measured, and owe the messages of that.

    One after the other, however many monitors there are: the second finds what the first did. `hidden` are
    secrets that no message may hold. To be called within a transaction.
    """
    alone(connection)
    _Settlement(connection, routes, verdicts, now, hidden).run()


class _Settlement:
    """One look at all verdicts and all open incidents."""

    def __init__(
        self,
        connection: Connection[Any],
        routes: Routes,
        verdicts: Sequence[Verdict],
        now: datetime,
        hidden: Sequence[str],
    ) -> None:
        self._connection = connection
        self._routes = routes
        self._now = now
        self._hidden = hidden
        self._verdicts = {trouble(verdict).key: verdict for verdict in verdicts}
        unsure = {verdict.signal for verdict in verdicts if verdict.state is State.UNKNOWN}
        self._signals = {verdict.signal for verdict in verdicts} - unsure
        self._bad = {key: verdict for key, verdict in self._verdicts.items() if is_bad(verdict, now)}
        self._open = {one.cause: _begun(one, now) for one in opened(connection)}

    def run(self) -> None:
        """1. group what is bad by its cause; 2. open, or add to what is open; 3. end what was taken in by
        a cause above it; 4. resolve what is over, escalate what lasts.
        """
        groups = self._groups()
        homes = {trouble(verdict).key: cause for cause, group in groups.items() for verdict in group}
        taken_in = {cause for cause in self._open if cause in self._bad and cause not in groups}
        for cause, members in groups.items():
            if cause in self._open:
                self._go_on(self._open[cause], members)
            else:
                self._begin(cause, members, [self._open[one] for one in taken_in])
        for cause in taken_in:
            one = self._open.pop(cause)
            by = self._open[homes[cause]].incident_id
            save(self._connection, replace(one, good_since=self._now), self._now, taken_in_by=by)
            self._withdraw(one, "its cause was found, and has an incident of its own")
        for one in list(self._open.values()):
            if one.cause not in groups:
                self._rest(one)
            self._escalate(self._open.get(one.cause, one))

    def _groups(self) -> dict[str, list[Verdict]]:
        """Cause → the bad verdicts that it explains, itself among them."""
        among = {cause: one.trouble for cause, one in self._open.items()}
        among |= {
            key: replace(trouble(verdict), is_told=key in self._open) for key, verdict in self._bad.items()
        }
        homes = {key: one for one in self._open.values() for key in one.keys}
        found: dict[str, list[Verdict]] = {}
        for key, verdict in self._bad.items():
            cause = root(among[key], list(among.values()))
            if cause.key == key and key in homes:
                # What failed with something that is over by now stays with it until it is over too.
                cause = root(homes[key].trouble, list(among.values()))
            found.setdefault(cause.key, []).append(verdict)
        return found

    def _begin(self, cause: str, group: Sequence[Verdict], taken_in: Sequence[Incident]) -> None:
        first = self._bad[cause]
        about = trouble(first)
        severity = worst(severity_of(verdict) for verdict in group)
        again = self._connection.execute(
            "select 1 from ops.incident where cause = %s and resolved_at > %s limit 1",
            (cause, self._now - AGAIN_WITHIN),
        ).fetchone()
        one = Incident(
            incident_id=secrets.token_hex(4),
            cause=cause,
            signal=first.signal,
            subject=first.subject,
            severity=severity,
            owner=owner(about.tables),
            opened_at=self._now,
            seen_at=self._now,
            since=min(first.since or first.measured_at, self._now),
            severity_since=self._now,
            message=self._scrubbed(first.message or f"{first.signal} of {first.subject} is {first.state}."),
            action=self._scrubbed(first.action),
            runbook=f"{self._routes.runbook}#{first.signal}",
            touches=served(about.reach),
            members=self._members([], group, cause),
            about=sorted(about.tables),
            patience=AGAIN_WITHIN if again else timedelta(0),
        )
        self._save(one)
        note = "It is there again: it was resolved a moment ago." if again else ""
        if any(earlier.cause in {trouble(verdict).key for verdict in group} for earlier in taken_in):
            note = "This is why what was told before is as it is."
        self._tell(one, "opened", note=note)
        self._open[cause] = one

    def _go_on(self, one: Incident, group: Sequence[Verdict]) -> None:
        severity = worst([one.severity, *(severity_of(verdict) for verdict in group)])
        first = self._bad.get(one.cause)
        is_worse = severity != one.severity
        grown = replace(
            one,
            severity=severity,
            severity_since=self._now if is_worse else one.severity_since,
            escalated_at=None if is_worse else one.escalated_at,
            acknowledged_at=None if is_worse else one.acknowledged_at,
            seen_at=self._now,
            good_since=None,
            members=self._members(one.members, group, one.cause),
            message=self._scrubbed(first.message) if first and first.message else one.message,
        )
        self._open[one.cause] = grown
        self._save(grown)
        if is_worse:
            self._tell(grown, "escalated", is_worse=True)

    def _rest(self, one: Incident) -> None:
        """Nothing of it is bad now: it is over, or was not measured."""
        if not all(self._is_over(key, one) for key in one.keys):
            return
        good_since = one.good_since or self._now
        one = replace(one, good_since=good_since)
        self._open[one.cause] = one
        if self._now - good_since < one.patience:
            self._save(one)
            return
        del self._open[one.cause]
        self._save(one, resolved_at=good_since)
        self._withdraw(one, "it was over before the quiet hours were")
        self._tell(one, "resolved")

    def _is_over(self, key: str, one: Incident) -> bool:
        if key in self._verdicts:
            return self._verdicts[key].state is State.OK
        unseen = self._now - one.seen_at
        is_spoken_of = key.split(":", 1)[0] in self._signals
        return unseen >= (GONE_AFTER if is_spoken_of else FORGOTTEN_AFTER)

    def _escalate(self, one: Incident) -> None:
        after = self._routes.escalate_after.get(one.severity)
        if (
            one.cause in self._open
            and after is not None
            and one.good_since is None
            and one.escalated_at is None
            and one.acknowledged_at is None
            and self._now - one.severity_since >= after
        ):
            one = replace(one, escalated_at=self._now)
            self._open[one.cause] = one
            self._save(one)
            self._tell(one, "escalated")

    # -------------------------------------------------------------------------------------------- the rows

    def _members(
        self, before: Sequence[dict[str, Any]], group: Sequence[Verdict], cause: str
    ) -> list[dict[str, Any]]:
        found = {f"{member['signal']}:{member['subject']}": member for member in before}
        for verdict in group:
            key = f"{verdict.signal}:{verdict.subject}"
            if key != cause:
                found[key] = {
                    "signal": verdict.signal,
                    "subject": verdict.subject,
                    "severity": severity_of(verdict),
                    "message": self._scrubbed(verdict.message),
                }
        return list(found.values())

    def _save(self, one: Incident, resolved_at: datetime | None = None) -> None:
        save(self._connection, one, resolved_at)

    def _withdraw(self, one: Incident, why: str) -> None:
        withdraw(self._connection, one.incident_id, why, self._now)

    def _tell(self, one: Incident, kind: str, *, is_worse: bool = False, note: str = "") -> None:
        is_over = kind == "resolved"
        lasted = ((one.good_since or self._now) if is_over else self._now) - one.opened_at
        channels = self._routes.to(
            one.severity,
            one.owner,
            {*one.about, *one.touches},
            escalated=kind == "escalated",
            resolved=is_over,
            told=heard(self._connection, one.incident_id) if is_over else (),
            without=one.subject.removeprefix("channel:") if one.signal == _CHANNEL else "",
        )
        message = words.body(
            message=one.message,
            action=one.action,
            since=one.since,
            now=(one.good_since or self._now) if is_over else self._now,
            members=one.members,
            touches=one.touches,
            runbook=one.runbook,
            incident_id=one.incident_id,
            is_over=is_over,
            note=note,
        )
        if kind == "escalated":
            withdraw(self._connection, one.incident_id, "it became worse, or lasted", self._now, channels)
        owe(
            self._connection,
            channels,
            incident_id=one.incident_id,
            kind=kind,
            severity=one.severity,
            title=words.title(one.severity, kind, one.message, lasted, is_worse=is_worse),
            body=message,
            now=self._now,
            due_at=self._routes.due_at(one.severity, self._now),
        )

    def _scrubbed(self, text: str) -> str:
        return words.short(words.scrubbed(text, self._hidden), words.MOST_WHAT)


def _begun(one: Incident, now: datetime) -> Incident:
    """An incident as one that has begun: by a clock that was ahead it would not for a while, nor last."""
    return replace(
        one,
        opened_at=min(one.opened_at, now),
        severity_since=min(one.severity_since, now),
        since=min(one.since, now),
        good_since=min(one.good_since, now) if one.good_since else None,
    )


def is_bad(verdict: Verdict, now: datetime) -> bool:
    """Whether somebody has to know: a warning, a critical, or what nobody could measure for a while."""
    if verdict.state is State.UNKNOWN:
        return verdict.since is not None and now - verdict.since >= UNKNOWN_AFTER
    return verdict.state in (State.WARNING, State.CRITICAL)


def severity_of(verdict: Verdict) -> str:
    """`critical` or `warning`: what is not known is a warning."""
    return "critical" if verdict.state is State.CRITICAL else "warning"


def worst(severities: Iterable[str]) -> str:
    """The worst of some severities."""
    return max(severities, key=SEVERITIES.index)
