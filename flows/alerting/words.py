"""What a message says: what, since when, what it touches, what to do; without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from flows import scrubbing
from flows.durations import spoken
from flows.readable import readable

_NAMES = 20
"""So many names stand in a message; the rest is counted."""
MOST_TITLE, MOST_WHAT, MOST_BODY = 400, 2_000, 20_000
"""Characters of a first line, of what is wrong, of a message: a longer one some services refuse for ever."""


def title(severity: str, kind: str, message: str, lasted: timedelta, *, is_worse: bool = False) -> str:
    """The first line: how bad, and the first sentence of what."""
    what = re.split(r"\.\s+(?=[A-Z])", message.split("\n")[0])[0].rstrip(".")
    match kind:
        case "opened" | "info":
            head = severity.upper()
        case "resolved":
            head = f"RESOLVED after {spoken(lasted.total_seconds())}"
        case _ if is_worse:
            head = f"NOW {severity.upper()}"
        case _:
            head = f"STILL {severity.upper()} after {spoken(lasted.total_seconds())}"
    return f"{head}: {what}"


def body(
    *,
    message: str,
    action: str,
    since: datetime,
    now: datetime,
    members: Sequence[Mapping[str, Any]],
    touches: Sequence[str],
    runbook: str,
    incident_id: str,
    is_over: bool = False,
    note: str = "",
) -> str:
    """The lines below it. Those that would be empty are left out."""
    lines = [f"What:     {message}"]
    if note:
        lines.append(f"Note:     {note}")
    until = f" to {at(now)}" if is_over else ""
    lines.append(f"Since:    {at(since)}{until} ({spoken((now - since).total_seconds())})")
    if members:
        lines.append(f"With it:  {len(members)} more: {told(members)}")
    if touches:
        lines.append(f"Touches:  {listed(touches)}")
    if not is_over:
        if action:
            lines.append(f"To do:    {action}")
        lines.append(f"Runbook:  {runbook}")
        lines.append(f"Incident: {incident_id} (python -m flows alerts ack {incident_id})")
    else:
        lines.append(f"Incident: {incident_id}")
    return "\n".join(lines)


def told(members: Iterable[Mapping[str, Any]]) -> str:
    """What else is bad, by signal: `fct_orders, fct_refunds (data_freshness); …`."""
    found: dict[str, list[str]] = {}
    for member in members:
        found.setdefault(str(member["signal"]), []).append(str(member["subject"]))
    return "; ".join(f"{listed(names)} ({signal})" for signal, names in found.items())


def listed(names: Sequence[str]) -> str:
    """Names with commas between, and how many more there are."""
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def short(text: str, most: int) -> str:
    """The text, or as much of it as may be, with how much more there is."""
    if len(text) <= most:
        return text
    more = f"… ({len(text) - most:,} more characters)"
    return text[: most - len(more)] + more


def fitting(text: str, most: int) -> str:
    """The text in so many characters: its longest lines are shortened, so that the others stay whole."""
    lines, longest = text.split("\n"), most  # longer than all of it none may be
    while len(text) > most and longest > 0:
        longest -= 1
        text = "\n".join(short(line, longest) for line in lines)
    return text[:most]


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """The text without secrets: none of these, no password of an address among them, of none at all. And
    `readable`.
    """
    return readable(scrubbing.scrubbed(text, _parts(secrets)))


def _parts(secrets: Iterable[str]) -> set[str]:
    """Each secret, and what is secret in it if it is an address: its password, its long path elements."""
    found: set[str] = set()
    for secret in secrets:
        if not secret:
            continue
        found.add(secret)
        if "://" in secret:
            try:
                parts = urlsplit(secret)
                password = parts.password
            except ValueError:
                continue
            words = [password or ""]
            if not parts.scheme.startswith(("postgres", "http", "mailto")):
                # Tokens of Slack, Teams and PagerDuty stand where a host and a path would.
                words += [parts.username or "", parts.hostname or "", *parts.path.split("/")]
            for word in words:
                found |= {part for part in (word, unquote(word)) if len(part) >= 8}
        elif matched := re.search(r"password\s*=\s*'?([^'\s]+)", secret):
            found.add(matched[1])
    return found
