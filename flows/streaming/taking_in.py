"""Event topics taken in micro-batch by micro-batch, until somebody stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing

from flows.erasure.listed import arriving
from flows.extract import SourceAway
from flows.landing import land
from flows.progress import Progress
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.stores import in_force
from flows.stores.ledger import Ledger
from flows.stores.standalone import workshop
from flows.stores.verified import LakeFull
from flows.stores.warehouse_errors import WarehouseError
from flows.streaming import rollup
from flows.streaming.consumer import StreamConsumer
from flows.streaming.dead_topics import DeadTopics
from flows.streaming.journal import Fenced, Journal
from flows.streaming.keeper import Keeper
from flows.streaming.microbatch import MicroBatch, MicroBatches
from flows.streaming.route import Route
from flows.streaming.sessions import Lifetime, keep_going
from flows.streaming.tally import Report, Tally, owner
from flows.streaming.visible import Visible
from transforms import catalog

ROLL_UP_EVERY_SECONDS = 60.0
ROLL_UP_AFTER_BATCHES = 300
"""How long, and how many, micro-batches have raw files of their own: small files stay few."""
LAND_EVERY_SECONDS = 600.0
"""How often what was rolled up is landed: 144 times a day, sooner where much comes."""
KEEP_EVERY_SECONDS = 0.5
KEEP_BEHIND_SECONDS = 5.0
"""How soon a windowed count shows what was added to it; when much is waiting it is merged less often."""
ENDS_EVERY_SECONDS = 5.0
"""How often it is noted which idle partitions have nothing to read: event time goes on by that; and how often
it is asked which models are in force. What came by old ones meanwhile the batch's comparison makes right.
"""
LOOK_EVERY_SECONDS = 5.0
"""How often it is asked whether the topics are still those that are read."""
_WAIT_SECONDS = 0.03
"""How long a micro-batch gathers messages when few come."""


def take_in(
    services: Services,
    way: Route,
    *,
    stop: threading.Event,
    until_idle: bool = False,
    seconds: float | None = None,
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> Tally:
    """Take topics in until `stop` is set, `seconds` are over, or (`until_idle`) all that is there is in.

    Where the warehouse or the broker is away, or the lake is full, it waits and goes on by itself: offsets
    are read back from the journal each time, so nothing is lost and nothing comes twice. What it does is
    counted in `tally`. Raises SourceError when a topic no longer holds what was not read yet; TwoStories when
    the warehouse that is there again is another one than the lake's; ModelsChanged when other models are in
    force by now; WarehouseError or LakeFull when it is so at the end.
    """
    tally, lifetime = tally or Tally(), Lifetime(stop, seconds)

    def session() -> bool:
        own = _Session(services, way, tally, progress or Progress("stream"))
        own.run(lambda idle: lifetime.is_over() or (until_idle and idle))
        return True

    keep_going("stream", session, lifetime, tally, (WarehouseError, SourceAway, LakeFull, Fenced), progress)
    for entity in way.entities.values():
        land(services, entity, "stream", streamed_only=True)
    return tally


class _Chore:
    """Something that is done beside the micro-batches, time and again; what fails in it ends the session."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], object], every: float) -> None:
        self._pool = pool
        self._work = work
        self._every = every
        self._begun = time.monotonic()
        self._doing: Future[object] | None = None

    def when_due(self, *, is_urgent: bool = False, every: float | None = None) -> bool:
        """Begin it if it is time (`every` so many seconds for now) and it is not being done; says whether it
        began.
        """
        if self._doing is not None and self._doing.done():
            self.finish()
        is_due = is_urgent or time.monotonic() - self._begun >= (every or self._every)
        if not is_due or self._doing is not None:
            return False
        self._begun = time.monotonic()
        self._doing = self._pool.submit(self._work)
        return True

    def finish(self) -> None:
        """Wait for it if it is being done."""
        if self._doing is not None:
            doing, self._doing = self._doing, None
            doing.result()


