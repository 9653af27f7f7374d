"""A run's numbers, as a file at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.metrics import names, textfile
from flows.services import Services
from flows.summary import FAILED, Summary


def write(services: Services, summary: Summary) -> None:
    """Write `analytics_<flow>.prom`, as `textfile.leave` does."""
    textfile.leave(
        services,
        summary.flow,
        lambda: _RunNumbers(summary, services.settings.now().timestamp(), _bytes(services, summary)),
    )


def _bytes(services: Services, summary: Summary) -> dict[str, int]:
    with services.warehouse.connect() as connection:
        rows = connection.execute(
            "select table_name, sum((file ->> 'bytes')::bigint) "
            "from ops.ledger, jsonb_array_elements(files) as file where run_id = %s and kind = 'land' "
            "group by table_name",
            (summary.run_id,),
        ).fetchall()
    return {name: int(size) for name, size in rows}


class _RunNumbers:
    """A collector over one summary."""

    def __init__(self, summary: Summary, ended: float, landed_bytes: dict[str, int]) -> None:
        self._summary = summary
        self._ended = ended
        self._bytes = landed_bytes

    def collect(self) -> Iterator[Any]:
        """One family for each metric of a run."""
        summary, flow = self._summary, self._summary.flow
        single = {
            names.RUN_SUCCESS: float(summary.state not in FAILED),
            names.RUN_END: self._ended,
            names.RUN_SECONDS: summary.seconds,
            names.RUN_DEAD_LETTERS: summary.dead_letters,
        }
        for metric, value in single.items():
            family = metric.family()
            family.add_metric([flow], value)
            yield family
        written = {name: table.rows_written for name, table in summary.tables.items()}
        checks = {"passed": summary.checks_passed, "failed": summary.checks - summary.checks_passed}
        several = {
            names.RUN_LANDED_ROWS: summary.landed,
            names.RUN_LANDED_BYTES: self._bytes,
            names.RUN_WRITTEN_ROWS: written,
            names.RUN_CHECKS: checks,
        }
        for metric, values in several.items():
            family = metric.family()
            for name, value in sorted(values.items()):
                family.add_metric([flow, name], value)
            yield family
