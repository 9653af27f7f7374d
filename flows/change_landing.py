"""Landing of tables that are read by their changes: what one transaction changed lands at one moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from flows import change_topics, incomplete, schema_changes
from flows.cdc.feed import ChangeFeed
from flows.cdc.kept_feed import KeptFeed
from flows.cdc.pending import STALL_SECONDS, Cut
from flows.change_topics import Told
from flows.extract import Incomplete, SchemaChanged, SourceError, cdc
from flows.extract.debezium_guard import REMEMBERED, Observed
from flows.landed import ROWS_PER_FILE
from flows.landing import EntityLanding, Landing
from flows.services import Services
from flows.stores.joint import JointLedger, joint_ledger
from flows.stores.lake import SPILL
from flows.stores.ledger import Ledger
from transforms import engine
from transforms.entities import SourceEntity

FOLLOW = "follow"
"""Purpose of the lock, by connector, of the stream that lands changes: while it does, nobody else does."""
ROWS_AT_ONCE = 1_000_000
"""Records that land in one transaction, unless one of the application is larger: bounds memory and disk."""
BYTES_AT_ONCE = 96 << 20
"""The same of their size."""
_FIRST_BYTES = 16 << 20
"""The least of them that land while the rest is still being read…"""
_FIRST_SHARE = 4
"""…or of what has landed of it, this part: few portions where there is much, little left where there is
little."""
_POLL_SECONDS = 0.05
_GIVE_UP_SECONDS = STALL_SECONDS + 20.0
"""How long nothing may come of what the topics held at the beginning."""

Feed = ChangeFeed | KeptFeed
Outcome = Landing | SourceError | None
"""What became of one table: None when there was nothing new."""


@dataclass
class ChangesLanded:
    """What became of each table, by its raw table, and the transactions that are not known to be whole."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    incomplete: list[Incomplete] = field(default_factory=list)

    def of(self, entity: SourceEntity) -> Landing | None:
        """What became of one table; raises what kept it from landing."""
        outcome = self.outcomes.get(entity.table)
        if isinstance(outcome, SourceError):
            raise outcome
        return outcome

    def failures(self) -> dict[str, str]:
        """Why tables could not be landed."""
        return {name: str(one) for name, one in self.outcomes.items() if isinstance(one, SourceError)}

    def add(self, table: str, outcome: Outcome) -> None:
        """Note another landing of a table."""
        before = self.outcomes.get(table)
        if isinstance(before, Landing) and isinstance(outcome, Landing):
            windows = dict(before.windows or {})
            for window, rows in (outcome.windows or {}).items():
                windows[window] = windows.get(window, 0) + rows
            outcome = replace(
                outcome,
                files=before.files + outcome.files,
                rows=before.rows + outcome.rows,
                windows=windows,
                dead_letters=before.dead_letters + outcome.dead_letters,
                warnings=before.warnings + outcome.warnings,
            )
        self.outcomes[table] = outcome if outcome is not None else before


def land_changes(
    services: Services,
    entities: Iterable[SourceEntity],
    run_id: str,
    *,
    is_watched: bool = True,
    rows_per_file: int = ROWS_PER_FILE,
    rows_at_once: int = ROWS_AT_ONCE,
) -> ChangesLanded:
    """Land what the change topics of these tables hold now, cut where transactions end.

    While a stream follows the changes it lands them, and nobody else does: then there is nothing to tell.
    `is_watched`: a connector of ours fills the topics, so source and connector are looked at first. What
    fails for one table is in its outcome, and the others land. Raises SourceAway when nothing can be read.
    """
    wanted = sorted(entities, key=lambda entity: entity.table)
    with joint_ledger(services.warehouse) as ledger:
        if ledger.is_held(FOLLOW, services.settings.cdc_prefix):
            return ChangesLanded()
        with (
            locked(ledger, wanted),
            reading(services, ledger, wanted, is_watched=is_watched) as (
                feed,
                observed,
            ),
        ):
            landing = ChangeLanding(services, feed, ledger, run_id, rows_per_file)
            landing.landed.outcomes.update(feed.failed)
            _land_all(landing, feed, observed, rows_at_once)
            return landing.landed


