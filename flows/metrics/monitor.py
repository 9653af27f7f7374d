"""A look's numbers, as a file: it lives for a second each minute, so nobody could ask it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flows import sla
from flows.metrics import names, textfile
from flows.metrics.names import Metric
from flows.metrics.warehouse import Samples, fresh, open_incidents, promises
from flows.monitoring.verdict import FROM_BEST, Verdict
from flows.services import Services
from flows.stores.warehouse_errors import WarehouseError
from transforms import registry

RANK = {state: rank for rank, state in enumerate(FROM_BEST)}
"""How a verdict is told as a number; the worse, the higher."""


def write(services: Services, verdicts: Sequence[Verdict], seconds: float) -> None:
    """Write `analytics_monitor.prom`, as `textfile.leave` does: of these verdicts, of a look that took so
    many seconds. While the warehouse is away it has no incidents and no SLA.
    """
    textfile.leave(services, "monitor", lambda: _LookNumbers(_found(services, verdicts, seconds)))


class _LookNumbers:
    """A collector over what one look found."""

    def __init__(self, found: dict[Metric, Samples]) -> None:
        self._found = found

    def collect(self) -> Iterator[Any]:
        """One family for each metric of a look."""
        yield from names.families(self._found)


def _found(services: Services, verdicts: Sequence[Verdict], seconds: float) -> dict[Metric, Samples]:
    worst: dict[tuple[str, str], int] = {}
    for verdict in verdicts:
        at = verdict.signal, _table(verdict.subject)
        worst[at] = max(worst.get(at, 0), RANK[verdict.state])
    found: dict[Metric, Samples] = {
        names.VERDICT: sorted(worst.items()),
        names.LOOK_SECONDS: [((), seconds)],
        names.MEASURED: [((), max(verdict.measured_at.timestamp() for verdict in verdicts))],
        **fresh([(one.signal, one.subject, one.value, one.limit) for one in verdicts]),
    }
    try:
        with services.warehouse.connect() as connection:
            report = sla.report(connection, services.settings.now())
            return {**found, **open_incidents(connection), **promises(report)}
    except WarehouseError:
        return found  # one of the verdicts says that it is away


def _table(subject: str) -> str:
    """The table that a subject is about, of those declared; otherwise nothing: slots, schedules, channels."""
    name = subject.removeprefix("source:").split(".")[0]
    declared = name in registry.tables() or name in {entity.table for entity in registry.entities()}
    return name if declared else ""
