"""What the warehouse knows of itself, as metrics: asked of its ops tables at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from psycopg import Connection

from flows import sla
from flows.alerting.routes import SEVERITIES, routes
from flows.metrics import names
from flows.metrics.names import Metric
from flows.monitoring.freshness import FRESHNESS
from flows.monitoring.verdict import State
from flows.services import Services
from transforms import registry

Samples = Iterable[tuple[Sequence[str], float]]

# The last time that a table was held to its rules: its results stand under one moment.
_RULES = """
select given.table_name, count(*), count(*) filter (where not passed and severity = 'critical'),
    count(*) filter (where not passed and severity = 'warning'),
    count(*) filter (where not passed and severity = 'info'), max(failing_rows)
from unnest(%s::text[]) as given (table_name)
cross join lateral (
    select checked_at from ops.check_result as latest
    where latest.table_name = given.table_name order by checked_at desc limit 1
) as last
join ops.check_result as result
    on result.table_name = given.table_name and result.checked_at = last.checked_at
group by given.table_name order by given.table_name
"""


class WarehouseNumbers:
    """A collector for prometheus_client; a session of the warehouse lasts as long as one scrape."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Any]:
        """One family for each metric of the warehouse. Raises WarehouseError while it is away: then the
        scrape fails, which is what Prometheus is to see.
        """
        with self._services.warehouse.connect() as connection:
            found = {
                **_tables(connection),
                **_rules(connection),
                **_health(connection),
                **open_incidents(connection),
                **self._alerts(connection),
                **promises(sla.report(connection, self._services.settings.now())),
            }
        yield from names.families(found)

    def _alerts(self, connection: Connection[Any]) -> dict[Metric, Samples]:
        unsent = dict(
            connection.execute(
                "select channel, count(*) from ops.notification "
                "where sent_at is null and given_up_at is null group by channel"
            ).fetchall()
        )
        channels = routes(self._services.settings).channels
        completed = connection.execute(
            "select flow, max(finished_at) from ops.run where state = 'Completed' group by flow order by flow"
        ).fetchall()
        letters = dict(
            connection.execute(
                "select source, count(*) from ops.dead_letter where status = 'waiting' group by source"
            ).fetchall()
        )
        sources = sorted({entity.source for entity in registry.entities()})
        return {
            names.UNSENT: [((channel,), unsent.get(channel, 0)) for channel in channels],
            names.SUCCESS: [((flow,), at.timestamp()) for flow, at in completed if at],
            names.DEAD_LETTERS: [((source,), letters.get(source, 0)) for source in sources],
        }


def open_incidents(connection: Connection[Any]) -> dict[Metric, Samples]:
    """Open incidents, of every severity."""
    opened = dict(
        connection.execute(
            "select severity, count(*) from ops.incident where resolved_at is null group by severity"
        ).fetchall()
    )
    return {names.INCIDENTS: [((severity,), opened.get(severity, 0)) for severity in SEVERITIES]}


def fresh(measured: Iterable[tuple[str, str, float | None, float | None]]) -> dict[Metric, Samples]:
    """Of (signal, subject, value, limit)s: how far tables are behind, and how far they may be."""
    found = [row for row in measured if row[0] == FRESHNESS and row[1] in registry.tables()]
    return {
        names.TABLE_AGE: [((row[1],), row[2]) for row in found if row[2] is not None],
        names.TABLE_AGE_LIMIT: [((row[1],), row[3]) for row in found if row[3] is not None],
    }


def promises(report: sla.Report) -> dict[Metric, Samples]:
    """What was promised over 30 days, and what is left of its budget."""
    objectives = report.objectives
    return {
        names.SLA_SHARE: [((one.name,), one.share) for one in objectives if one.share is not None],
        names.SLA_TARGET: [((one.name,), one.target) for one in objectives],
        names.SLA_LEFT: [((one.name,), one.left) for one in objectives if one.left is not None],
        names.SLA_BURN: [
            ((one.name, alert), rate)
            for one in objectives
            for alert, rate in one.burn.items()
            if rate is not None
        ],
        names.SLA_UNMEASURED: [
            ((one.name,), one.unmeasured) for one in objectives if one.unmeasured is not None
        ],
    }


def _tables(connection: Connection[Any]) -> dict[Metric, Samples]:
    rows = connection.execute(
        "select table_name, sum(row_count), max(published_at) from ops.partition_state "
        "where table_name = any(%s) group by table_name order by table_name",
        (list(registry.tables()),),
    ).fetchall()
    return {
        names.TABLE_ROWS: [((name,), float(count)) for name, count, _ in rows],
        names.TABLE_PUBLISHED: [((name,), at.timestamp()) for name, _, at in rows if at],
    }


def _rules(connection: Connection[Any]) -> dict[Metric, Samples]:
    rows = connection.execute(_RULES.encode(), (list(registry.tables()),)).fetchall()
    failed = [
        ((row[0], severity), row[at])
        for row in rows
        for at, severity in ((2, "critical"), (3, "warning"), (4, "info"))
    ]
    return {
        names.RULES_CHECKED: [((row[0],), row[1]) for row in rows],
        names.RULES_FAILED: failed,
        names.FAILING_ROWS: [((row[0],), row[5]) for row in rows],
    }


def _health(connection: Connection[Any]) -> dict[Metric, Samples]:
    rows = connection.execute(
        "select signal, subject, verdict, value, limit_value, measured_at from ops.health"
    ).fetchall()
    counts = {(signal, state.value): 0 for signal in {row[0] for row in rows} for state in State}
    for signal, _, verdict, *_ in rows:
        counts[signal, verdict] += 1
    last = max((row[5] for row in rows), default=None)
    return {
        **fresh((row[0], row[1], row[3], row[4]) for row in rows),
        names.HEALTH: sorted(counts.items()),
        names.MEASURED: [((), last.timestamp())] if last else [],
    }
