"""The order of a run: every source is landed and every table built as soon as all it needs is there.

Landings and builds share one graph: tables that read the application are built while an API still gives its
pages, and what was published is checked meanwhile. What failed takes with it what needs it, nothing else.
"""

from __future__ import annotations

import graphlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import duckdb
from prefect import get_run_logger
from prefect.futures import PrefectFuture
from prefect.runtime import deployment

import quality
from flows import change_topics
from flows.build.guard import needs
from flows.build.outcome import Built
from flows.build.states import planner_states
from flows.change_landing import ChangesLanded
from flows.errors import FlowsError
from flows.extract import SourceError
from flows.jobs import Job, Lane, Step
from flows.landing import Landing
from flows.planner import States, Work, batches, plan
from flows.progress import Progress
from flows.services import Services
from flows.steps import build_partitions, check_published, land, land_changes, refresh_view
from flows.stores.upkeep import Refreshed
from flows.summary import Summary
from flows.tries import Pause, Pauses
from quality import CheckResult
from quality.expectations import warm_up
from transforms import catalog, registry
from transforms.contract import Table
from transforms.engine import explain
from transforms.entities import Rest, SourceEntity
from warehouse_ddl.files import View, views

Outcome = PrefectFuture[Any]


class Schedule:
    """One run's landings, builds and checks. `carry_out` returns when all that could be done is done."""

    def __init__(
        self,
        services: Services,
        entities: Iterable[SourceEntity],
        models: Sequence[Table],
        summary: Summary,
        progress: Progress,
    ) -> None:
        self._services = services
        self._summary = summary
        self._progress = progress
        self._entities = {entity.table: entity for entity in entities}
        self._tables = {table.name: table for table in models}
        nodes = self._entities.keys() | self._tables.keys()
        self._sorter = graphlib.TopologicalSorter(
            {
                **dict.fromkeys(self._entities, ()),
                **{name: tuple(needs(table) & nodes) for name, table in self._tables.items()},
            }
        )
        self._waiting: list[Job] = []
        self._running: Counter[Lane] = Counter()
        self._news: SimpleQueue[tuple[Job, Outcome] | Pause] = SimpleQueue()
        """What tasks have to tell: that they have ended, or that they wait for another try."""
        self._pauses = Pauses(services.settings.retries, self._news.put)
        self._lost: set[str] = set()
        self._changed: set[str] = set()
        """What this run has landed or built; the rest stands as it did when the run began."""
        self._before: States = {}
        self._is_warm = False
        self._unsettled = set(self._tables)
        self._views = views()

    def carry_out(self, landed: ChangesLanded | None = None) -> None:
        """Land, build and check; what happened is in the summary. `landed`: what has landed already."""
        for outcome in landed.outcomes.values() if landed is not None else ():
            if isinstance(outcome, Landing):
                self._note_landing(outcome)
        with self._services.ledger() as ledger:
            self._before = planner_states(ledger)
        self._sorter.prepare()
        try:
            while self._sorter.is_active() or self._waiting or self._running.total():
                while ready := self._sorter.get_ready():
                    self._admit(ready)
                self._start()
                self._hear()
        finally:
            self._pauses.give_up()

    def _hear(self) -> None:
        """Wait for what happens next: a task ends, one is to be tried again, the time of one has come."""
        now, places = time.perf_counter(), self._services.settings.workers
        # Of a lane without a free place the next news is that one of its tasks ends. The time of a pause may
        # have come since the free places were filled: then nothing is waited for.
        free = [job for job in self._waiting if self._running[job.lane] < places]
        to_come = [max(0.0, job.not_before - now) for job in free]
        if not to_come and not self._running.total():
            return
        try:
            news = self._news.get(timeout=min(to_come) if to_come else None)
        except Empty:
            return
        if isinstance(news, Pause):
            self._rest(news)
        else:
            self._settle(*news)

    # --------------------------------------------------------------------------------------------- starting

    def _admit(self, names: Sequence[str]) -> None:
        """Take what became ready: what has nothing to do is done at once, the rest waits for a place."""
        works = self._plan([self._tables[name] for name in names if name in self._tables.keys() - self._lost])
        changed = change_topics.of(self._entities[name] for name in names if name in self._entities)
        if changed:
            self._add(self._landing_of_changes(changed))
        for name in names:
            if name in self._entities:
                if self._entities[name] not in changed:
                    self._add(self._landing(self._entities[name]))
            elif name in works:
                self._add(self._building(works[name]))
            else:
                self._be_done(name)

    def _add(self, job: Job) -> None:
        self._progress.expect(len(job.steps))
        self._waiting.append(job)

    def _plan(self, tables: Sequence[Table]) -> dict[str, Work]:
        """What is due of these tables, from what stands now."""
        states = self._before
        if reread := {name for table in tables for name in self._changed.intersection(table.upstreams)}:
            with self._services.ledger() as ledger:
                states = {**states, **planner_states(ledger, sorted(reread))}
        now = self._services.settings.now()
        works = [plan(table, registry.tables(), states, catalog.fingerprint(table), now) for table in tables]
        return {work.table.name: work for work in works if work.due}

    def _start(self) -> None:
        """Fill the free places, the largest jobs first and checks last: nothing waits for a check.

        The largest landing is the one that the most tables hang on: it begins the longest way to go.
        """
        now = time.perf_counter()
        self._waiting.sort(key=lambda job: (job.is_check, -job.size))
        for job in list(self._waiting):
            if job.not_before <= now and self._running[job.lane] < self._services.settings.workers:
                self._waiting.remove(job)
                self._begin(job)

    def _begin(self, job: Job) -> None:
        """Start the next task of a job, or its next try; the batches of one table follow each other."""
        self._running[job.lane] += 1
        if job.lane is Lane.BUILD and not self._is_warm:
            warm_up()  # what is published needs it, and a run with nothing to do does not
            self._is_warm = True
        job.begun = time.perf_counter()
        if job.pause is not None:
            pause, job.pause = job.pause, None
            return self._pauses.end(pause)
        future = job.steps.popleft().submit(**self._pauses.options(job))
        return future.add_done_callback(lambda done: self._news.put((job, done)))

    def _rest(self, pause: Pause) -> None:
        """Take a task's place until it is to be tried again."""
        job = pause.job
        delay = self._services.settings.retry_delay(is_deployed=deployment.id is not None)
        self._running[job.lane] -= 1
        now = time.perf_counter()
        self._summary.took(job.step, now - job.begun)
        job.pause, job.not_before = pause, now + delay
        self._waiting.append(job)
        said = f"{told(pause.error)} It is tried again in {delay:g} s."
        self._progress.say(job.name, said, logging.WARNING)

    def _landing(self, entity: SourceEntity) -> Job:
        lane = Lane.API if isinstance(entity.read, Rest) else Lane.LAND
        step = Step(land, (self._services, entity, self._summary.run_id))
        size = len(reached_from(entity.table, self._tables))
        return Job(entity.table, lane, deque([step]), size=size, entities=(entity.table,))

    def _landing_of_changes(self, entities: Sequence[SourceEntity]) -> Job:
        step = Step(land_changes, (self._services, entities, self._summary.run_id))
        names = tuple(entity.table for entity in entities)
        return Job("changes", Lane.LAND, deque([step]), size=len(self._tables), entities=names)

    def _building(self, work: Work) -> Job:
        steps: deque[Step] = deque()
        for due in batches(work):
            label = f"build {work.table.name} {span(due[0].partition, due[-1].partition)}".rstrip()
            task = build_partitions.with_options(task_run_name=label)
            steps.append(Step(task, (self._services, work, due, self._summary.run_id)))
        return Job(work.table.name, Lane.BUILD, steps, size=sum(item.rows for item in work.due))

    def _checking(self, table: Table) -> Job:
        windows = self._summary.table(table.name).windows
        step = Step(check_published, (self._services, table, windows, self._summary.run_id))
        return Job(table.name, Lane.BUILD, deque([step]), is_check=True)

    def _refreshing(self, view: View) -> Job:
        step = Step(refresh_view, (self._services, view.name))
        return Job(view.name, Lane.BUILD, deque([step]), is_refresh=True)

    # ---------------------------------------------------------------------------------------------- settling

    def _settle(self, job: Job, future: Outcome) -> None:
        """Note how a task ended. A table is done with its last batch, whatever became of the others."""
        self._running[job.lane] -= 1
        self._summary.took(job.step, time.perf_counter() - job.begun)
        self._progress.advance()
        result, failure = _outcome(future)
        if failure:
            for name in job.entities or (job.name,):
                self._fail(name, failure, is_awaited=job.is_awaited)
        elif job.is_check:
            self._note_checks(result)
            self._summary.failures += [failed.message for failed in quality.blocking(result)]
        elif job.is_refresh:
            self._note_refresh(result)
        elif isinstance(result, ChangesLanded):
            self._note_changes(result)
        elif job.lane is Lane.BUILD:
            self._note_build(result)
        else:
            self._note_landing(result)
        if job.steps:
            self._waiting.append(job)
        elif job.is_awaited:
            for name in job.entities or (job.name,):
                self._be_done(name)
            if job.lane is Lane.BUILD and self._summary.has_changed(job.name):
                self._add(self._checking(self._tables[job.name]))

    def _be_done(self, name: str) -> None:
        """Let those go on that waited for it. A view is refreshed as soon as nothing it reads is to come: at
        the end of the run, where what is still owed is made good, nothing else would be left to do beside.
        """
        self._sorter.done(name)
        self._unsettled.discard(name)
        for view in self._views:
            reads = set(view.upstreams)
            if name in reads and not reads & self._unsettled and any(map(self._summary.has_changed, reads)):
                self._add(self._refreshing(view))

    def _fail(self, name: str, failure: str, *, is_awaited: bool = True) -> None:
        """Say what failed, of each source by itself; what needs it is given up, what was published of it
        stays.
        """
        told = failure if failure.startswith(name) else f"{name}: {failure}"
        why = told.removeprefix(f"{name}: ")
        if why == told or name in registry.default().entities:
            self._summary.failures.append(told)
        else:
            self._summary.fail(name, why)
        get_run_logger().error(told)
        if is_awaited:
            self._give_up(name, "failed")

    def _give_up(self, name: str, why: str) -> None:
        reached = reached_from(name, self._tables) - self._lost
        self._summary.skip(reached, name, why)
        self._lost |= {name, *reached}

    def _note_landing(self, landing: Landing | None) -> None:
        if landing is None:
            return
        table = landing.entity.table
        self._summary.warnings += [f"{table}: {warning}" for warning in landing.warnings]
        self._summary.dead_letters += landing.dead_letters
        if landing.rows:
            self._changed.add(table)
            self._summary.landed[table] = self._summary.landed.get(table, 0) + landing.rows
            self._progress.say(table, f"{landing.rows:,} rows landed")

    def _note_changes(self, landed: ChangesLanded) -> None:
        self._summary.warnings += [
            f"transaction {one.transaction} did not arrive whole: {one.reason}" for one in landed.incomplete
        ]
        for table, outcome in landed.outcomes.items():
            if isinstance(outcome, SourceError):
                self._fail(table, told(outcome))
            else:
                self._note_landing(outcome)

    def _note_build(self, built: Built) -> None:
        self._note_checks(built.checks)
        self._summary.dead_letters += built.dead_letters
        self._summary.pending += [one.message() for one in built.publications if one.is_pending]
        if built.is_pending:  # what needs it would be refused for what it does not show yet
            self._give_up(built.table, "waits")
        if registry.table(built.table).is_published:
            table = self._summary.table(built.table)
            table.windows += built.partitions
            table.rows_written += built.rows_written
        self._changed.add(built.table)
        if built.partitions:
            reach = span(min(built.partitions), max(built.partitions))
            letters = f", {built.dead_letters:,} dead letters" if built.dead_letters else ""
            self._progress.say(built.table, f"{built.rows:,} rows  {reach}  {built.seconds:.1f} s{letters}")

    def _note_refresh(self, refreshed: Sequence[Refreshed]) -> None:
        for view in refreshed:
            if not view.blocked_by:
                self._progress.say(view.view, "refreshed")

    def _note_checks(self, results: Sequence[CheckResult]) -> None:
        """Count results; what failed without blocking becomes a warning."""
        summary = self._summary
        summary.checks += len(results)
        summary.checks_passed += sum(result.passed for result in results)
        summary.warnings += [result.message for result in results if not result.passed and not result.blocks]


def reached_from(name: str, chosen: Mapping[str, Table]) -> set[str]:
    """What reads a table or is checked against it, however far down; `chosen` is in build order."""
    found = {name}
    for table in chosen.values():
        if needs(table) & found:
            found.add(table.name)
    return found - {name}


def span(first: str, last: str) -> str:
    """Partitions from the first to the last, for a person."""
    return first if first == last else f"{first} … {last}"


def _outcome(future: Outcome) -> tuple[Any, str]:
    """What a task gave, or the one line that says why it failed."""
    value = future.result(raise_on_failure=False)
    if isinstance(value, BaseException):
        if isinstance(value, KeyboardInterrupt):
            raise value
        return None, told(value)
    return value, ""


def told(error: BaseException) -> str:
    """An error as one line: ours say what to do, others at least what they are. No value of a row is told."""
    text = explain(error) if isinstance(error, duckdb.Error) else str(error).strip() or type(error).__name__
    return text if isinstance(error, FlowsError | ValueError) else f"{type(error).__name__}: {text}"
