"""Channels and routes: the one file that says who is told what (`ANALYTICS_ALERTS`; docs/alerts.md)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from flows.alerting.hushed import Said
from flows.durations import length_of_time
from flows.errors import FlowsError
from flows.settings import Settings

SEVERITIES = ("info", "warning", "critical")
"""From the least to the worst."""
SANDBOX_FILE = "alerts.jsonl"
"""Where the sandbox writes its messages, in its folder, when no setting says otherwise."""
RUNBOOK = "docs/runbook.md"
PAGER = "pagerduty://"
"""How the address of a service begins that calls somebody, once more for each message."""
_SECTIONS = ("channels", "routes", "escalate", "quiet", "runbook")


class AlertsError(FlowsError):
    """The file of ANALYTICS_ALERTS can't be used; the message names the place in it and what to write."""


@dataclass(frozen=True)
class Channel:
    """One way to reach somebody: an address as apprise writes them, or `file://` and a path."""

    name: str
    url: str = field(repr=False)
    tells_resolved: bool = True
    """Whether the end of an incident is told here; a pager would take it for another call."""
    problem: str = ""
    """Why nothing can be sent here, by what the file says; empty where something can."""


@dataclass(frozen=True)
class Route:
    """Which messages go to which channels; what it does not name, it does not ask."""

    channels: tuple[str, ...]
    severities: frozenset[str] = frozenset(SEVERITIES)
    owners: tuple[str, ...] = ("*",)
    tables: tuple[str, ...] = ("*",)

    def takes(self, severity: str, owner: str, about: Collection[str]) -> bool:
        """Whether a message of this severity and owner, about these tables, goes this way."""
        return (
            severity in self.severities
            and any(fnmatchcase(owner, pattern) for pattern in self.owners)
            and any(fnmatchcase(name, pattern) for pattern in self.tables for name in about or ("",))
        )


@dataclass(frozen=True)
class Quiet:
    """Hours of the day in which only `critical` messages go; the others wait until they are over."""

    start: time
    end: time
    zone: ZoneInfo

    def over_at(self, moment: datetime) -> datetime | None:
        """When the quiet hours end that `moment` is in; None when it is in none."""
        local = moment.astimezone(self.zone)
        clock = local.time().replace(tzinfo=None)
        if self.start <= self.end:
            is_quiet = self.start <= clock < self.end
        else:
            is_quiet = clock >= self.start or clock < self.end
        if not is_quiet:
            return None
        day = local.date() + timedelta(days=1 if clock >= self.end else 0)
        return datetime.combine(day, self.end, self.zone)


@dataclass(frozen=True)
class Routes:
    """Everything the file says."""

    channels: Mapping[str, Channel] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    escalate_after: Mapping[str, timedelta] = field(
        default_factory=lambda: {"critical": timedelta(minutes=30), "warning": timedelta(hours=8)}
    )
    escalate_to: tuple[str, ...] = ()
    """Channels that are told of what lasts, beside those that were told before."""
    quiet: Quiet | None = None
    runbook: str = RUNBOOK

    def to(
        self,
        severity: str,
        owner: str = "",
        about: Collection[str] = (),
        *,
        escalated: bool = False,
        resolved: bool = False,
        told: Collection[str] = (),
        without: str = "",
    ) -> list[str]:
        """Names of the channels a message goes to, each once: by the routes, and those that were `told` of
        the same before; `without` is one that does not work.
        """
        found = [
            name for route in self.routes if route.takes(severity, owner, about) for name in route.channels
        ]
        if escalated:
            found += self.escalate_to
        found += [name for name in told if name in self.channels]
        return [
            name
            for name in dict.fromkeys(found)
            if name != without and (self.channels[name].tells_resolved or not resolved)
        ]

    def due_at(self, severity: str, now: datetime) -> datetime:
        """When a message of this severity may go."""
        if self.quiet is None or severity == "critical":
            return now
        return self.quiet.over_at(now) or now

    def secrets(self) -> list[str]:
        """The addresses: they hold passwords and tokens."""
        addresses = [channel.url for channel in self.channels.values()]
        return [url for url in addresses if url and not url.startswith("file://")]


