"""A page as a test reads it: its figures, the queries it names, what they gave, what it loads."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
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
        self.data = json.loads(self._script)

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
