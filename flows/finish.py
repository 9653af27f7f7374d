"""After the builds: views that are owed a refresh, checks on what is published, `lake.sql`, Prefect's
artifacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

import quality
from flows import lakeshell
from flows.build import guard
from flows.progress import Progress
from flows.services import Services
from flows.stores.upkeep import analyze, refresh, retire
from flows.summary import Summary
from quality import CheckResult
from quality.expectations import validate
from quality.published import published_arrivals
from transforms import registry
from transforms.contract import Table


def run(services: Services, models: Sequence[Table], summary: Summary, progress: Progress) -> None:
    """What every run ends with.

    1. Partitions that their declared retention has passed are dropped.
    2. Parents get statistics, views that are owed a refresh (also by a run that died) get it.
    3. What changed is checked where people read it.
    4. `lake.sql` names the files that count now.
    """
    now = services.settings.now()
    changed = [table for table in models if summary.has_changed(table.name)]
    for table in models:
        if table.is_partitioned_in_postgres and table.retention is not None:
            for partition in retire(services.warehouse, services.lake, table, now, summary.run_id):
                progress.say(table.name, f"{partition} dropped: older than {table.retention.days} days")
    analyze(services.warehouse, changed)
    for view in refresh(services.warehouse):
        if view.blocked_by:
            summary.pending.append(
                f"{view.view} waits for its refresh: {view.blocked_by} holds a lock on it."
            )
        else:
            progress.say(view.view, "refreshed")
    if changed:
        _check(services, changed, summary)
    _count(services, summary)
    lakeshell.write(services.lake, registry.tables().values())


def _check(services: Services, changed: Sequence[Table], summary: Summary) -> None:
    """Great Expectations over the partitions of this run, as readers see them."""
    dsn, now = services.settings.require("warehouse_dsn"), services.settings.now()
    arrivals = {"arrivals": f"({published_arrivals(now, changed)})"}
    results: list[CheckResult] = []
    for table in changed:
        windows = sorted(set(summary.tables[table.name].windows))
        is_whole = table.partition is None
        results += validate(
            dsn,
            table,
            quality.rules(table),
            [f"analytics.{table.name}"],
            arrivals,
            partitions=None if is_whole else windows,
            only_partitions=not is_whole,
        )
    with services.warehouse.connect() as connection, connection.transaction():
        guard.record(connection, summary.run_id, results, now)
    note_checks(summary, results)
    summary.failures += [failed.message for failed in quality.blocking(results)]


def note_checks(summary: Summary, results: Sequence[CheckResult]) -> None:
    """Count results; what failed without blocking becomes a warning."""
    summary.checks += len(results)
    summary.checks_passed += sum(result.passed for result in results)
    summary.warnings += [result.message for result in results if not result.passed and not result.blocks]


def _count(services: Services, summary: Summary) -> None:
    with services.ledger() as ledger:
        rows: dict[str, int] = {}
        for (name, _), state in ledger.states(with_files=False).items():
            rows[name] = rows.get(name, 0) + state.row_count
    for table in registry.build_order():
        if table.is_published and table.name in rows:
            summary.table(table.name).rows = rows[table.name]


def show_in_prefect(summary: Summary) -> None:
    """Two artifacts: what was published, and what the checks said."""
    create_markdown_artifact(
        key="published", markdown=summary.markdown(), description="What the run published"
    )
    lines: list[dict[str, Any]] = [
        {"passed": summary.checks_passed, "of": summary.checks, "message": "all rules, both engines"},
        *({"passed": "", "of": "", "message": line} for line in (*summary.failures, *summary.warnings)),
    ]
    create_table_artifact(key="checks", table=lines, description="What the checks said")
