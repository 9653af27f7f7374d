"""What pages show beside their own queries: charts, dictionary, lineage."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flows.lineage import CACHE, fingerprint, graph
from flows.portal.promises import kept
from flows.portal.quarantine import quarantined
from flows.portal.reading import Reading, Result
from flows.services import Services
from transforms import charts, registry


@dataclass(frozen=True)
class Tile:
    """One figure above the charts: a measure of one, added up over the chosen days, or that of the last."""

    chart: str
    measure: str
    label: str
    take: Literal["sum", "last"]


_TILES = (
    Tile("revenue_chart", "revenue", "Revenue", "sum"),
    Tile("revenue_chart", "stripe_amount", "Collected by Stripe", "sum"),
    Tile("revenue_chart", "refunded_amount", "Refunded", "sum"),
    Tile("revenue_chart", "unexplained", "Unexplained difference", "sum"),
    Tile("active_users", "daily_active_users", "Active users, day", "last"),
    Tile("active_users", "weekly_active_users", "Active users, 7 days", "last"),
    Tile("active_users", "monthly_active_users", "Active users, 30 days", "last"),
    Tile("events_by_type", "events", "Events", "sum"),
)
_WIDTHS = {"revenue_chart": "", "retention": "", "events_by_type": "two-thirds", "email_engagement": "third"}
"""Of charts that do not take half of the page."""


def queried(page: str, moment: Reading) -> dict[str, Result]:
    """Results of a page that are not its own queries: the declared charts, the ledger of promises."""
    if page == "sla":
        return kept(moment)
    if page != "dashboards":
        return {}
    return {chart.name: moment.query(chart.name, chart.sql.strip()) for chart in charts.CHARTS}


def of(page: str, services: Services) -> dict[str, Any]:
    """Values for a page's template."""
    if page == "dashboards":
        return {"charts": charts.CHARTS, "tiles": _TILES, "widths": _WIDTHS}
    if page == "lineage":
        return {"graph": graph().as_data()}
    if page == "quality":
        return {"quarantine": quarantined(services)}
    return {}


def embedded(page: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a page's scripts."""
    if page == "dashboards":
        return {"charts": [_chart(chart) for chart in charts.CHARTS]}
    if page == "lineage":
        return {"graph": more["graph"]}
    return {}


def _chart(chart: charts.Chart) -> dict[str, Any]:
    return {
        "name": chart.name,
        "title": chart.title,
        "kind": chart.kind,
        "unit": chart.unit,
        "x": chart.x,
        "by": chart.by,
        "currency": chart.currency,
        "measures": dict(chart.measures),
        "points": chart.points,
        "sql": chart.sql.strip(),
        "rows": chart.rows.strip(),
    }


def of_code() -> dict[str, Any]:
    """The dictionary, which only the code decides. It is kept beside the lineage graph, since reading every
    model's lineage takes seconds: a process whose code is that of the one before takes it from there.
    """
    known, kept = fingerprint(), CACHE / "portal.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if stored["fingerprint"] == known:
            return {"tables": stored["tables"]}
    found = _read_code()
    # Without the folder, or the right to write there, it is read again next time.
    with contextlib.suppress(OSError):
        temporary = kept.with_name(f".portal.{os.getpid()}")
        temporary.write_text(json.dumps({"fingerprint": known, **found}), encoding="utf-8")
        temporary.replace(kept)
    return found


def _read_code() -> dict[str, Any]:
    from transforms import catalog

    entries = catalog.dictionary()
    tables = {entry["table"]: entry for entry in entries}
    for entry in entries:
        entry["downstreams"] = sorted(
            other["table"] for other in entries if entry["table"] in other["upstreams"]
        )
        declared = registry.table(entry["table"])
        entry["freshness_seconds"] = declared.freshness.total_seconds() if declared.freshness else None
        entry["retention_days"] = declared.retention.days if declared.retention else None
    return {"tables": list(tables.values())}