def routes(settings: Settings) -> Routes:
    """Who is told what: the file of ANALYTICS_ALERTS; without it nobody, in the sandbox a file.

    Raises AlertsError.
    """
    if settings.alerts is not None:
        return read(settings.alerts)
    if settings.uses_sandbox:
        path = (settings.sandbox / SANDBOX_FILE).absolute()
        return Routes({"file": Channel("file", f"file://{path}")}, (Route(("file",)),))
    return Routes()


def read(path: Path) -> Routes:
    """Read the file. A mistake in a channel is that channel's problem. Raises AlertsError with one sentence
    for the first other mistake.
    """
    import yaml

    from transforms.model import TextLoader

    text = ""
    try:
        text = _text(path)
        content = yaml.load(text, Loader=TextLoader)
    except _Unreadable as error:
        raise AlertsError(
            f"ANALYTICS_ALERTS names {path}, which {error}. "
            "Correct the path, or unset it: then nobody is told."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        # What ends too early is told of the line behind the last one.
        line = min(mark.line, text.count("\n")) + 1 if mark else 0
        where = f" in line {line}" if line else ""
        raise AlertsError(f"{path} is no YAML{where}: {getattr(error, 'problem', error)}.") from None
    return _Reader(path).routes(content)


class _Unreadable(Exception):
    """What follows "a file which" in a sentence."""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _Unreadable(f"can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise _Unreadable("is no text") from None
    except ValueError:
        raise _Unreadable("is no path") from None


class _Reader:
    """Turns what YAML gives into Routes; every mistake is told with its place in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def routes(self, content: Any) -> Routes:
        given = self._map(content if content is not None else {}, "the file", _SECTIONS)
        channels = {
            str(name): self._channel_or_why(str(name), value)
            for name, value in self._map(given.get("channels") or {}, "channels").items()
        }
        listed = given.get("routes") or []
        if not isinstance(listed, list):
            raise self._wrong("routes", "must be a list, one entry for each route")
        found = tuple(self._route(value, f"routes[{at}]", channels) for at, value in enumerate(listed, 1))
        escalate = self._map(given.get("escalate") or {}, "escalate", ("critical", "warning", "channels"))
        after: dict[str, timedelta] = {
            severity: self._time(escalate[severity], f"escalate.{severity}")
            for severity in SEVERITIES
            if severity in escalate
        }
        return Routes(
            channels,
            found,
            {**Routes().escalate_after, **after},
            self._known(escalate.get("channels", []), "escalate.channels", channels),
            self._quiet(given["quiet"]) if given.get("quiet") else None,
            str(given.get("runbook") or RUNBOOK).rstrip("/"),
        )

    def _channel_or_why(self, name: str, value: Any) -> Channel:
        """The channel; one of which nothing can be made takes no message, and silences no other."""
        try:
            return self._channel(name, value)
        except AlertsError as error:
            return Channel(name, "", problem=str(error).rstrip("."))

    def _channel(self, name: str, value: Any) -> Channel:
        where = f"channels.{name}"
        given = {"url": value} if isinstance(value, str) else self._map(value, where, _CHANNEL)
        if ("url" in given) == ("url_from" in given):
            raise self._wrong(where, "needs either `url`, an address, or `url_from`, a file that holds one")
        url = str(given["url"]) if "url" in given else self._secret(where, str(given["url_from"]))
        if url.startswith("file://"):
            if not url.startswith("file:///"):
                raise self._wrong(where, "must name an absolute path, as in file:///var/log/alerts.jsonl")
        else:
            self._is_an_address(where, url)
        resolved = given.get("resolved", not url.startswith(PAGER))
        if not isinstance(resolved, bool):
            raise self._wrong(f"{where}.resolved", "must be true or false")
        return Channel(name, url, resolved)

    def _secret(self, where: str, path: str) -> str:
        try:
            return _text(Path(path)).strip()
        except _Unreadable as error:
            raise self._wrong(f"{where}.url_from", f"names {path}, which {error}") from None

    def _is_an_address(self, where: str, url: str) -> None:
        import apprise

        with Said():
            is_known = apprise.Apprise.instantiate(url) is not None
        if not is_known:
            scheme = re.match(r"[a-zA-Z][\w+.-]*(?=://)", url)
            named = f"the address of kind '{scheme[0]}'" if scheme else "what stands there"
            # Never the address itself: it holds a password or a token.
            raise self._wrong(
                where,
                f"is no address that apprise knows: {named} is incomplete or unknown; "
                "write it like mailtos://user:password@host?to=ops@example.com",
            )

    def _route(self, value: Any, where: str, channels: Mapping[str, Channel]) -> Route:
        given = self._map(value, where, ("channels", "severity", "owner", "table"))
        if not given.get("channels"):
            raise self._wrong(where, "needs `channels`, the names of those to tell")
        severities = self._words(given.get("severity", list(SEVERITIES)), f"{where}.severity")
        for word in severities:
            if word not in SEVERITIES:
                raise self._wrong(f"{where}.severity", f"has '{word}': it is critical, warning or info")
        return Route(
            self._known(given["channels"], f"{where}.channels", channels),
            frozenset(severities),
            self._words(given.get("owner", "*"), f"{where}.owner"),
            self._words(given.get("table", "*"), f"{where}.table"),
        )

    def _quiet(self, value: Any) -> Quiet:
        given = self._map(value, "quiet", ("from", "to", "timezone"))
        if not {"from", "to"} <= set(given):
            raise self._wrong("quiet", 'needs `from` and `to`, as in from: "22:00", to: "07:00"')
        try:
            zone = ZoneInfo(str(given.get("timezone", "UTC")))
        except (KeyError, ValueError, OSError):
            raise self._wrong(
                "quiet.timezone",
                f"has '{given['timezone']}', which is no time zone; write it like Europe/Berlin",
            ) from None
        start, end = (self._clock(given[name], f"quiet.{name}") for name in ("from", "to"))
        return Quiet(start, end, zone)

    def _clock(self, value: Any, where: str) -> time:
        try:
            clock = time.fromisoformat(value)
        except (TypeError, ValueError):
            # YAML reads an unquoted 22:00 as a number of minutes.
            raise self._wrong(where, f'has {value!r}: write a time of day between quotes, "22:00"') from None
        if clock.tzinfo is not None:
            raise self._wrong(
                where, f"has {value!r}: write it without an offset, and its zone as quiet.timezone"
            )
        return clock

    def _time(self, value: Any, where: str) -> timedelta:
        try:
            return timedelta(seconds=length_of_time(str(value)))
        except FlowsError as error:
            raise self._wrong(where, f"can't be read: {str(error).rstrip('.')}") from None
        except OverflowError:
            raise self._wrong(where, f"has '{value}', which is longer than time is counted") from None

    def _known(self, value: Any, where: str, channels: Mapping[str, Channel]) -> tuple[str, ...]:
        names = self._words(value, where)
        for name in names:
            if name not in channels:
                known = ", ".join(sorted(channels)) or "none is declared"
                raise self._wrong(where, f"names '{name}', which is no channel ({known})")
        return names

    def _words(self, value: Any, where: str) -> tuple[str, ...]:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise self._wrong(where, "must be a name or a list of names")
        return tuple(words)

    def _map(self, value: Any, where: str, known: Collection[str] | None = None) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(where, "must be names with values, one a line")
        for name in value:
            if known is not None and name not in known:
                raise self._wrong(where, f"has '{name}', which is unknown: it may have {', '.join(known)}")
        return value

    def _wrong(self, where: str, what: str) -> AlertsError:
        return AlertsError(f"{self._path}: {where} {what}.")


_CHANNEL = ("url", "url_from", "resolved")
