"""A page as a test reads it: its figures, the queries it names, what they gave, what it loads."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


@dataclass
class Figure:
    """A figure: which cell of which query it says it is, and what it shows."""

    query: str
    column: str
    row: int
    text: str = ""
    moment: str = ""
    """Of a time: what it says to programs."""

    def says(self, cell: Any) -> bool:
        """Whether it shows this value, read back from what a person sees: to the last digit that is shown,
        whatever the unit; a time, a word as it is; `–` where there is none.
        """
        text = self.text.replace("\u00a0", " ").strip()
        if cell is None or cell == "":
            return text == "none–"
        if self.moment:
            return self.moment == cell and _time(text) == _time(str(cell))
        number = _number(text)
        if number is None or (isinstance(cell, str) and not re.fullmatch(r"-?[\d.]+", cell)):
            return text == str(cell)
        value, most = number
        return abs(value - Decimal(str(cell))) <= most


_UNITS: dict[str, int | Decimal] = {"": 1, "%": Decimal("0.01"), "s": 1, "min": 60, "h": 3600, "d": 86400}
_UNITS |= {unit: 1000**power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))}
_LEFT_OUT = {"min": 1, "h": 60, "d": 3600}
"""Seconds that a length of time may leave out, by its first unit."""


def _number(text: str) -> tuple[Decimal, Decimal] | None:
    """What a text of numbers with units comes to, and how far from it a value may be that is shown so; None
    for other texts.
    """
    parts = re.findall(r"(-?[\d,]+(?:\.\d+)?)(?: ?([a-zA-Z%]+))?", text)
    whole = " ".join(f"{digits} {unit}".strip() for digits, unit in parts)
    if not parts or whole != text or any(unit not in _UNITS for _, unit in parts):
        return None
    total = sum((Decimal(digits.replace(",", "")) * _UNITS[unit] for digits, unit in parts), Decimal(0))
    digits, unit = parts[-1]
    last_digit = _UNITS[unit] * Decimal(10) ** -len(digits.partition(".")[2])
    # What is less than all is never shown as all: a share may be shown a digit too low.
    rounding = last_digit if unit == "%" else last_digit / 2
    return total, Decimal(_LEFT_OUT.get(parts[0][1], 0)) or rounding


def _time(text: str) -> datetime:
    """A time as a person or a program writes it, to the minute; a day as its first."""
    for form in ("%d %b %Y %H:%M", "%d %b %Y"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment.replace(second=0, microsecond=0, tzinfo=moment.tzinfo or UTC)


@dataclass
class Read(HTMLParser):
    """What stands in one page."""

    path: Path
    figures: list[Figure] = field(default_factory=list)
    queries: dict[str, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, Figure | None]] = []
        self._script, self._query = "", ""
        self.html = self.path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.data = json.loads(self._script or "{}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loaded += [given[name] or "" for name in ("src", "poster", "srcset") if name in given]
        if tag == "link":
            self.loaded.append(given["href"] or "")
        if tag == "a":
            self.links.append(given["href"] or "")
        figure = None
        if "fig" in (given.get("class") or "").split():
            figure = Figure(given["data-q"] or "", given["data-c"] or "", int(given["data-r"] or 0))
            self.figures.append(figure)
        if tag == "time":
            for _, around in self._open:
                if around is not None:
                    around.moment = given["datetime"] or ""
        if tag in {"meta", "link", "input", "br", "path", "circle", "ellipse", "line", "rect", "polyline"}:
            return
        self._open.append((given.get("data-sql") or given.get("id") or tag, figure))
        if "data-sql" in given:
            self._query = given["data-sql"] or ""
            self.queries[self._query] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in {"meta", "link", "input", "br", "path", "circle", "ellipse", "line", "rect", "polyline"}:
            return
        self._open.pop()
        if tag == "pre":
            self._query = ""

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "data":
            self._script += data
            return
        if self._query:
            self.queries[self._query] += data
        self.text += data
        for _, figure in self._open:
            if figure is not None:
                figure.text += data