def land_first(
    services: Services,
    ledger: JointLedger,
    entities: Iterable[SourceEntity],
    run_id: str,
    is_read: Callable[[ChangeFeed], bool],
) -> ChangesLanded:
    """Land tables while their connector reads them for the first time. Half of one is never there: all of it
    is one transaction.

    `is_read` is asked again and again whether all is in the topics; what it raises ends this, and nothing is
    landed. So does what fails for one table: raises FirstReadFailed, since its portions are among those of
    the others. Raises SourceAway when nothing can be read.
    """
    wanted = sorted(entities, key=lambda entity: entity.table)
    with locked(ledger, wanted), reading(services, ledger, wanted) as (feed, observed):
        assert isinstance(feed, ChangeFeed), "without a broker nobody reads beside"
        landing = ChangeLanding(services, feed, ledger, run_id, is_first=True)
        landing.landed.outcomes.update(feed.failed)
        with ledger.jointly():
            _land_beside(landing, feed, observed, is_read)
            feed.look_again()
            _land_all(landing, feed, observed, ROWS_AT_ONCE)
        return landing.landed


def _land_beside(
    landing: ChangeLanding, feed: ChangeFeed, observed: Observed | None, is_read: Callable[[ChangeFeed], bool]
) -> None:
    """Land portions of what is told until all of it is."""
    landed = 0
    while not is_read(feed):
        feed.poll(_POLL_SECONDS)
        wanted = min(BYTES_AT_ONCE, max(_FIRST_BYTES, landed // _FIRST_SHARE))
        if feed.waiting_bytes >= wanted and (cut := feed.cut()):
            landed += cut.bytes
            _land_while_reading(landing, feed, cut, observed, lambda: is_read(feed))


def _land_all(landing: ChangeLanding, feed: Feed, observed: Observed | None, rows_at_once: int) -> None:
    """All that the topics held at the beginning, in portions of whole transactions."""
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    wait = 0.0
    while not feed.is_done:
        if feed.poll(wait):
            deadline = time.monotonic() + _GIVE_UP_SECONDS
        wait = _POLL_SECONDS
        is_full = feed.waiting >= rows_at_once or feed.waiting_bytes >= BYTES_AT_ONCE
        if not (feed.is_at_end or is_full) and time.monotonic() < deadline:
            continue
        if cut := feed.cut():
            _land_while_reading(landing, feed, cut, observed, lambda: feed.is_at_end)
            deadline = time.monotonic() + _GIVE_UP_SECONDS
        elif time.monotonic() > deadline:
            raise SourceError(
                "The change topics gave no record for a while though they have more. What was whole is "
                "landed; check the broker, then run again."
            )
    landing.move_on(observed)


def _land_while_reading(
    landing: ChangeLanding,
    feed: Feed,
    cut: Cut,
    observed: Observed | None,
    is_read: Callable[[], bool],
) -> None:
    """Land a portion while the next one is read: the one is work of DuckDB, the other of Python."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        landed = pool.submit(landing.land, cut, observed)
        full = cut.bytes + BYTES_AT_ONCE
        while not (landed.done() or is_read() or feed.waiting_bytes >= full):
            feed.poll(_POLL_SECONDS)
        landed.result()
    landing.done(cut)


@contextmanager
def locked(ledger: Ledger, entities: Iterable[SourceEntity]) -> Iterator[None]:
    """Hold the landing locks of these tables, taken in one order."""
    with ExitStack() as locks:
        for entity in entities:
            locks.enter_context(ledger.locked("land", entity.table))
        yield


def positions_of(ledger: Ledger, entities: Iterable[SourceEntity]) -> dict[SourceEntity, Mapping[str, Any]]:
    """Where each table stands, as its change topic goes on from there."""
    return {entity: cdc.continued("cdc", ledger.positions(entity.table).positions) for entity in entities}


@contextmanager
def reading(
    services: Services, ledger: Ledger, entities: Iterable[SourceEntity], *, is_watched: bool = True
) -> Iterator[tuple[Feed, Observed | None]]:
    """A feed over the topics of these tables from where the ledger stands, and how their source was seen just
    before. The tables that must halt are among those that the feed has `failed`.

    What waits in it can be larger than memory. Where a connector of ours no longer tells which transactions
    ended, no table is read: half of one would be landed. `is_watched` and errors: see `land_changes`.
    """
    settings = services.settings
    positions = positions_of(ledger, entities)
    observed, halted = change_topics.look(settings, positions) if is_watched else (None, {})
    readable = {entity: at for entity, at in positions.items() if entity.table not in halted}
    begun = change_topics.beginnings(settings, readable, observed)
    if is_watched and readable:
        change_topics.fill(settings)
    with ExitStack() as opened:
        feed: Feed
        if settings.cdc_engine == "embedded":
            feed = KeptFeed(settings, begun)
        else:
            spill = services.lake.root / SPILL
            connection = engine.connect(memory_limit=settings.memory_limit, temp_directory=spill)
            opened.enter_context(closing(connection))
            services.lake.begin_session()  # or another run sweeps what waits on disk
            since = _registered_since(begun, observed)
            feed = ChangeFeed(settings, begun, connection, spill, since)
            if is_watched and feed.untold is not None:
                for entity in feed.entities:
                    feed.leave_out(entity, feed.untold)
        opened.enter_context(closing(feed))
        feed.failed.update(halted)
        yield feed, observed


def _registered_since(
    positions: Mapping[SourceEntity, Mapping[str, Any]], observed: Observed | None
) -> dict[SourceEntity, int]:
    """Of tables that were not landed since the connector was registered: the LSN from which on its records
    are. Where its slot stands before anything was handed on; later, that of its first read is not known.
    """
    if observed is None or observed.slot is None or observed.slot.confirmed is None:
        return {}
    confirmed = observed.slot.confirmed
    return {
        entity: confirmed
        for entity, position in positions.items()
        if position.get(REMEMBERED, {}).get("registration") != observed.registration
    }


class FirstReadFailed(SourceError):
    """A table that is read for the first time can't be landed: which, and why."""

    def __init__(self, entity: SourceEntity, error: SourceError) -> None:
        super().__init__(str(error))
        self.entity = entity
        self.error = error


class ChangeLanding:
    """Lands what a feed hands on. The caller holds the tables' landing locks."""

    def __init__(
        self,
        services: Services,
        feed: Feed,
        ledger: JointLedger,
        run_id: str,
        rows_per_file: int = ROWS_PER_FILE,
        *,
        is_first: bool = False,
    ) -> None:
        """`is_first`: all of it is one transaction, and what fails ends it: see `land_first`."""
        self.landed = ChangesLanded()
        self._is_first = self._is_half = is_first
        self._services = services
        self._feed = feed
        self._ledger = ledger
        self._failed: list[tuple[SourceEntity, SourceError]] = []
        self._run_id = run_id
        self._rows_per_file = rows_per_file
        self._new = {entity for entity in feed.entities if not ledger.positions(entity.table).positions}
        """Tables of which nothing was ever landed."""
        self._current = set[SourceEntity]()
        """Those that had records in the last portion: they stand where it ended."""

    def land(self, cut: Cut, observed: Observed | None) -> None:
        """One transaction: the landings of all tables with records before the cut, whole transactions of the
        application. `done` follows; until then the feed may be read on in another thread.
        """
        with self._ledger.jointly():
            self.enter(cut, observed)

    def done(self, cut: Cut) -> None:
        """It is committed: the feed forgets what was landed, and what can't be landed is read no more."""
        for entity, error in self._failed:
            self._feed.leave_out(entity, error)
        self._failed.clear()
        self._feed.done(cut)

    def enter(self, cut: Cut, observed: Observed | None) -> None:
        """The same as `land`, within the caller's transaction."""
        self._current = {entity for entity in self._feed.entities if self._feed.topic(entity) in cut.after}
        for entity in self._feed.entities:
            if entity in self._current:
                self._one(entity, cut, observed)
        self.landed.incomplete += cut.incomplete
        incomplete.enter(self._ledger.connection, self._services.settings, cut.incomplete)

    def move_on(self, observed: Observed | None, entities: Iterable[SourceEntity] | None = None) -> None:
        """Let the positions of tables without news (None: of all) follow; what was owed until now is done."""
        self._is_half = False
        passed = self._feed.passed()
        with self._ledger.jointly():
            for entity in self._feed.entities if entities is None else entities:
                is_done = entity in self._current and (not self._is_first or self._is_all_told(entity))
                if not is_done:
                    self._one(entity, passed, observed)
        self.done(passed)

    def _is_all_told(self, entity: SourceEntity) -> bool:
        return entity in self._new and self._feed.is_all_told(entity)

    def _one(self, entity: SourceEntity, cut: Cut, observed: Observed | None) -> None:
        connection = self._ledger.connection
        told = Told(
            self._feed.records(entity, cut), observed, self._is_half, is_all=self._is_all_told(entity)
        )
        try:
            with connection.transaction():
                landing = EntityLanding(
                    self._services, entity, self._run_id, self._ledger, self._rows_per_file, told
                )
                self.landed.add(entity.table, landing.run())
        except SourceError as error:
            if self._is_first:
                raise FirstReadFailed(entity, error) from error
            if isinstance(error, SchemaChanged):
                schema_changes.enter(connection, error.changes)
            self._failed.append((entity, error))
            self.landed.outcomes[entity.table] = error
