"""One build: which files are read, what is computed, how it becomes true.

The stream runs the same code over a micro-batch: what differs is only which files are read.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from duckdb import DuckDBPyConnection

from flows.build import content, superseded
from flows.build.as_of import differs_from
from flows.build.change import Change, batch_id, build_commit
from flows.build.checks import Checks
from flows.build.content import Unreadable
from flows.build.inputs import Inputs, Reader, chunks, is_fed_by_landings
from flows.build.states import planner_states
from flows.build.superseded import Places
from flows.deadletters import enter_unreadable
from flows.failpoints import failpoint
from flows.planner import REPLAYED, WHOLE, Due, Work, plan
from flows.services import Services
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.manifest import Commit, LakeFile
from flows.stores.publication import Publication
from flows.stores.publish import publish
from flows.streaming.beside import not_built_yet
from quality import CheckResult
from transforms import engine, registry
from transforms.contract import Table, Write
from warehouse_ddl.files import views

ROWS_AT_ONCE = 2_000_000
"""Rows of landings that a continued table reads in one go: bounds memory, not the result."""
_NOTHING: Mapping[str, Sequence[LakeFile]] = {}


@dataclass
class Built:
    """What one build did. `rows` counts the rows that were computed for partitions whose content changed."""

    table: str
    partitions: list[str] = field(default_factory=list)
    unchanged: int = 0
    rows: int = 0
    dead_letters: int = 0
    checks: list[CheckResult] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rows_written(self) -> int:
        """Rows that PostgreSQL wrote or removed."""
        return sum(publication.rows_written for publication in self.publications)


def build(services: Services, work: Work, due: Sequence[Due], run_id: str) -> Built:
    """Build these partitions of one table, and publish them when it is a published one.

    Safe to repeat and to run twice at once: under the table's lock the plan is made again, so what another
    run has built meanwhile is not built twice. Raises CheckFailed (the content is in quarantine, what was
    published is untouched), DamagedFile, ModelError, ContentError, Conflict.
    """
    return build_due(services, work.table, work.fingerprint, run_id, {item.partition for item in due})


def build_due(
    services: Services, table: Table, fingerprint: str, run_id: str, asked: Collection[str] | None = None
) -> Built:
    """The same for whatever is due of a table; `asked`: of these partitions alone."""
    begun = time.perf_counter()
    with services.ledger() as ledger, ledger.locked("build", table.name):
        states = planner_states(ledger, [table.name, *table.upstreams])
        now = plan(table, registry.tables(), states, fingerprint, services.settings.now())
        still_due = [item for item in now.due if asked is None or item.partition in asked]
        job = _Job(services, ledger, now, run_id)
        if still_due:
            job.run(still_due)
    job.built.checks = job.checks.results
    job.built.seconds = time.perf_counter() - begun
    return job.built


class _Job:
    """One build: its connections, and what was done so far."""

    def __init__(self, services: Services, ledger: Ledger, work: Work, run_id: str) -> None:
        self.services = services
        self.ledger = ledger
        self.lake = services.lake
        self.work = work
        self.table = work.table
        self.run_id = run_id
        self.catalog = registry.tables()
        self.reader = Reader(ledger, self.catalog)
        self.built = Built(work.table.name)
        self.checks = Checks(services, ledger, work.table, self.reader, run_id)

    def run(self, due: Sequence[Due]) -> None:
        """Take the way that the table's `write` and the state of each partition ask for."""
        if is_fed_by_landings(self.table, self.catalog):
            self._replace([item for item in due if item.partition != WHOLE])
            self.reader.forget()
            self._consume([item for item in due if item.partition == WHOLE])
        elif self.table.write is Write.APPEND:
            self._continue(due)
        else:
            self._replace(due)

    # ------------------------------------------------------------------------------------------ the three
    # ways

    def _consume(self, due: Sequence[Due]) -> None:
        """Feed an append table with the landings it has not seen, a bounded number of rows at a time."""
        if not due:
            return
        if due[0].mode == "replace" and WHOLE in self.reader.overview(self.table.name):
            self._empty()
        for name in self.table.upstreams:
            marker = self.reader.overview(self.table.name).get(WHOLE)
            since = str(marker.based_on.get(name, "")) if marker is not None else ""
            for landings in chunks(self.reader.landings_since(name, since), ROWS_AT_ONCE):
                self._append(name, landings)
                self.reader.forget()

    def _append(self, name: str, landings: Sequence[Commit]) -> None:
        files = [file for landing in landings for file in landing.add]
        marker = self.reader.overview(self.table.name).get(WHOLE)
        consumed = {**(marker.based_on if marker else {}), name: landings[-1].token}
        with self._connection() as connection:
            unreadable = content.compute(self.table, connection, self.lake, Inputs({name: files}))
            near = self.reader.within_lookback(self.table, sorted(content.partitions(connection)))
            gone = superseded.drop_known(self.table, connection, self.lake, near)
            left, rewritten = self._take_away(connection, near, gone)
            based_on: dict[str, dict[str, Any]] = {
                window: {} for window in sorted({*content.partitions(connection), *left})
            }
            based_on[WHOLE] = consumed
            self._finish(
                connection, based_on, adds=True, left=left, rewritten=rewritten, unreadable=unreadable
            )

    def _continue(self, due: Sequence[Due]) -> None:
        """Add what came upstream since each partition was built, and take away what was made of rows that no
        longer count there; build anew where something was replaced.
        """
        continued = [item for item in due if self.reader.can_continue(self.table, item)]
        if continued:
            based_on = {item.partition: dict(item.based_on) for item in continued}
            standing = {
                window: state.files for window, state in self.reader.states(self.table.name, based_on).items()
            }
            withdrawn = self.reader.withdrawn(self.table, continued)
            with self._connection() as connection:
                gone = superseded.find_withdrawn(self.table, connection, self.lake, withdrawn, standing)
                if gone is None:
                    continued = []
                else:
                    inputs = self.reader.appended(self.table, continued)
                    content.compute(self.table, connection, self.lake, inputs)
                    content.keep_only(connection, list(based_on))
                    left, rewritten = self._take_away(connection, standing, gone)
                    self._finish(connection, based_on, adds=True, left=left, rewritten=rewritten)
        self._replace([item for item in due if item not in continued])

    def _take_away(
        self, connection: DuckDBPyConnection, standing: Mapping[str, Sequence[LakeFile]], gone: Places
    ) -> tuple[dict[str, list[LakeFile]], set[str]]:
        """The files of the partitions that lose these rows, as they are then; and those partitions among them
        whose rows were added to `fresh` because they are written anew.
        """
        left, crowded = superseded.without(standing, gone)
        for window in sorted(crowded):
            content.take_back_standing(self.table, connection, self.lake, window, left[window])
        return left, crowded

    def _replace(self, due: Sequence[Due]) -> None:
        """Compute the partitions from all they read and put them in the place of what stands."""
        if not due:
            return
        inputs = self.reader.for_partitions(self.table, due, whole=self.work.discover)
        based_on = {item.partition: dict(item.based_on) for item in due}
        standing = self.reader.overview(self.table.name)
        with self._connection() as connection:
            unreadable = content.compute(self.table, connection, self.lake, inputs)
            if inputs.continued and WHOLE in standing:
                whole = self.reader.in_force(self.table.name, [WHOLE])
                content.keep_rows_not_given_again(self.table, connection, self.lake, whole)
            if self.work.discover:
                windows = sorted({*content.partitions(connection), *standing} - {WHOLE})
                based_on = {window: {} for window in windows} | based_on
            else:
                content.keep_only(connection, list(based_on))
            self._finish(connection, based_on, unreadable=unreadable)

    def _empty(self) -> None:
        """Take every partition's files away, so that a changed model starts from the first landing again."""
        commits = [
            self._commit(state, {}, files=())
            for state in self.reader.states(self.table.name, self.reader.overview(self.table.name)).values()
        ]
        self._record(commits, ())
        self.reader.forget()

    # ------------------------------------------------------------------------------------------ becoming true

    def _finish(
        self,
        connection: DuckDBPyConnection,
        based_on: Mapping[str, Mapping[str, Any]],
        *,
        adds: bool = False,
        left: Mapping[str, Sequence[LakeFile]] = _NOTHING,
        rewritten: Collection[str] = (),
        unreadable: Sequence[Unreadable] = (),
    ) -> None:
        """Check `fresh`, write it partition by partition, and make it true.

        `adds`: the rows join what stands, or what is `left` of it (but in `rewritten` partitions); otherwise
        they take its place. The entry of a partitioned table at '' holds no rows: it notes what was consumed.
        """
        windows = [window for window in based_on if window != WHOLE or self.table.partition is None]
        standing = self.reader.states(self.table.name, based_on)
        joined = {
            window: tuple(left.get(window, standing[window].files))
            for window in windows
            if adds and window not in rewritten and window in standing
        }
        self.checks.gate(connection, windows, [file for files in joined.values() for file in files])
        given = content.partitions(connection)
        changed: list[Change] = []
        restored: list[PartitionState] = []
        commits: list[tuple[Commit, PartitionState]] = []
        for window in windows:
            state = standing.get(window, PartitionState(self.table.name, window))
            is_added = adds and window not in rewritten
            if is_added and window not in given:
                if window in left:
                    changed.append(Change(state, joined[window], None, True))
                else:
                    commits.append(self._commit(state, based_on[window]))
                continue
            file = content.write(
                self.table, connection, self.lake, window, batch_id(self.work, state, based_on)
            )
            failpoint("build.written")
            is_suspect = state.fingerprint == REPLAYED
            if (
                not is_added
                and state.version
                and content.is_same(connection, self.lake, state.files, file, is_suspect=is_suspect)
            ):
                self.lake.discard(file)
                if is_suspect and state.published_at is not None:
                    restored.append(state)
                else:
                    commits.append(self._commit(state, based_on[window]))
            else:
                control = differs_from(connection, self.lake, self.table, state.files, [file])
                files = (*joined.get(window, ()), file)
                changed.append(Change(state, files, file, is_added, control))
        self.built.partitions += [change.state.partition for change in changed]
        self.built.unchanged += len(windows) - len(changed)
        self.built.rows += sum(change.file.rows for change in changed if change.file is not None)
        self.built.dead_letters += len(unreadable)
        if WHOLE in based_on and self.table.partition is not None:
            marker = standing.get(WHOLE, PartitionState(self.table.name, WHOLE))
            commits.append(self._commit(marker, based_on[WHOLE]))
        if self.table.is_published:
            self._publish(changed, restored, based_on)
        else:
            commits += [
                self._commit(change.state, based_on[change.state.partition], files=change.files)
                for change in changed
            ]
        self._record(commits, unreadable)

    def _publish(
        self,
        changed: Sequence[Change],
        restored: Sequence[PartitionState],
        based_on: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """`restored`: what the lake holds is right, and PostgreSQL is made to hold it."""
        shown = [*changed, *(Change(state, state.files) for state in restored)]
        if not shown:
            return
        built = [change.to_publish(self.work, based_on[change.state.partition]) for change in shown]
        owed = [view.name for view in views() if self.table.name in view.upstreams]
        publication = publish(
            self.table,
            built,
            warehouse=self.services.warehouse,
            lake=self.lake,
            run_id=self.run_id,
            audit=self.checks.audit,
            views=owed,
            streamed=partial(not_built_yet, self.services, self.table),
            joint=self.services.joint,
        )
        self.built.publications.append(publication)
        self.built.partitions += sorted(set(publication.repaired) - set(self.built.partitions))

    def _record(
        self, commits: Sequence[tuple[Commit, PartitionState]], unreadable: Sequence[Unreadable]
    ) -> None:
        """Commit to the lake what PostgreSQL does not serve, its dead letters and the results of its
        checks.
        """
        connection = self.ledger.connection
        with connection.transaction():
            for commit, state in commits:
                self.ledger.commit(commit, version=state.version, published=state.published_at is not None)
            if unreadable:
                enter_unreadable(
                    connection, self.ledger, self.lake, self.table, unreadable, self.services.settings.now()
                )
            self.checks.record(connection)
            failpoint("build.before_commit")
        failpoint("build.committed")
        self.ledger.finish(self.lake, [commit for commit, _ in commits])

    def _commit(
        self, state: PartitionState, based_on: Mapping[str, Any], files: Sequence[LakeFile] | None = None
    ) -> tuple[Commit, PartitionState]:
        return build_commit(self.work, state, based_on, self.run_id, files)

    @contextmanager
    def _connection(self) -> Iterator[DuckDBPyConnection]:
        """DuckDB for one computation: bounded memory, spilling below the lake's root."""
        connection = engine.connect(memory_limit=self.services.settings.memory_limit)
        spill = self.lake.root / ".spill"
        connection.execute(f"set temp_directory = {engine.text_literal(str(spill))}")
        try:
            yield connection
        finally:
            connection.close()