class _Session:
    """The stream between two interruptions: a consumer, sessions of PostgreSQL, what was seen."""

    def __init__(self, services: Services, way: Route, tally: Tally, progress: Progress) -> None:
        self._services = services
        self._route = way
        self._tally = tally
        self._progress = progress
        self._owner = owner()
        made = (*way.staging.values(), *way.facts, *way.windows)
        self._fingerprints = {table.name: catalog.fingerprint(table) for table in made}
        self._journal: Journal
        self._consumer: StreamConsumer
        self._report: Report
        self._dead_topics: DeadTopics
        self._showing: tuple[MicroBatch, Future[None]] | None = None
        self._small_files = 0
        self._landed_at = time.monotonic()
        self._ends_noted_at = -ENDS_EVERY_SECONDS

    def run(self, is_over: Callable[[bool], bool]) -> None:
        """Take in until `is_over(idle)`: one micro-batch is made ready while the last becomes visible."""
        settings = self._services.settings
        with ExitStack() as opened:
            connection = opened.enter_context(self._services.warehouse.connect())
            journal = self._journal = Journal(connection)
            if not self._joined(journal, is_over):
                return
            # The server that is there again may be another one, or the same as it was before.
            refuse_two_stories(Ledger(connection), self._services.lake)
            # From here on nobody is erased, for as long as this session lives: the list is asked for once.
            landing = {name: arriving(connection, entity) for name, entity in self._route.entities.items()}
            shops = [
                opened.enter_context(workshop(self._services.warehouse, connection, table))
                for table in (*self._route.facts, *self._route.windows)
            ]
            asking = opened.enter_context(self._services.warehouse.connect())
            batches = MicroBatches(self._services, asking, self._route, landing)
            opened.enter_context(closing(batches))
            visible = Visible(self._services.warehouse, connection, self._route, shops, batches)
            keeper = opened.enter_context(closing(Keeper(self._services, self._route)))
            self._dead_topics = opened.enter_context(DeadTopics(self._services, self._route, self._progress))
            consumer = self._consumer = StreamConsumer(
                self._route,
                journal,
                settings.require("kafka_bootstrap"),
                settings.kafka_options,
                self._owner,
                self._settle,
                batches.assigned,
            )
            opened.enter_context(closing(consumer))
            pool = opened.enter_context(ThreadPoolExecutor(max_workers=4))
            rolling_up = _Chore(pool, self._roll_up, ROLL_UP_EVERY_SECONDS)
            keeping = _Chore(pool, keeper.keep, KEEP_EVERY_SECONDS)
            looking = _Chore(pool, consumer.look, LOOK_EVERY_SECONDS)
            self._report = Report(connection, self._route, self._owner, self._tally, self._progress)
            while not is_over(consumer.is_idle and self._showing is None):
                records = consumer.read(_WAIT_SECONDS)
                batch = batches.ready(records) if records else None
                self._settle()
                self._note_ends()
                if batch is not None:
                    self._showing = batch, pool.submit(visible.show, batch)
                is_urgent = self._small_files >= ROLL_UP_AFTER_BATCHES
                if self._small_files and rolling_up.when_due(is_urgent=is_urgent):
                    self._small_files = 0
                    self._settle()  # what is forgotten is read back from PostgreSQL: it has to be there
                    batches.tidy()
                keeping.when_due(every=KEEP_BEHIND_SECONDS if consumer.is_behind else None)
                looking.when_due()
            self._settle()
            self._note_ends(is_urgent=True)
            rolling_up.finish()
            looking.finish()
            keeping.finish()
            keeper.keep()

    def _joined(self, journal: Journal, is_over: Callable[[bool], bool]) -> bool:
        """Wait until no batch reads the topics; whether that was before `is_over`."""
        told = ""
        while entity := journal.join(list(self._route.entities)):
            if is_over(False):
                return False
            if entity != told:
                told = entity
                self._progress.say("stream", f"a batch is reading {entity}: taken in when it has")
            time.sleep(_WAIT_SECONDS)
        return True

    def _settle(self) -> None:
        """Wait until the micro-batch before is visible. Raises what kept it from that. Afterwards nobody else
        uses the session of PostgreSQL.
        """
        if self._showing is None:
            self._report.when_due(self._consumer)
            return
        (batch, shown), self._showing = self._showing, None
        shown.result()
        self._consumer.tell_broker(batch.records)
        self._dead_topics.tell(batch.letters)
        since_then = time.perf_counter() - batch.stepped_at
        now, oldest = self._services.settings.machine_time(), batch.records.oldest
        self._tally.add(batch, None if oldest is None else now - since_then - oldest)
        self._small_files += 1
        self._report.when_due(self._consumer)

    def _note_ends(self, *, is_urgent: bool = False) -> None:
        """Note of idle partitions that nothing waits in them, if it is time, and look whether the models are
        still those in force; uses the session of PostgreSQL. To be called while no micro-batch is becoming
        visible.
        """
        if not is_urgent and time.monotonic() - self._ends_noted_at < ENDS_EVERY_SECONDS:
            return
        self._ends_noted_at = time.monotonic()
        in_force.refuse_others(self._journal.connection, self._fingerprints)
        asked_at, idle = self._journal.idle(self._owner)
        self._journal.ended(asked_at, self._consumer.ended(idle))

    def _roll_up(self) -> None:
        is_due = time.monotonic() - self._landed_at >= LAND_EVERY_SECONDS
        for entity in self._route.entities.values():
            with self._services.ledger() as ledger, ledger.locked("land", entity.table):
                waiting = rollup.roll_up(self._services.lake, ledger, entity)
            if is_due or waiting >= rollup.ROWS_AT_ONCE:
                land(self._services, entity, "stream", streamed_only=True)
        if is_due:
            self._landed_at = time.monotonic()
