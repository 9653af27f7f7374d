"""The whole portal, written into a folder: pages and what they load. A file appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.monitoring.look import look
from flows.portal import cells, contents
from flows.portal.reading import Reading, reading
from flows.services import Services

_HERE = Path(__file__).parent
_VENDOR, _STATIC = _HERE / "vendor", _HERE / "static"
_ECHARTS, _CYTOSCAPE, _DAGRE = "echarts.common.min.js", "cytoscape.min.js", "cytoscape-dagre.min.js"


@dataclass(frozen=True)
class Page:
    """One page; its queries are `queries/<name>.sql`, its template is `templates/<name>.html`."""

    name: str
    title: str
    icon: str
    about: str
    libraries: tuple[str, ...] = ()
    script: str | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """Its scripts, in the order in which they need each other."""
        return (*self.libraries, "portal.js", *([self.script] if self.script else ()))

    @property
    def file(self) -> str:
        """The first page is what a folder opens with."""
        return "index.html" if self.name == "overview" else f"{self.name}.html"


PAGES = (
    Page("overview", "Overview", "gauge", "Is everything fine, what ran, what is late.", (_ECHARTS,)),
    Page(
        "dashboards",
        "Dashboards",
        "chart-line",
        "What the company did. Choose days and a currency; choose a point to see the rows behind it.",
        (_ECHARTS,),
        "dashboards.js",
    ),
    Page(
        "catalog",
        "Catalog",
        "book-open",
        "What every table and column means, who owns it, what it is made from.",
    ),
    Page(
        "lineage",
        "Lineage",
        "workflow",
        "Where a number comes from, and what a change would touch: by table, and by column up to the chart.",
        (_CYTOSCAPE, _DAGRE),
        "lineage.js",
    ),
    Page(
        "quality",
        "Quality",
        "shield-check",
        "Every rule with its history, what broke it, and what could not be read.",
        (_ECHARTS,),
    ),
    Page(
        "runs",
        "Runs",
        "history",
        "What ran, how long each step took, and which partitions it published.",
        (_ECHARTS,),
        "runs.js",
    ),
    Page(
        "sla",
        "SLA",
        "target",
        "What was promised and what was kept. A minute that nobody measured is not counted as good.",
        (_ECHARTS,),
    ),
    Page(
        "incidents", "Incidents", "siren", "What went wrong, since when, what it touches, and who was told."
    ),
)


@dataclass(frozen=True)
class Written:
    """What a writing left: the folder, and the bytes of each page with all that it loads."""

    folder: Path
    bytes_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def front(self) -> Path:
        """The page to open first."""
        return self.folder / PAGES[0].file


def after_run(services: Services, *, has_news: bool = False) -> str:
    """Write the portal when a run has ended, if that is wanted; returns what went wrong, in one line: no run
    fails by it. After a run that has published something it is measured first how everything is: the pages
    say so, and the monitor's schedule may be off.
    """
    if not services.settings.writes_portal:
        return ""
    try:
        if has_news:
            look(services)
        write(services, services.settings.portal_root)
    except Exception as error:  # noqa: BLE001 - the run is done; whatever is wrong with the pages is only told
        reason = " ".join(str(error).split())
        return f"it was not written ({type(error).__name__}: {reason[:200]}). Try: python -m flows portal"
    return ""


def write(services: Services, folder: Path) -> Written:
    """Read the warehouse at one moment and write every page; what was there is replaced, file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = _assets(folder / "assets")
    with reading(services) as moment:
        texts = {page: render(page, moment, contents.of(page.name, services, moment)) for page in PAGES}
    for page, text in texts.items():
        _put(folder / page.file, text.encode())
    always = ("portal.css", "theme.js", "inter-latin-wght-normal.woff2")
    return Written(
        folder,
        {
            page.file: len(text.encode()) + sum(sizes[name] for name in (*always, *page.loaded))
            for page, text in texts.items()
        },
    )


def render(page: Page, moment: Reading, more: Mapping[str, Any], template: str | None = None) -> str:
    """One page as HTML."""
    results = moment.page(page.name)
    results |= contents.queried(page.name, moment)
    drawn: dict[str, Any] = {
        "results": {name: result.as_json() for name, result in results.items()},
        "as_of": f"{moment.as_of:%Y-%m-%dT%H:%M:%SZ}",
        "written": round(moment.written),
        **contents.embedded(page.name, more),
    }
    return (
        environment()
        .get_template(template or f"{page.name}.html")
        .render(
            page=page,
            pages=PAGES,
            q=results,
            embedded=_json(drawn),
            as_of=drawn["as_of"],
            **{**more, **results},
        )
    )


@cache
def environment() -> Environment:
    """Templates with everything they may call; compiling them takes longer than rendering them."""
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        fig=cells.fig,
        icon=cells.icon,
        pill=cells.pill,
        numeric=cells.NUMERIC,
    )
    made.filters["cell"] = cells.shown
    made.filters["prose"] = cells.prose
    return made


def _json(value: Any) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _assets(folder: Path) -> dict[str, int]:
    """Copy what pages load; returns the bytes of each. What is there already stays."""
    folder.mkdir(exist_ok=True)
    names = {path.name: path for place in (_STATIC, _VENDOR) for path in place.iterdir() if path.is_file()}
    for name, path in names.items():
        there = folder / name
        if not there.exists() or there.read_bytes() != path.read_bytes():
            _put(there, path.read_bytes())
    return {name: path.stat().st_size for name, path in names.items()}


def _put(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
