"""The batch: land every source, rebuild what it touched, check it, publish it, refresh what depends on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

import quality
from flows import alerts, finish, first_read, prepare
from flows.alerting.cancelled import SAID, is_cancelled
from flows.asked import refused
from flows.build.states import never_built
from flows.errors import FlowsError
from flows.flow_names import APIS, BATCH, reads
from flows.garbage import look_rarely
from flows.hung import HOUR, end_process_soon
from flows.metrics import run as numbers
from flows.progress import Progress
from flows.schedule import Schedule, reached_from
from flows.services import Services, open_services
from flows.settings import load
from flows.summary import Summary
from transforms import registry
from transforms.contract import ContractError, Table
from transforms.entities import SourceEntity

_ended: list[Summary] = []
"""What the last run of this process did."""

# How many work at a time is said by the lanes of a run; who waits for another try holds a thread beside.
runner = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=sys.maxsize))


class RunFailed(FlowsError):
    """Something failed; everything else was done. The message has one line for each failure."""

    exit_code = 1

    def __init__(self, summary: Summary) -> None:
        super().__init__("\n".join(summary.failures))
        self.summary = summary


def ended() -> Summary | None:
    """What the last run of this process did, once it has ended: its flow hands nothing over where Prefect's
    server does not take that end.
    """
    return _ended[-1] if _ended else None


def run_name() -> str:
    return f"{flow_run.flow_name}-{load().now():%Y-%m-%dT%H:%M}"


# Tasks are tried again, each by itself (ANALYTICS_RETRIES), and everything else is done meanwhile; what
# failed after that is told, and made good by the next run. A second try of the whole would fail by the same.
@flow(
    name=BATCH,
    flow_run_name=run_name,
    task_runner=runner,
    timeout_seconds=12 * HOUR,
    retries=0,
    result_serializer="json",
    log_prints=False,
)
def analytics_pipeline(select: list[str] | None = None, yes: bool = False) -> dict[str, Any]:
    """Land all sources and publish what changed.

    Returns the summary as JSON. Raises RunFailed at the end when a source, a check or a table failed: what
    did not depend on it is done. Refused where a name selects no table.

    Args:
        select: Only these tables; NAME+ with what depends on it.
        yes: Agree to a change of a model that takes something from readers.
    """
    try:
        _selected(select)
    except ContractError as error:
        return refused(error)
    return run(BATCH, reads(BATCH), select, yes).as_json()


@flow(
    name=APIS,
    flow_run_name=run_name,
    task_runner=runner,
    timeout_seconds=3 * HOUR,
    retries=0,
    result_serializer="json",
    log_prints=False,
)
def api_ingest() -> dict[str, Any]:
    """The same for the APIs alone, so that they can be hourly."""
    return run(APIS, reads(APIS), None, False).as_json()


def run(flow_name: str, entities: Sequence[SourceEntity], select: Sequence[str] | None, yes: bool) -> Summary:
    """The order of a run, for every flow of this family. To be called inside a flow.

    0. a setting that a source needs and that is missing (SettingsError), or a rule file that no run could
       ask (QualityError), ends it before anything has begun;
    1. prepare: schemas and tables as the models say, what a crash left behind completed or swept; what ends
    the run here is entered and told too, as far as the warehouse can be asked;
    2. land what is captured for the first time, while the connector reads it;
    3. land every entity, build what is due of each table as soon as all it needs is there, and check what was
       published of it where people read it;
    4. finish: refresh the views that are owed, write lake.sql and the portal, tell Prefect, tell who is to
       know.
    """
    begun = time.perf_counter()
    look_rarely()
    services = open_services()
    summary = Summary(run_id=str(flow_run.id or ""), flow=flow_name)
    summary.selected = sorted(registry.select(list(select))) if select else []
    with Progress(flow_name) as progress, services.lake:
        try:
            prepare.sources(services, entities)
            quality.hold_to_form(registry.tables(), registry.default().models)
            services.lake.begin_session()
            left = prepare.warehouse(services, yes, progress)
            models = _without(left, _wanted(services, select, summary, progress), summary)
        except BaseException as error:
            # A sentence that begins with a table's name would be about that table alone.
            _note_end(services, summary, error, "It could not begin: ")
            with suppress(Exception):  # where it can't be entered, what ended it is all there is to say
                _tell_end(services, summary, begun)
            raise
        prepare.note_run(services, summary, "Running")
        try:
            landed = first_read.land(services, entities, summary.run_id, progress)
            services.halted.update(landed.failures())
            Schedule(services, entities, models, summary, progress).carry_out(landed)
            finish.run(services, models, summary, progress)
        except BaseException as error:
            _note_end(services, summary, error)
            if not isinstance(error, Exception | KeyboardInterrupt):
                end_process_soon()
            raise
        finally:
            _tell_end(services, summary, begun)
            if summary.was_stopped:
                # Prefect waits for its tasks: for a lock that somebody holds, for a query that has no end.
                services.warehouse.stop()
                services.lake.stop()
        finish.write_portal(services, summary, progress)
        finish.show_in_prefect(summary, progress)
    if summary.failures:
        raise RunFailed(summary)
    return summary


def _note_end(services: Services, summary: Summary, error: BaseException, before: str = "") -> None:
    """What ended a run before its end: a failure, or somebody's wish."""
    summary.was_stopped = not isinstance(error, Exception)
    if summary.was_stopped and is_cancelled(services.settings, summary.run_id):
        summary.is_cancelled = True
        summary.warnings.append(SAID)
    else:
        summary.failures.append(f"{before}{str(error) or _stopped(error)}")


