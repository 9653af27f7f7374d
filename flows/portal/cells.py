"""How values look: numbers, times, money, verdicts. Each figure says which cell of which query it is."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from flows.durations import spoken
from flows.portal.reading import Result

_ICONS = Path(__file__).with_name("vendor") / "icons"
_ABSENT = "–"
_WORDS = {
    "ok": ("circle-check", "OK"),
    "warning": ("triangle-alert", "Warning"),
    "critical": ("octagon-alert", "Critical"),
    "unknown": ("circle-help", "Not measured"),
    "info": ("circle-help", "Info"),
}
_OF_STATE = {
    "Completed": ("ok", "Completed"),
    "Failed": ("critical", "Failed"),
    "Crashed": ("critical", "Crashed"),
    "TimedOut": ("critical", "Timed out"),
    "Cancelled": ("info", "Cancelled"),
    "Late": ("warning", "Not started"),
    "Running": ("info", "Running"),
    "opened": ("warning", "Opened"),
    "escalated": ("critical", "Escalated"),
    "resolved": ("ok", "Resolved"),
    "waiting": ("warning", "Waiting"),
    "replayed": ("ok", "Replayed"),
    "discarded": ("info", "Discarded"),
}
NUMERIC = ("count", "number", "money", "share", "seconds", "bytes")
"""Kinds of figures that are numbers."""
_SPACE = "\u00a0"
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[a-z])")


@cache
def icon(name: str) -> Markup:
    """An icon that says nothing by itself: words stand beside it."""
    text = (_ICONS / f"{name}.svg").read_text(encoding="utf-8")
    drawing = " ".join(text[text.index("<svg") :].split())
    return Markup(drawing.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1))


def pill(verdict: str | None, words: str | None = None) -> Markup:
    """A verdict or a state as colour, icon and word together."""
    known = "unknown" if verdict is None else verdict
    tone, word = _OF_STATE.get(known, (known, "") if known in _WORDS else ("unknown", known))
    sign, usual = _WORDS[tone]
    return Markup('<span class="pill {}">{}{}</span>').format(tone, icon(sign), words or word or usual)


def fig(result: Result, column: str, kind: str = "count", row: int = 0, **more: Any) -> Markup:
    """One cell of a query as a figure that can be held against it."""
    value = result.value(column, row)
    return Markup('<span class="fig" data-q="{}" data-c="{}" data-r="{}">{}</span>').format(
        result.name, column, row, shown(value, kind, **more)
    )


def shown(value: Any, kind: str = "text", digits: int | None = None) -> str | Markup:
    """A value for people; `–` where there is none."""
    if value is None or value == "":
        return Markup('<span class="sr">none</span><span aria-hidden="true">{}</span>').format(_ABSENT)
    if kind in NUMERIC and not Decimal(str(value)).is_finite():
        return escape(value)
    if kind == "count":
        return f"{int(Decimal(str(value))):,}"
    if kind == "number":
        return f"{_rounded(Decimal(str(value))).normalize():,f}"
    if kind == "money":
        return f"{Decimal(str(value)):,.{2 if digits is None else digits}f}"
    if kind == "share":
        percent = Decimal(str(value)) * 100
        place = Decimal(10) ** -(1 if digits is None else digits)
        rounded = percent.quantize(place)
        if percent < 100 == rounded:
            rounded -= place  # what is less than all is never shown as all
        return f"{rounded:f}{_SPACE}%"
    if kind == "seconds":
        return _BEFORE_UNIT.sub(_SPACE, spoken(float(value)))
    if kind == "bytes":
        return _size(float(value))
    if kind in {"time", "date"}:
        return _time(str(value), kind)
    return escape(value)


def _rounded(number: Decimal) -> Decimal:
    """At most two decimals; of what is less than 1 two digits that say something."""
    return round(number, max(2, 1 - number.adjusted()))


def prose(text: str) -> Markup:
    """Words in which `…` marks what is typed."""
    parts = str(escape(text)).split("`")
    if len(parts) % 2 == 0:
        return Markup(escape(text))
    marked = "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
    return Markup(marked)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return (
                f"{size:,.0f}{_SPACE}{unit}" if unit == "B" or size >= 100 else f"{size:,.1f}{_SPACE}{unit}"
            )
        size /= 1000
    raise AssertionError


def _time(text: str, kind: str) -> Markup:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    words = f"{moment.day} {moment:%b %Y}" if kind == "date" else f"{moment.day} {moment:%b %Y %H:%M}"
    return Markup('<time datetime="{}">{}</time>').format(text, words)
