"""The SLA ledger: what was promised, what was kept, and how fast the rest is used up.

Three objectives over 30 days. `python -m flows sla`; `report` for programs. Minutes come from ops.health_span
and ops.incident, rows from ops.check_result. A minute that nobody measured is told as such: it is neither
good nor bad.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

from flows.alerting.causes import below
from flows.monitoring.kept import (
    FRESHNESS,
    OWN,
    QUALITY,
    SIGNAL,
    UPTIME,
    broken_tables,
    by_table,
    kept_of,
)
from flows.monitoring.verdict import State, Verdict

PERIOD = timedelta(days=30)
PERIOD_MINUTES = PERIOD // timedelta(minutes=1)
TARGETS = {"freshness": 0.99, "uptime": 0.999, "quality": 0.99}
"""Share of table-minutes within the table's freshness SLA; of minutes without an open critical incident; of
rows that pass all their rules."""
UNITS = {"freshness": "table-minutes", "uptime": "minutes", "quality": "rows"}


@dataclass(frozen=True)
class Alert:
    """Two windows in which the budget burns at this rate: the long one is evidence, the short one says that
    it still does.

    The numbers are those of Google's SRE Workbook, chapter 5 (Alerting on SLOs), table 5-8: 2 % of the budget
    in an hour, 5 % in six hours, 10 % in three days.
    """

    name: str
    rate: float
    long: timedelta
    short: timedelta
    state: State


ALERTS = (
    Alert("fast", 14.4, timedelta(hours=1), timedelta(minutes=5), State.CRITICAL),
    Alert("medium", 6.0, timedelta(hours=6), timedelta(minutes=30), State.CRITICAL),
    Alert("slow", 1.0, timedelta(days=3), timedelta(hours=6), State.WARNING),
)


@dataclass(frozen=True)
class Objective:
    """One promise over the period."""

    name: str
    target: float
    unit: str
    good: float
    bad: float
    unmeasured: float | None
    """Minutes of the period in which nobody looked; None for rows."""
    share: float | None
    """Good ÷ measured; None when nothing was measured."""
    budget: float
    """How much may be bad: of 30 days, or of the rows that were checked."""
    left: float | None
    """Share of the budget that is left; negative when more was bad than may be."""
    burn: Mapping[str, float | None]
    """Alert → how fast the budget is used up, over its long window; 1 uses up all of it in 30 days."""
    state: State
    """How the burning of its budget stands."""

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept; what was not measured is not."""
        return self.share is not None and self.share >= self.target


@dataclass(frozen=True)
class TableFreshness:
    """How fresh one table was over the period, in minutes."""

    table: str
    good: float
    bad: float
    unmeasured: float
    share: float | None


@dataclass(frozen=True)
class Report:
    """The ledger of the period: [since, until)."""

    since: datetime
    until: datetime
    objectives: tuple[Objective, ...]
    tables: tuple[TableFreshness, ...]

    @property
    def minutes(self) -> float:
        """The length of the period."""
        return (self.until - self.since) / timedelta(minutes=1)

    @property
    def is_met(self) -> bool:
        return all(objective.is_met for objective in self.objectives)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        found = asdict(self)
        found |= {"since": self.since.isoformat(), "until": self.until.isoformat(), "is_met": self.is_met}
        for given, objective in zip(found["objectives"], self.objectives, strict=True):
            given["is_met"] = objective.is_met
        return found


def report(connection: Connection[Any], now: datetime) -> Report:
    """The ledger as it stands: 30 days, or since the first minute that was ever measured."""
    until = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    first = connection.execute("select min(since) from ops.health_span").fetchone()
    begun = first[0] if first and first[0] else until
    since = max(until - PERIOD, begun.replace(second=0, microsecond=0))
    length = (until - since) / timedelta(minutes=1)
    tables = tuple(
        TableFreshness(subject, kept.good, kept.bad, max(0.0, length - kept.measured), kept.share)
        for subject, kept in by_table(connection, since, until)
    )
    unmeasured = {
        "freshness": sum(table.unmeasured for table in tables),
        "uptime": max(0.0, length - kept_of(connection, "uptime", since, until).measured),
    }
    objectives = tuple(_objective(connection, name, since, until, unmeasured.get(name)) for name in TARGETS)
    return Report(since, until, objectives, tables)


def sql(connection: Connection[Any], found: Report) -> dict[str, str]:
    """The ledger's queries by objective, with the period written out: good and bad, of freshness by table."""
    from psycopg import ClientCursor

    told = ClientCursor(connection)
    given = {"freshness": FRESHNESS, "uptime": UPTIME, "quality": QUALITY}
    return {
        name: told.mogrify(
            query.strip().encode(),
            {
                "since": found.until - PERIOD if name == "quality" else found.since,
                "until": found.until,
                "own": OWN,
            },
        )
        for name, query in given.items()
    }


def burn_verdicts(connection: Connection[Any], now: datetime) -> list[Verdict]:
    """One verdict of signal `sla_burn` for each objective.

    What a single incident burns is told by that incident; several together are news.
    """
    until = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    found = []
    for name in TARGETS:
        burn, alert = _burning(connection, name, until)
        if alert is not None and _incidents(connection, name, until - alert.long, until) == 1:
            alert = None
        found.append(_verdict(name, burn, alert, now))
    return found