def _tell_end(services: Services, summary: Summary, begun: float) -> None:
    summary.seconds = round(time.perf_counter() - begun, 2)
    _ended[:] = [summary]
    prepare.note_run(services, summary, summary.state)
    alerts.run_ended(services, summary)
    numbers.write(services, summary)


def _stopped(error: BaseException) -> str:
    return f"It was stopped, or its time was up ({type(error).__name__}): the next run goes on from there."


def _selected(select: Sequence[str] | None) -> list[Table]:
    names = set(registry.select(list(select))) if select else None
    return [table for table in registry.build_order() if names is None or table.name in names]


def _wanted(
    services: Services, select: Sequence[str] | None, summary: Summary, progress: Progress
) -> list[Table]:
    """What was selected, and what that needs of which nothing was ever built: this is said."""
    chosen = _selected(select)
    if not select:
        return chosen
    with services.ledger() as ledger:
        missing = never_built(ledger, chosen)
    for name, reader in sorted(missing.items()):
        progress.say(name, f"is built too: {reader} needs it, and it never was")
    summary.selected = sorted({*summary.selected, *missing})
    return _selected(summary.selected)


def _without(left: prepare.Left, models: Sequence[Table], summary: Summary) -> list[Table]:
    """The models that this run can build: not those whose table stays as it was, and what needs them. One
    that nothing of this run is about is a warning.
    """
    chosen = {table.name: table for table in models}
    lost = set(left.tables)
    for name, holder in left.held.items():
        summary.pending.append(
            f"{name} stays as it was: {holder} is in the way. "
            "It is changed by the next run; end that session if it should not wait."
        )
        reached = reached_from(name, chosen) - lost
        summary.skip(reached, name, "waits")
        lost |= reached
    for name, said in left.refused.items():
        reached = reached_from(name, chosen)
        is_of_this_run = not summary.selected or name in chosen or reached
        (summary.failures if is_of_this_run else summary.warnings).append(said)
        summary.skip(reached - lost, name, "failed")
        lost |= reached
    for view, name in left.waiting.items():
        summary.skip([view], name, "waits" if name in left.held else "failed")
    return [table for table in models if table.name not in lost]
