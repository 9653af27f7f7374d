"""One build: which files are read, what is computed, how it becomes true.

The stream runs the same code over a micro-batch: what differs is only which files are read.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from duckdb import DuckDBPyConnection

from flows import evolution
from flows.build import by_key, compaction, content, mentions, superseded
from flows.build.change import Placement
from flows.build.content import REMOVED
from flows.build.copies import Copies, across
from flows.build.inputs import Inputs, News, chunks, is_fed_by_landings
from flows.build.outcome import Built, Outcome
from flows.build.states import planner_states
from flows.build.superseded import Places
from flows.planner import ASKED_FOR, WHOLE, Due, Work, plan
from flows.services import Services
from flows.stores.manifest import Commit, LakeFile
from transforms.contract import Table, Write

ROWS_AT_ONCE = 2_000_000
"""Rows of landings that a continued table reads in one go: bounds memory, not the result."""


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
        known = evolution.registry_for(ledger, table)
        now = plan(known.table(table.name), known.tables, states, fingerprint, services.settings.now())
        still_due = [item for item in now.due if asked is None or item.partition in asked]
        job = _Job(services, ledger, known, now, run_id)
        if still_due:
            job.run(still_due)
    job.built.checks = job.checks.results
    job.built.seconds = time.perf_counter() - begun
    return job.built


class _Job(Outcome):
    """The ways in which content is computed."""

    def run(self, due: Sequence[Due]) -> None:
        """Take the way that the table's `write` and the state of each partition ask for."""
        if is_fed_by_landings(self.table, self.catalog):
            self._replace([item for item in due if item.partition != WHOLE])
            self.reader.forget()
            self._consume([item for item in due if item.partition == WHOLE])
        elif self.table.by_key:
            self._follow(due)
        elif self.table.write is Write.APPEND:
            self._continue(due)
            self._build_again()
        else:
            self._replace(due)

    # ---------------------------------------------------------------------------------------- the three ways

    def _consume(self, due: Sequence[Due]) -> None:
        """Feed an append table with the landings it has not seen, a bounded number of rows at a time."""
        if not due:
            return
        if due[0].mode == "replace" and WHOLE in self.reader.overview(self.table.name):
            self._empty()
        kept = self._of_older_model()
        for name in self.table.upstreams:
            marker = self.reader.overview(self.table.name).get(WHOLE)
            since = str(marker.based_on.get(name, "")) if marker is not None else ""
            for landings in chunks(self.reader.landings_since(name, since), ROWS_AT_ONCE):
                if not self._append(name, landings, kept):
                    return
                self.reader.forget()

    def _of_older_model(self) -> set[str]:
        """The windows past their retention that another model has made: they are left as they are."""
        now = self.services.settings.now()
        return {
            window
            for window, state in self.reader.overview(self.table.name).items()
            if state.fingerprint != self.work.fingerprint and self.table.is_past_retention(window, now)
        }

    def _append(self, name: str, landings: Sequence[Commit], kept: Collection[str]) -> bool:
        """`kept`: windows that get nothing any more. False where a lock keeps it from being shown."""
        files = [file for landing in landings for file in landing.add]
        marker = self.reader.overview(self.table.name).get(WHOLE)
        consumed = {**(marker.based_on if marker else {}), name: landings[-1].token}
        with self.lake.duckdb(keeps_order=False) as connection:
            sources = content.sources(self.lake, Inputs({name: files}))
            unreadable = content.compute(self.table, connection, sources, self.registry)
            content.leave_out(connection, kept)
            near = self.reader.within_lookback(self.table, sorted(content.partitions(connection)))
            near = {window: there for window, there in near.items() if window not in kept}
            gone = superseded.drop_known(self.table, connection, self.lake, near)
            left, rewritten = self._take_away(connection, near, gone)
            based_on: dict[str, dict[str, Any]] = {
                window: {} for window in sorted({*content.partitions(connection), *left})
            }
            based_on[WHOLE] = consumed
            return self._finish(
                connection,
                based_on,
                Placement(adds=True, left=left, rewritten=rewritten),
                unreadable=unreadable,
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
            with self.lake.duckdb(keeps_order=False) as connection:
                gone = superseded.find_withdrawn(
                    self.table, connection, self.lake, withdrawn, standing, self.registry
                )
                if gone is None:
                    continued = []
                else:
                    inputs = self.reader.appended(self.table, continued)
                    sources = content.sources(self.lake, inputs)
                    content.compute(self.table, connection, sources, self.registry)
                    content.keep_only(connection, list(based_on))
                    beaten = self._settle(connection, inputs, based_on, adds=True)
                    gone = superseded.both(gone, beaten)
                    left, rewritten = self._take_away(connection, standing, gone)
                    self._finish(connection, based_on, Placement(adds=True, left=left, rewritten=rewritten))
        self._replace([item for item in due if item not in continued])

    def _settle(
        self,
        connection: DuckDBPyConnection,
        inputs: Inputs,
        based_on: Mapping[str, Mapping[str, Any]],
        *,
        adds: bool = False,
    ) -> Places:
        """Leave in `fresh` what counts of copies across the upstreams; returns the rows that no longer do, of
        the partitions that it `adds` to.

        Another partition that holds such rows is marked: this job builds it anew at its end, or any run
        should this one die.
        """
        by = across(self.table, self.catalog)
        if by is None:
            return {}
        name, now = self.table.name, self.services.settings.now()
        copies = Copies(self.table, by, connection, self.lake, self.registry)
        windows = copies.settle(self.reader, inputs)
        standing = {
            window: state
            for window, state in self.reader.states(name, windows).items()
            if (adds if window in based_on else state.fingerprint == self.work.fingerprint)
            and not self.table.is_past_retention(window, now)
        }
        gone = copies.beaten([file for state in standing.values() for file in state.files])
        beside = {file.partition for file in gone} - based_on.keys()
        self.ledger.mark([(name, window) for window in sorted(beside)], ASKED_FOR)
        self.beside |= beside
        return {file: places for file, places in gone.items() if file.partition in based_on}

    def _build_again(self) -> None:
        """Each of them once: what is built anew holds no copy that does not count."""
        done: set[str] = set()
        while waiting := sorted(self.beside - done):
            done.update(waiting)
            self.reader.forget()
            upstreams = {name: self.reader.overview(name) for name in self.table.upstreams}
            for window in waiting:
                based_on = {name: there[window].token for name, there in upstreams.items() if window in there}
                reason = "a copy from another upstream counts more"
                self._replace([Due(window, "replace", reason, based_on, 0)])
                self.reader.forget()

    def _follow(self, due: Sequence[Due]) -> None:
        """Compute the keys of what is new upstream; build windows from all they read where that is asked for,
        or where no news tell what has changed.
        """
        windows = {item.partition: replace(item, based_on={}) for item in due if item.partition != WHOLE}
        whole = [item for item in due if item.partition == WHOLE]
        if whole and whole[0].mode == "append":
            consumed = self.reader.overview(self.table.name)[WHOLE].based_on
            news = by_key.news_of(self.reader, self.lake, self.table, consumed)
            again = None if news is None else by_key.replaced_windows(self.reader, self.table, news)
            is_told = by_key.is_told(self.table, consumed, whole[0].based_on)
            if news is None or again is None or not is_told:
                is_one = self.table.partition is None and news is not None
                self._replace(whole if is_one else self._everything())
                return
            # What was consumed is noted with the last of it that is shown.
            if not self._follow_news(whole[0], news, is_all=not again):
                return
            self.reader.forget()
            there = self.reader.overview(self.table.name)
            is_built = {key for key, state in there.items() if state.fingerprint == self.work.fingerprint}
            windows = {key: item for key, item in windows.items() if key not in is_built}
            windows |= {key: Due(key, "replace", "built anew upstream", {}, 0) for key in sorted(again)}
            whole = whole if again else []
        self._replace([*whole, *windows.values()])

    def _follow_news(self, item: Due, news: Mapping[str, News], *, is_all: bool) -> bool:
        """`is_all`: nothing else has come. False where a lock keeps it from being shown."""
        standing = by_key.reached(self.reader, self.table, news)
        with self.lake.duckdb(keeps_order=False) as connection:
            followed = by_key.follow(
                self.table, connection, self.lake, self.reader, self.registry, news, standing
            )
            left, _ = superseded.without(standing, followed.gone)
            touched = {*content.partitions(connection), *content.partitions(connection, REMOVED), *left}
            based_on: dict[str, dict[str, Any]] = {window: {} for window in sorted(touched)}
            based_on[WHOLE] = dict(item.based_on)
            is_shown = self._finish(
                connection,
                based_on,
                Placement(adds=True, left=left, followed=followed),
                unreadable=followed.unreadable,
                is_all=is_all,
            )
        if not is_shown:
            return False
        compaction.compact(self.table, self.lake, self.ledger, based_on, self.run_id)
        return True

    def _everything(self) -> list[Due]:
        """All partitions, as if nothing of the table were believed."""
        states = dict(planner_states(self.ledger, [self.table.name, *self.table.upstreams]))
        own = states.get(self.table.name, {})
        states[self.table.name] = {key: replace(state, fingerprint=ASKED_FOR) for key, state in own.items()}
        now = self.services.settings.now()
        due = plan(self.table, self.catalog, states, self.work.fingerprint, now).due
        return [item if item.partition == WHOLE else replace(item, based_on={}) for item in due]

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
        windows = due if self.table.partition is None else [item for item in due if item.partition != WHOLE]
        inputs = self.reader.for_partitions(
            self.table, due if self.work.discover else windows, whole=self.work.discover
        )
        based_on = {item.partition: dict(item.based_on) for item in due}
        standing = self.reader.overview(self.table.name)
        with self.lake.duckdb(keeps_order=False) as connection:
            sources = by_key.sources(self.table, connection, self.lake, self.reader, inputs)
            if inputs.continued:
                came = {name: inputs.files[name] for name in inputs.continued}
                there = self.reader.in_force(self.table.name)
                sources |= mentions.of_all(self.table, connection, self.lake, came, there)
            unreadable = content.compute(self.table, connection, sources, self.registry)
            if self.work.discover:
                found = sorted({*content.partitions(connection), *standing} - {WHOLE})
                based_on = {window: {} for window in found} | based_on
            else:
                content.keep_only(connection, list(based_on))
                self._settle(connection, inputs, based_on)
            self._finish(connection, based_on, unreadable=unreadable)

    def _empty(self) -> None:
        """Take every partition's files away, so that a changed model starts from the first landing again; but
        of those that are past their retention: what they were made of may be gone.
        """
        kept = self._of_older_model()
        commits = [
            self._commit(state, {}, files=())
            for window, state in self.reader.states(
                self.table.name, self.reader.overview(self.table.name)
            ).items()
            if window not in kept
        ]
        self._record(commits, ())
        self.reader.forget()
