"""The batch: land every source, rebuild what it touched, check it, publish it, refresh what depends on it."""

from __future__ import annotations

import graphlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

import quality
from flows import finish, prepare
from flows.build.guard import gate_rules
from flows.build.job import Built
from flows.build.states import planner_states
from flows.errors import FlowsError
from flows.planner import batches, plan
from flows.progress import Progress
from flows.services import Services, open_services
from flows.settings import load
from flows.steps import build_partitions, land
from flows.summary import Summary
from quality.expectations import warm_up
from transforms import catalog, registry
from transforms.contract import SourceEntity, Table

ROWS_AT_ONCE = 4_000_000
"""Rows that the partitions of one task read together: bounds its memory."""

runner = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=load().workers))


class RunFailed(FlowsError):
    """Something failed; everything else was done. The message has one line for each failure."""

    exit_code = 1

    def __init__(self, summary: Summary) -> None:
        super().__init__("\n".join(summary.failures))
        self.summary = summary


def run_name() -> str:
    return f"{flow_run.flow_name}-{load().now():%Y-%m-%dT%H:%M}"


@flow(
    name="analytics_pipeline",
    flow_run_name=run_name,
    task_runner=runner,
    result_serializer="json",
    log_prints=False,
)
def analytics_pipeline(select: list[str] | None = None, yes: bool = False) -> dict[str, Any]:
    """Land all sources and publish what changed. `select` narrows the models; `yes` agrees to destructive
    changes.

    Returns the summary as JSON. Raises RunFailed at the end when a source, a check or a table failed: what
    did not depend on it is done.
    """
    return run("analytics_pipeline", registry.entities(), select, yes).as_json()


@flow(
    name="api_ingest",
    flow_run_name=run_name,
    task_runner=runner,
    result_serializer="json",
    log_prints=False,
)
def api_ingest() -> dict[str, Any]:
    """The same for Stripe and SendGrid alone, so that they can be hourly."""
    entities = [entity for entity in registry.entities() if entity.source in {"stripe", "sendgrid"}]
    return run("api_ingest", entities, None, False).as_json()


def run(flow_name: str, entities: Sequence[SourceEntity], select: Sequence[str] | None, yes: bool) -> Summary:
    """The order of a run, for every flow of this family. To be called inside a flow.

    1. prepare: schemas and tables as the models say, what a crash left behind completed or swept;
    2. land every entity, side by side;
    3. wave by wave, plan each table from what stands and build its partitions in batches;
    4. finish: refresh the views that are owed, check what is published, write lake.sql, tell Prefect.
    """
    begun = time.perf_counter()
    services = open_services()
    summary = Summary(run_id=str(flow_run.id or ""), flow=flow_name)
    with Progress(flow_name) as progress, services.lake:
        services.lake.begin_session()
        models = _selected(select)
        models = _without(prepare.warehouse(services, yes, progress), models, summary)
        prepare.note_run(services, summary, "Running")
        try:
            models = _land(services, entities, models, summary, progress)
            _build(services, models, summary, progress)
            finish.run(services, models, summary, progress)
        except BaseException as error:
            summary.failures.append(str(error) or type(error).__name__)
            raise
        finally:
            summary.seconds = round(time.perf_counter() - begun, 2)
            prepare.note_run(services, summary, "Failed" if summary.failures else "Completed")
        finish.show_in_prefect(summary)
    if summary.failures:
        raise RunFailed(summary)
    return summary


def _selected(select: Sequence[str] | None) -> list[Table]:
    names = set(registry.select(list(select))) if select else None
    return [table for table in registry.build_order() if names is None or table.name in names]


def _without(held: Mapping[str, str], models: Sequence[Table], summary: Summary) -> list[Table]:
    """The models that this run can build: not those whose table a reader's lock keeps from being changed."""
    chosen = {table.name: table for table in models}
    lost = set(held)
    for name, holder in held.items():
        summary.pending.append(
            f"{name} stays as it was: {holder} holds a lock on it. "
            "It is changed by the next run; end that session if it should not wait."
        )
        reached = _reached(name, chosen) - lost
        if reached:
            summary.skipped.append(f"{', '.join(sorted(reached))}: they need {name}, which waits")
        lost |= reached
    return [table for table in models if table.name not in lost]


