"""What pages show beside their own queries: charts, dictionary, lineage."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from flows import code_reading
from flows.catalog import entries
from flows.examples import SERVED, sampled
from flows.lineage import graph
from flows.portal.promises import kept
from flows.portal.quarantine import quarantined
from flows.portal.reading import Reading, Result
from flows.services import Services
from transforms import charts


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


def of(page: str, services: Services, moment: Reading) -> dict[str, Any]:
    """Values for a page's template."""
    if page == "catalog":
        return {"tables": _with_examples(moment)}
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


def _with_examples(moment: Reading) -> list[dict[str, Any]]:
    """The dictionary with a few values of each column that PostgreSQL serves, personal ones masked."""
    found = []
    for entry in code_reading.kept("dictionary", entries):
        shown: dict[str, list[str]] = {}
        if entry["layer"] in SERVED:
            with contextlib.suppress(psycopg.Error), moment.connection.transaction():
                shown = sampled(moment.connection, entry)
        found.append({**entry, "examples": shown})
    return found
