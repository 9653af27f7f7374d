"""How the content of one build becomes true: checked, written, published, entered in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from duckdb import DuckDBPyConnection

from flows.build import content
from flows.build.as_of import differs_from
from flows.build.change import REPLACES, Change, Placement, Written, batch_id, build_commit
from flows.build.checks import Checks
from flows.build.content import REMOVED, Unreadable
from flows.build.inputs import Reader
from flows.deadletters import enter_unreadable
from flows.failpoints import failpoint
from flows.planner import REPLAYED, WHOLE, Work
from flows.services import Services
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.locks import forget
from flows.stores.manifest import Commit, LakeFile
from flows.stores.publication import Publication
from flows.stores.publish import publish
from flows.streaming.beside import not_built_yet
from quality import CheckResult
from transforms.registry import Registry
from warehouse_ddl.files import views


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

    @property
    def is_pending(self) -> bool:
        """Whether somebody's lock keeps some of it from being seen: what needs the table must wait."""
        return any(publication.is_pending for publication in self.publications)


class Outcome:
    """One build: its connections, and what was done so far."""

    def __init__(self, services: Services, ledger: Ledger, known: Registry, work: Work, run_id: str) -> None:
        self.services = services
        self.ledger = ledger
        self.lake = services.lake
        self.work = work
        self.table = work.table
        self.run_id = run_id
        self.registry = known
        self.catalog = known.tables
        self.reader = Reader(ledger, self.catalog)
        self.built = Built(work.table.name)
        self.checks = Checks(services, ledger, work.table, self.reader, run_id)
        self.beside: set[str] = set()
        """Partitions that were not due and hold a copy which no longer counts."""

    def _finish(
        self,
        connection: DuckDBPyConnection,
        based_on: Mapping[str, Mapping[str, Any]],
        placement: Placement = REPLACES,
        *,
        unreadable: Sequence[Unreadable] = (),
        is_all: bool = True,
    ) -> bool:
        """Check `fresh`, write it partition by partition, and make it true; whether it is, False where a lock
        keeps it from being shown.

        The entry of a partitioned table at '' holds no rows: it notes what was consumed, and does so once all
        of that is shown. So it stays as it was, and the next run does the same again, where something is
        pending, and where this is not all (`is_all`).
        """
        windows = [window for window in based_on if window != WHOLE or self.table.partition is None]
        standing = self.reader.states(self.table.name, based_on)
        states = [standing.get(window, PartitionState(self.table.name, window)) for window in windows]
        stays = [file for state in states for file in placement.stays(state)]
        self.checks.gate(connection, windows, stays, follows=placement.followed is not None)
        written = self._write(connection, states, based_on, placement)
        self.built.unchanged += len(windows) - len(written.changed)
        publication = self._publish(written, based_on) if self.table.is_published else None
        if publication is not None and publication.is_pending:
            self._record(written.noted, ())
            return False
        self._count(written.changed, publication, unreadable)
        commits = list(written.noted)
        if WHOLE in based_on and self.table.partition is not None and is_all:
            marker = standing.get(WHOLE, PartitionState(self.table.name, WHOLE))
            commits.append(self._commit(marker, based_on[WHOLE]))
        if not self.table.is_published:
            commits += [
                change.to_commit(self.work, based_on[change.state.partition], self.run_id)
                for change in written.changed
            ]
        self._record(commits, unreadable)
        return True

    def _write(
        self,
        connection: DuckDBPyConnection,
        states: Sequence[PartitionState],
        based_on: Mapping[str, Mapping[str, Any]],
        placement: Placement,
    ) -> Written:
        """Write what `fresh` has of these partitions, and see which of them become another."""
        followed = placement.followed
        removed = content.partitions(connection, REMOVED) if followed is not None else {}
        given = content.partitions(connection).keys() | removed.keys()
        written = Written()
        for state in states:
            window = state.partition
            is_added = placement.joins(window)
            if is_added and window not in given:
                if window in placement.left:
                    written.changed.append(placement.change(state, None, {}))
                else:
                    written.noted.append(self._commit(state, based_on[window]))
                continue
            name = batch_id(self.work, state, based_on)
            file = content.write(self.table, connection, self.lake, window, name, removed.get(window, 0))
            failpoint("build.written")
            is_suspect = state.fingerprint == REPLAYED
            if (
                not is_added
                and state.version
                and content.is_same(connection, self.lake, state.files, file, is_suspect=is_suspect)
            ):
                self.lake.discard(file)
                if self._is_to_be_shown(state):
                    written.restored.append(state)
                else:
                    written.noted.append(self._commit(state, based_on[window]))
            else:
                noted = self._noted(connection, state.files, file) if followed is None else {}
                written.changed.append(placement.change(state, file, noted))
        return written

    def _count(
        self,
        changed: Sequence[Change],
        publication: Publication | None,
        unreadable: Sequence[Unreadable],
    ) -> None:
        """Add to what the build did."""
        self.built.partitions += [change.state.partition for change in changed]
        if publication is not None:
            self.built.partitions += sorted(set(publication.repaired) - set(self.built.partitions))
        self.built.rows += sum(change.file.rows for change in changed if change.file is not None)
        self.built.dead_letters += len(unreadable)

    def _is_to_be_shown(self, state: PartitionState) -> bool:
        """Whether PostgreSQL is made to hold a content that stands and is right: because what it holds is not
        believed, or because it holds nothing of it.

        That is so of a leaf which the retention dropped, and which a longer one has back; of one that is past
        it still nobody is to see anything. A state without files has no row to show.
        """
        if state.published_at is not None:
            return state.fingerprint == REPLAYED
        is_past = self.table.is_past_retention(state.partition, self.services.settings.now())
        return self.table.is_published and bool(state.files) and not is_past

    def _noted(
        self, connection: DuckDBPyConnection, standing: Sequence[LakeFile], file: LakeFile
    ) -> Mapping[str, Any]:
        """What the commit of a content that was computed whole says beside it; nothing where all is new."""
        if not self.table.is_history or not standing or not file.rows:
            return {}
        before, after = self.lake.scan(standing), self.lake.scan([file])
        return differs_from(connection, self.table, before, after)

    def _publish(self, written: Written, based_on: Mapping[str, Mapping[str, Any]]) -> Publication | None:
        restored = [Change(state, state.files, is_restored=True) for state in written.restored]
        shown = [*written.changed, *restored]
        if not shown:
            return None
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
        return publication

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
            if self.table.is_published:
                partitions = [commit.partition for commit, _ in commits]
                has_marker = WHOLE in partitions and self.table.partition is not None
                consumed_by = self.work.fingerprint if has_marker else None
                forget(connection, self.table.name, partitions, consumed_by)
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