def _land(
    services: Services,
    entities: Iterable[SourceEntity],
    models: Sequence[Table],
    summary: Summary,
    progress: Progress,
) -> list[Table]:
    """Land every entity; the models that need none of those that failed, however far up."""
    chosen, lost = {table.name: table for table in models}, set[str]()
    task = land.with_options(
        retries=services.settings.retries, retry_delay_seconds=services.settings.retry_delay
    )
    futures = {task.submit(services, entity, summary.run_id): entity for entity in entities}
    progress.expect(len(futures))
    for future in as_completed(list(futures)):
        entity = futures[future]
        landing, failure = _outcome(future)
        if failure:
            summary.failures.append(f"{entity.table}: {failure}")
            reached = _reached(entity.table, chosen)
            summary.skipped.append(f"{', '.join(sorted(reached))}: they need {entity.table}, which failed")
            lost |= reached
            get_run_logger().error(summary.failures[-1])
        elif landing is not None:
            summary.warnings += [f"{entity.table}: {warning}" for warning in landing.warnings]
            summary.dead_letters += landing.dead_letters
            if landing.rows:
                summary.landed[entity.table] = landing.rows
                progress.say(entity.table, f"{landing.rows:,} rows landed")
        progress.advance()
    return [table for table in models if table.name not in lost]


def _build(services: Services, models: Sequence[Table], summary: Summary, progress: Progress) -> None:
    """Wave by wave: a table is planned when everything it reads or is checked against has been built."""
    chosen, lost = {table.name: table for table in models}, set[str]()
    sorter = graphlib.TopologicalSorter({name: _waits_for(table) for name, table in chosen.items()})
    sorter.prepare()
    while sorter.is_active():
        wave = sorter.get_ready()
        futures = _submit(services, [chosen[name] for name in wave if name in chosen.keys() - lost], summary)
        progress.expect(len(futures))
        for future in as_completed(list(futures)):
            name = futures[future]
            built, failure = _outcome(future)
            if failure:
                summary.failures.append(failure if failure.startswith(name) else f"{name}: {failure}")
                get_run_logger().error(summary.failures[-1])
                reached = _reached(name, chosen) - lost
                if reached:
                    summary.skipped.append(f"{', '.join(sorted(reached))}: they need {name}, which failed")
                lost |= {name, *reached}
            else:
                _note(built, summary, progress)
            progress.advance()
        sorter.done(*wave)


def _submit(services: Services, tables: Sequence[Table], summary: Summary) -> dict[PrefectFuture[Built], str]:
    """Plan tables from what stands now, and submit a task for each batch of their due partitions."""
    task = build_partitions.with_options(
        retries=services.settings.retries, retry_delay_seconds=services.settings.retry_delay
    )
    futures: dict[PrefectFuture[Built], str] = {}
    with services.ledger() as ledger:
        states = planner_states(ledger)
    for table in tables:
        fingerprint = catalog.fingerprint(table)
        work = plan(table, registry.tables(), states, fingerprint, services.settings.now())
        for due in batches(work, ROWS_AT_ONCE):
            label = f"build {table.name} {_span(due[0].partition, due[-1].partition)}".rstrip()
            named = task.with_options(task_run_name=label)
            futures[named.submit(services, work, due, summary.run_id)] = table.name
    if futures:
        warm_up()  # beside the builds: what is published needs it, and a run with nothing to do does not
    return futures


def _reached(name: str, chosen: Mapping[str, Table]) -> set[str]:
    """What reads a table or is checked against it, however far down."""
    found = {name}
    for table in chosen.values():  # in build order: who waits for something comes behind it
        if {*table.upstreams, *_waits_for(table)} & found:
            found.add(table.name)
    return found - {name}


def _waits_for(table: Table) -> set[str]:
    """What has to be built before a table: what it reads, and what its rules compare it with."""
    models = {model.name for model in registry.build_order()}
    return ({*table.upstreams, *quality.requires(gate_rules(table), table.name)} & models) - {table.name}


def _note(built: Built, summary: Summary, progress: Progress) -> None:
    summary.checks += len(built.checks)
    summary.checks_passed += sum(result.passed for result in built.checks)
    summary.warnings += [result.message for result in built.checks if not result.passed and not result.blocks]
    summary.dead_letters += built.dead_letters
    for publication in built.publications:
        if publication.is_pending:
            summary.pending.append(publication.message())
    if registry.table(built.table).is_published:
        table = summary.table(built.table)
        table.windows += built.partitions
        table.rows_written += built.rows_written
    if built.partitions:
        span = _span(min(built.partitions), max(built.partitions))
        letters = f", {built.dead_letters:,} dead letters" if built.dead_letters else ""
        progress.say(built.table, f"{built.rows:,} rows  {span}  {built.seconds:.1f} s{letters}")


def _outcome(future: PrefectFuture[Any]) -> tuple[Any, str]:
    """What a task gave, or the one line that says why it failed."""
    value = future.result(raise_on_failure=False)
    if isinstance(value, BaseException):
        if isinstance(value, KeyboardInterrupt):
            raise value
        text = str(value).strip() or type(value).__name__
        return None, text if isinstance(value, FlowsError | ValueError) else f"{type(value).__name__}: {text}"
    return value, ""


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first} … {last}"