def _incidents(connection: Connection[Any], name: str, since: datetime, until: datetime) -> int:
    """How many incidents of that time burned the budget: of freshness those about what is late, of uptime the
    critical ones, of quality those about tables with rows that break rules, or about what these are made of.
    """
    rows = connection.execute(
        "select severity, about, array(select signal union select member ->> 'signal' "
        "from jsonb_array_elements(members) as member) from ops.incident "
        "where signal <> all(%s) and taken_in_by is null and coalesce(resolved_at, %s) > %s",
        (OWN, until, since),
    ).fetchall()
    if name == "uptime":
        return sum(severity == "critical" for severity, _, _ in rows)
    if name == "freshness":
        return sum("data_freshness" in signals for _, _, signals in rows)
    broken = broken_tables(connection, since, until)
    return sum(any(broken & (below(table) | {table}) for table in about) for _, about, _ in rows)


def _verdict(name: str, burn: Mapping[str, float | None], alert: Alert | None, now: datetime) -> Verdict:
    if alert is None:
        return Verdict(SIGNAL, name, State.OK, now, value=burn["fast"], limit=ALERTS[0].rate, unit="ratio")
    rate = burn[alert.name] or 0.0
    hours = alert.long / timedelta(hours=1)
    return Verdict(
        signal=SIGNAL,
        subject=name,
        state=alert.state,
        measured_at=now,
        value=rate,
        limit=alert.rate,
        unit="ratio",
        message=f"{name}: its error budget of 30 days burns {rate:.1f} times as fast as it may, "
        f"for {hours:.0f} h.",
        action="See what is open: `python -m flows alerts list`; what is left: `python -m flows sla`.",
        observed={"alert": alert.name, "target": TARGETS[name]},
    )


def _objective(
    connection: Connection[Any], name: str, since: datetime, until: datetime, unmeasured: float | None
) -> Objective:
    # Rows were checked before anybody measured minutes.
    kept = kept_of(connection, name, until - PERIOD if name == "quality" else since, until)
    length = until - since
    of = kept.measured if name == "quality" or not length else kept.whole * (PERIOD / length)
    budget = (1 - TARGETS[name]) * of
    burn, alert = _burning(connection, name, until)
    return Objective(
        name=name,
        target=TARGETS[name],
        unit=UNITS[name],
        good=kept.good,
        bad=kept.bad,
        unmeasured=unmeasured,
        share=kept.share,
        budget=budget,
        left=1 - kept.bad / budget if budget else None,
        burn=burn,
        state=alert.state if alert else State.OK,
    )


def _burning(
    connection: Connection[Any], name: str, until: datetime
) -> tuple[dict[str, float | None], Alert | None]:
    """Alert → how fast the budget burns over its long window; and the first alert that fires."""
    rates: dict[timedelta, float | None] = {}
    for length in sorted({one for alert in ALERTS for one in (alert.long, alert.short)}):
        kept = kept_of(connection, name, until - length, until)
        rates[length] = kept.bad / (kept.whole * (1 - TARGETS[name])) if kept.measured else None
    firing = (
        alert
        for alert in ALERTS
        if (rates[alert.long] or 0.0) >= alert.rate and (rates[alert.short] or 0.0) >= alert.rate
    )
    return {alert.name: rates[alert.long] for alert in ALERTS}, next(firing, None)


# ------------------------------------------------------------------------------------------ the command line


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows sla [--json]`; exit code 1 when a promise is not kept."""
    from flows.services import open_services

    services = open_services()
    with services.warehouse.connect() as connection:
        found = report(connection, services.settings.now())
    print(json.dumps(found.as_json(), indent=2) if arguments.json else "\n".join(lines(found)))
    return 0 if all(one.share is None or one.is_met for one in found.objectives) else 1


def lines(found: Report) -> list[str]:
    """The ledger for people: a line for each promise, then the tables that were late most."""
    days = (found.until - found.since) / timedelta(days=1)
    said = [f"{found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} UTC ({days:.1f} days)", ""]
    said.append(
        f"{'':<10} {'kept':>9} {'promised':>9} {'budget left':>12} {'burn 1 h':>9} {'3 d':>6}  measured"
    )
    for one in found.objectives:
        kept = "-" if one.share is None else f"{one.share:.3%}"
        left = "-" if one.left is None else f"{one.left:.0%}"
        burn = [f"{rate:.1f}" if (rate := one.burn[name]) is not None else "-" for name in ("fast", "slow")]
        measured = f"{one.good + one.bad:,.0f} {one.unit}"
        if one.unmeasured:
            measured += f", {one.unmeasured:,.0f} not measured"
        verdict = "" if one.share is None or one.is_met else "  NOT KEPT"
        said.append(
            f"{one.name:<10} {kept:>9} {one.target:>9.1%} {left:>12} {burn[0]:>9} {burn[1]:>6}  "
            f"{measured}{verdict}"
        )
    late = sorted((table for table in found.tables if table.bad), key=lambda table: -table.bad)
    if late:
        said += ["", "Late most:"]
        said += [
            f"  {table.table:<32} {table.bad:>8,.0f} minutes of {table.good + table.bad:,.0f}"
            for table in late[:10]
        ]
    if not found.tables:
        said += ["", "No minute was measured yet: `python -m flows monitor` measures one."]
    return said
