"""The stream of changes: what transactions of the application changed, shown together, within seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import duckdb

from flows import change_topics, first_read
from flows.build import guard
from flows.build.guard import CheckFailed
from flows.build.job import build_due
from flows.build.states import planner_states
from flows.cdc.pending import Cut
from flows.change_landing import FOLLOW, ChangeLanding, Feed, locked, positions_of, reading
from flows.errors import FlowsError
from flows.extract import SourceError
from flows.extract.debezium_guard import Observed
from flows.failpoints import failpoint
from flows.landing import Landing
from flows.maintenance.tidying import Tidying
from flows.progress import Progress
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.stores import in_force
from flows.stores.joint import JointLedger, joint_ledger
from flows.stores.ledger import Conflict
from flows.stores.standalone import sweep
from flows.stores.verified import LakeFull
from flows.stores.warehouse_errors import WarehouseError, readable_errors
from flows.streaming.sessions import Lifetime, keep_going
from flows.streaming.shown_live import shown_live
from flows.streaming.tally import CHANGES, Count, note_progress, owner
from transforms import catalog, registry
from transforms.contract import ContractError
from transforms.engine import explain
from transforms.entities import SourceEntity

CYCLE_SECONDS = 1.0
"""How often what came is shown, at most: each time makes files and entries of the ledger."""
_POLL_SECONDS = 0.05
LOOK_EVERY_SECONDS = 5.0
"""How often source and connector are looked at."""
RETRY_SECONDS = 60.0
"""How soon a table that could not be landed or built is tried again."""
QUIET_SECONDS = 600.0
"""How often the positions of tables without changes follow."""
_SHOW_EVERY_SECONDS = 5.0
_STAND_BY_SECONDS = 1.0
_KILLED_SECONDS = 5.0
"""How long the session of a stream that was killed may outlive it: the server looks for it every 2 s."""


@dataclass
class ChangesTally(Count):
    """What was done since the beginning. Messages are changes; `rows`, those PostgreSQL wrote or removed."""

    def line(self, rate: float, waiting: int) -> str:
        """One line for people; `rate` is in changes per second."""
        median, worst = self.latency()
        return (
            f"{rate:,.0f} changes/s, shown after {median * 1000:,.0f} ms (p99 {worst * 1000:,.0f} ms); "
            f"{self.messages:,} changes, {self.rows:,} rows, {self.dead_letters:,} dead letters; "
            f"{waiting:,} changes wait"
        )


def follow(
    services: Services,
    entities: Sequence[SourceEntity],
    *,
    stop: threading.Event,
    until_idle: bool = False,
    seconds: float | None = None,
    progress: Progress | None = None,
    tally: ChangesTally | None = None,
    without: Collection[str] = (),
) -> ChangesTally:
    """Show changes of these tables until `stop` is set, `seconds` are over, or (`until_idle`) all that is
    there is shown.

    One process follows a connector; others stand by. Where the warehouse, the broker or the connector is
    away, or the lake is full, it waits and goes on by itself, from the ledger's positions. What it does is
    counted in `tally`. `without`: tables that PostgreSQL does not have as their models say; they, and what
    needs them, are the batch's. Raises TwoStories when the warehouse that is there again is another one than
    the lake's, ModelsChanged when other models have come into force.
    """
    tally, lifetime = tally or ChangesTally(), Lifetime(stop, seconds)
    told = progress or Progress("changes")

    def session() -> bool:
        return _Session(services, entities, tally, told, without).run(lifetime.is_over, until_idle=until_idle)

    # What a topic of one table can't go on with, the next session leaves out and names.
    keep_going("changes", session, lifetime, tally, (WarehouseError, SourceError, LakeFull, Conflict), told)
    return tally


class _Session:
    """Following between two interruptions: the ledger's positions are read once, at its beginning."""

    def __init__(
        self,
        services: Services,
        entities: Sequence[SourceEntity],
        tally: ChangesTally,
        progress: Progress,
        without: Collection[str],
    ) -> None:
        self._services = services
        self._without = frozenset(without)
        self._entities = list(entities)
        self._tally = tally
        self._progress = progress
        self._live = shown_live(entities)
        self._needs = {table.name: guard.needs(table) for table in self._live}
        self._fingerprints = {table.name: catalog.fingerprint(table) for table in self._live}
        self._observed: Observed | None = None
        self._looked_at = 0.0
        self._failed: dict[str, float] = {}
        """Table → when it could not be built, or shown."""
        self._completed_at = -RETRY_SECONDS
        self._owner = owner(CHANGES)
        followed = [registry.table(entity.table) for entity in entities]
        self._tidying = Tidying(services, [*followed, *self._live], self._owner)
        self._cycled_at = 0.0
        self._quiet_at = time.monotonic() - QUIET_SECONDS
        self._told_at = time.monotonic()
        self._told_changes = tally.messages

    def run(self, is_over: Callable[[], bool], *, until_idle: bool) -> bool:
        """Follow until it is over; True when (`until_idle`) all was shown. False also means: begin anew."""
        with joint_ledger(self._services.warehouse) as ledger:
            prefix = self._services.settings.cdc_prefix
            begun = time.monotonic()
            while not ledger.is_ours(FOLLOW, prefix):
                if is_over() or (until_idle and time.monotonic() - begun > _KILLED_SECONDS):
                    return True
                time.sleep(_STAND_BY_SECONDS)
            # The server that is there again may be another one, or the same as it was before.
            refuse_two_stories(ledger, self._services.lake)
            sweep(ledger.making)
            unread = self._read_first(ledger, is_over)
            with ExitStack() as opened:
                followed = [entity for entity in self._entities if entity.table not in unread]
                with locked(ledger, followed):
                    feed, self._observed = opened.enter_context(reading(self._services, ledger, followed))
                feed.failed.update(unread)
                self._looked_at = begun = time.monotonic()
                for error in feed.failed.values():
                    self._progress.say("changes", str(error))
                while not is_over():
                    if feed.failed and time.monotonic() - begun > RETRY_SECONDS:
                        return False
                    self._look_again(ledger, feed)
                    feed.poll(_POLL_SECONDS)
                    is_due = time.monotonic() - self._cycled_at >= CYCLE_SECONDS
                    cut = feed.cut() if is_due else None
                    if cut is not None:
                        self._cycled_at = time.monotonic()
                        self._cycle(ledger, feed, cut)
                    if is_due:
                        self._let_quiet_follow(ledger, feed)
                    if is_due and cut is None and self._complete(ledger):
                        self._cycled_at = time.monotonic()
                    elif is_due and cut is None:
                        if until_idle and feed.is_read and not feed.waiting:
                            return True
                        self._tidying.step(ledger)
                    self._tell(ledger, feed)
        return False

    def _read_first(self, ledger: JointLedger, is_over: Callable[[], bool]) -> dict[str, SourceError]:
        """Land what the connector reads for the first time; raw table → why it can't be followed now."""
        run_id = f"first-{self._services.settings.now():%Y%m%dT%H%M%S}"
        landed = first_read.land_within(
            self._services, ledger, self._entities, run_id, self._progress, is_over
        )
        if any(isinstance(one, Landing) for one in landed.outcomes.values()):
            with self._shown_jointly(ledger, ()):
                self._build(ledger, run_id)
            ledger.opened.close()
        return {name: one for name, one in landed.outcomes.items() if isinstance(one, SourceError)}

    def _complete(self, ledger: JointLedger) -> bool:
        """Try again to show what somebody's lock kept from being seen, though nothing comes that would bring
        it along; whether anything was.
        """
        now = time.monotonic()
        if now - self._completed_at < RETRY_SECONDS:
            return False
        self._completed_at = now
        names = [table.name for table in self._live]
        waiting = "SELECT FROM ops.pending_publish WHERE table_name = ANY(%s) LIMIT 1"
        if ledger.connection.execute(waiting, (names,)).fetchone() is None:
            return False
        with self._shown_jointly(ledger, ()):
            self._tally.rows += self._build(ledger, f"changes-{self._services.settings.now():%Y%m%dT%H%M%S}")
        ledger.opened.close()
        return True

    @contextmanager
    def _shown_jointly(self, ledger: JointLedger, changed: Iterable[SourceEntity]) -> Iterator[None]:
        """The locks of all that is to be changed, in one order, and one transaction."""
        with ExitStack() as locks:
            locks.enter_context(locked(ledger, changed))
            for purpose in ("build", "publish"):
                for table in self._live:
                    locks.enter_context(ledger.locked(purpose, table.name))
            with ledger.jointly():
                yield

    def _look_again(self, ledger: JointLedger, feed: Feed) -> None:
        """Before reading: what is remembered of the source must not be newer than what is landed."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_SECONDS:
            return
        positions = positions_of(ledger, feed.entities)
        self._observed, halted = change_topics.look(self._services.settings, positions)
        for entity in feed.entities:
            if error := halted.get(entity.table):
                feed.leave_out(entity, error)
                self._progress.say("changes", str(error))
        self._looked_at = time.monotonic()

    def _cycle(self, ledger: JointLedger, feed: Feed, cut: Cut) -> None:
        """Whole transactions of the application, from their records to where people see them. In this order;
        a crash before 5 leaves nothing that anybody trusts, and the same records are read again:

        1. The locks of all that is to be changed, in one order, so that a batch and a stream never wait for
           each other.
        2. A transaction begins. Each table's records land: raw file, position, dead letters.
        3. What is due of staging, dimensions and facts is built and checked, as in the batch.
        4. Their differences are copied into tables that nobody sees, and merged.
        5. The commit: all of it is seen, and was never seen in part.
        6. The manifest lines; the tables of 4 go.
        """
        changed = [entity for entity in feed.entities if feed.topic(entity) in cut.after]
        run_id = f"changes-{self._services.settings.now():%Y%m%dT%H%M%S}"
        landing = ChangeLanding(self._services, feed, ledger, run_id)
        with self._shown_jointly(ledger, changed):
            landing.enter(cut, self._observed)
            failpoint("changes.landed")
            rows = self._build(ledger, run_id)
        ledger.opened.close()
        landing.done(cut)
        self._tidying.note([*(entity.table for entity in changed), *(table.name for table in self._live)])
        tally = self._tally
        tally.batches += 1
        tally.messages += cut.rows
        tally.rows += rows
        tally.dead_letters += sum(
            outcome.dead_letters
            for outcome in landing.landed.outcomes.values()
            if outcome is not None and not isinstance(outcome, Exception)
        )
        tally.bytes += cut.bytes
        now, oldest = self._services.settings.machine_time(), cut.oldest
        tally.took(None if oldest is None else now - oldest)
        self._say(landing)
        for one in cut.incomplete:
            self._progress.say("changes", f"transaction {one.transaction} did not arrive whole: {one.reason}")

    def _let_quiet_follow(self, ledger: JointLedger, feed: Feed) -> None:
        """The positions of tables without changes follow: what they remember of the source must not grow old,
        nor where the others stand.
        """
        since = time.monotonic() - self._quiet_at
        if since < QUIET_SECONDS or not (feed.is_read or since > 2 * QUIET_SECONDS):
            return
        self._quiet_at = time.monotonic()
        quiet, run_id = feed.quiet(), f"quiet-{self._services.settings.now():%Y%m%dT%H%M%S}"
        landing = ChangeLanding(self._services, feed, ledger, run_id)
        with self._shown_jointly(ledger, quiet):
            landing.move_on(self._observed, quiet)
            if any(isinstance(one, Landing) and one.rows for one in landing.landed.outcomes.values()):
                self._build(ledger, run_id)
        ledger.opened.close()
        self._say(landing)

    def _say(self, landing: ChangeLanding) -> None:
        """What kept tables from landing, and what is told of the others."""
        for name, outcome in landing.landed.outcomes.items():
            if isinstance(outcome, Exception):
                self._progress.say("changes", str(outcome))
            elif outcome is not None:
                for warning in outcome.warnings:
                    self._progress.say("changes", f"{name}: {warning}")

    def _build(self, ledger: JointLedger, run_id: str) -> int:
        """Steps 3 and 4; returns the rows that PostgreSQL wrote. What can't be built, or shown because a lock
        is in the way, stays as it was, and so does what needs it, until RETRY_SECONDS later.
        """
        in_force.refuse_others(ledger.connection, self._fingerprints)
        services = self._services.within(ledger)
        now, rows, left = time.monotonic(), 0, set(self._without)
        standing = planner_states(ledger, [table.name for table in self._live])
        for table in self._live:
            is_waiting = now - self._failed.get(table.name, -RETRY_SECONDS) < RETRY_SECONDS
            is_new = table.is_published and not standing.get(table.name)
            if table.name in left or is_waiting or is_new or left & self._needs[table.name]:
                left.add(table.name)
                continue
            try:
                with readable_errors(), ledger.connection.transaction():
                    built = build_due(services, table, self._fingerprints[table.name], run_id)
            except (Conflict, LakeFull):
                raise
            except (FlowsError, ContractError, duckdb.OperationalError) as error:
                if ledger.connection.closed or ledger.making.closed:
                    raise
                if isinstance(error, CheckFailed):
                    guard.record(ledger.connection, run_id, error.results, services.settings.now())
                self._failed[table.name] = now
                left.add(table.name)
                said = explain(error) if isinstance(error, duckdb.Error) else str(error)
                said = said.removeprefix(f"{table.name}: ")
                self._progress.say("changes", f"{table.name}: {said}")
                continue
            rows += built.rows_written
            if built.is_pending:
                self._failed[table.name] = self._completed_at = now
                left.add(table.name)
            for publication in built.publications:
                if publication.is_pending:
                    self._progress.say("changes", publication.message())
        return rows

    def _tell(self, ledger: JointLedger, feed: Feed) -> None:
        since, tally = time.monotonic() - self._told_at, self._tally
        if since < _SHOW_EVERY_SECONDS:
            return
        rate = (tally.messages - self._told_changes) / since
        self._told_at, self._told_changes, tally.lag = time.monotonic(), tally.messages, feed.waiting
        self._progress.say("changes", tally.line(rate, feed.waiting))
        median, worst = tally.latency()
        note_progress(
            ledger.connection,
            self._owner,
            messages_per_second=rate,
            lag=feed.waiting,
            median_seconds=median,
            worst_seconds=worst,
            messages=tally.messages,
            row_count=tally.rows,
            copies=0,
            dead_letters=tally.dead_letters,
            open_windows=0,
        )
