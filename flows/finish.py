"""After the builds: what every run ends with, up to `lake.sql`, and artifacts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from typing import Any

import duckdb
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows import lakeshell
from flows.build.guard import record
from flows.doubted import doubt
from flows.errors import FlowsError
from flows.hung import within
from flows.maintenance.undeclared import left_by_a_stream
from flows.monitoring import profiles
from flows.progress import Progress
from flows.schedule import told
from flows.services import Services
from flows.stores.dependents import InTheWay
from flows.stores.upkeep import refresh, retire
from flows.streaming.keeper import keep_once
from flows.streaming.reconcile import reconcile
from flows.summary import Summary
from transforms import registry
from transforms.contract import Table

_SHOW_SECONDS = 20.0


def run(services: Services, models: Sequence[Table], summary: Summary, progress: Progress) -> None:
    """What every run ends with.

    1. Partitions that their declared retention has passed are dropped, unless the clock is in doubt.
    2. Views that are owed a refresh (also by a run that died) get it.
    3. Partitions that the stream wrote and the batch has computed are compared and corrected; those that are
       over are the batch's from then on, the others are compared again by the next run. What that changes in
       windowed counts goes to their topic.
    4. What was published is looked at, day by day: the monitor compares it with earlier days.
    5. `lake.sql` names the files that count now.
    """
    now = services.settings.now()
    with services.warehouse.connect() as connection:
        unsure = doubt(connection, now)
    if unsure:
        summary.warnings.append(unsure)

    def stays(error: InTheWay) -> None:
        summary.warnings.append(str(error))

    for table in models:
        if table.is_partitioned_in_postgres and table.retention is not None and not unsure:
            for partition in retire(services.warehouse, services.lake, table, now, summary.run_id, stays):
                progress.say(table.name, f"{partition} dropped: older than {table.retention.days} days")
    for view in refresh(services.warehouse):
        if view.blocked_by:
            summary.pending.append(f"{view.view} waits for its refresh: {view.blocked_by} is in the way.")
        else:
            progress.say(view.view, "refreshed")
    _agree(services, summary)
    _count(services, summary)
    _look_at(services, summary)
    lakeshell.write(services.lake, registry.tables().values())


def _look_at(services: Services, summary: Summary) -> None:
    """What the monitor compares is no part of what a run promises: it is published, looked at or not."""
    try:
        profiles.update(services)
    except (FlowsError, duckdb.Error) as error:
        said = f"What was published was not looked at, so nothing judges it yet: {told(error)}"
        summary.warnings.append(said)


def _agree(services: Services, summary: Summary) -> None:
    results = reconcile(services)
    if away := keep_once(services):
        summary.warnings.append(away)
    with services.warehouse.connect() as connection, connection.transaction():
        record(connection, summary.run_id, results, services.settings.now())
        summary.warnings += left_by_a_stream(connection)
    summary.checks += len(results)
    summary.checks_passed += sum(result.passed for result in results)
    summary.warnings += [result.message for result in results if not result.passed]


def _count(services: Services, summary: Summary) -> None:
    with services.ledger() as ledger:
        rows = ledger.row_counts()
    for table in registry.build_order():
        if table.is_published and table.name in rows:
            summary.table(table.name).rows = rows[table.name]


def write_portal(services: Services, summary: Summary, progress: Progress) -> None:
    """The pages that people look at, as the warehouse is now. What is wrong with them is only said."""
    from flows.portal.site import after_run

    if problem := after_run(services, has_news=summary.partitions > 0):
        progress.say("portal", problem)
    summary.has_pages = services.settings.writes_portal and not problem


def show_in_prefect(summary: Summary, progress: Progress) -> None:
    """Two artifacts: what was published, and what the checks said. All is done by now: a server that does not
    answer is only said, and not waited for any longer.
    """
    try:
        within(_SHOW_SECONDS, partial(copy_context().run, _make_artifacts, summary))
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client says, the run is what it is
        reason = str(error) or type(error).__name__
        said = f"The artifacts of this run can't be written at its server ({reason}); ops.run has the same."
        progress.say("prefect", said, logging.WARNING)


def _make_artifacts(summary: Summary) -> None:
    create_markdown_artifact(
        key="published", markdown=summary.markdown(), description="What the run published"
    )
    lines: list[dict[str, Any]] = [
        {"passed": summary.checks_passed, "of": summary.checks, "message": "all rules, both engines"},
        *({"passed": "", "of": "", "message": line} for line in (*summary.failures, *summary.warnings)),
    ]
    create_table_artifact(key="checks", table=lines, description="What the checks said")
