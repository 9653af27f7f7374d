"""The first read of the tables that are captured: landed while the connector reads, there once it is whole.

Half a table would be published as if the other half had never been. So all of it lands in one transaction:
a process that dies in it leaves nothing that anybody trusts, and the next one reads the topics again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

from flows import change_topics, schema_changes
from flows.cdc.feed import ChangeFeed
from flows.change_landing import FOLLOW, ChangesLanded, FirstReadFailed, Outcome, land_first, positions_of
from flows.errors import FlowsError
from flows.extract import SchemaChanged, SourceAway, SourceError, debezium, kafka
from flows.extract.debezium_caught_up import CatchingUp
from flows.extract.debezium_guard import REMEMBERED
from flows.extract.debezium_observed import REGISTRATION, connect
from flows.progress import Progress
from flows.services import Services
from flows.stores.joint import JointLedger, joint_ledger
from flows.stores.ledger import Ledger
from transforms.entities import Postgres, SourceEntity

SECONDS = 600.0
"""How long a run waits for it, and shows how far it is."""
_LOOK_EVERY_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_BESIDE_SECONDS = 0.5


class StillRead(SourceError):
    """The connector has not read a table to its end yet."""


def land(
    services: Services,
    entities: Iterable[SourceEntity],
    run_id: str,
    progress: Progress,
    seconds: float = SECONDS,
) -> ChangesLanded:
    """Land what the connector reads for the first time, once all of it is there; nothing where there is none.

    Who is not to be landed in this run has its error as outcome: what was not read in so many seconds, and
    what fails. Where a stream or another run lands it, this waits for that, and says so.
    """
    captured = debezium.entities(entities)
    if not captured or services.settings.cdc_engine == "embedded":
        return ChangesLanded()  # without a broker, registering has read them
    deadline = time.monotonic() + seconds

    def is_over() -> bool:
        return time.monotonic() >= deadline

    try:
        with joint_ledger(services.warehouse) as ledger:
            told_at = time.monotonic()
            while _is_landed_beside(services, ledger, captured):
                new = not_landed(services, ledger, captured)
                if not new or is_over():
                    return ChangesLanded({entity.table: _still(entity) for entity in new})
                if time.monotonic() - told_at > _LOOK_EVERY_SECONDS:
                    told_at = time.monotonic()
                    progress.say(
                        "connect", f"{len(new)} tables are landed for the first time by another process"
                    )
                time.sleep(_BESIDE_SECONDS)
            return land_within(services, ledger, captured, run_id, progress, is_over)
    except FlowsError as error:
        return ChangesLanded({entity.table: SourceError(str(error)) for entity in captured})


def land_within(
    services: Services,
    ledger: JointLedger,
    entities: Sequence[SourceEntity],
    run_id: str,
    progress: Progress,
    is_over: Callable[[], bool],
) -> ChangesLanded:
    """The same by whoever may land; `is_over` says when to give up. Raises what ends it for all tables."""
    failed: dict[str, Outcome] = {}
    while True:
        wanted = [entity for entity in entities if entity.table not in failed]
        new = not_landed(services, ledger, wanted)
        if not new:
            return ChangesLanded(failed)
        try:
            with closing(_FirstRead(services, new, progress, is_over)) as first:
                first.begin()
                if first.is_of_nothing():
                    return ChangesLanded(failed)
                landed = land_first(services, ledger, wanted, run_id, first.is_read)
        except FirstReadFailed as stopped:
            # The others from the beginning: what came of it was landed among them.
            failed[stopped.entity.table] = stopped.error
            if isinstance(stopped.error, SchemaChanged):
                schema_changes.enter(ledger.connection, stopped.error.changes)
        except StillRead:
            _, halted = change_topics.look(services.settings, positions_of(ledger, new))
            failed |= {entity.table: halted.get(entity.table, _still(entity)) for entity in new}
            return ChangesLanded(failed)
        else:
            landed.outcomes |= failed
            return landed


def _is_landed_beside(services: Services, ledger: Ledger, entities: Iterable[SourceEntity]) -> bool:
    """Whether a stream follows the changes, or another run is landing."""
    if ledger.is_held(FOLLOW, services.settings.cdc_prefix):
        return True
    return any(ledger.is_held("land", entity.table) for entity in entities)


def not_landed(services: Services, ledger: Ledger, captured: Sequence[SourceEntity]) -> list[SourceEntity]:
    """The tables of which nothing was landed since the connector was registered. Raises SourceAway."""
    with connect(services.settings) as client:
        known = client.configuration(debezium.names(services.settings).connector)
    if known is None:
        return []
    return [
        entity
        for entity in captured
        if ledger.positions(entity.table).positions.get(REMEMBERED, {}).get("registration")
        != known.get(REGISTRATION)
    ]


def _still(entity: SourceEntity) -> StillRead:
    return StillRead(
        f"{entity.source}.{entity.name} is halted: the connector is still reading the application's tables "
        "for the first time; run again once it has (python -m flows cdc status shows the topics)."
    )


class _FirstRead:
    """How far a connector is with its first read of some tables. What is asked raises StillRead when nothing
    more is to be waited for. Close it.
    """

    def __init__(
        self,
        services: Services,
        new: Sequence[SourceEntity],
        progress: Progress,
        is_over: Callable[[], bool],
    ) -> None:
        self._services = services
        self._new = new
        self._progress = progress
        self._is_over = is_over
        self._connector = CatchingUp(services.settings)
        self._looked_at = time.monotonic()

    def close(self) -> None:
        """Ask no more."""
        self._connector.close()

    def begin(self) -> None:
        """Wait for its slot: what it tells from there on is of this registration."""
        while not self._connector.has_slot():
            self._look()
            time.sleep(_PAUSE_SECONDS)

    def is_of_nothing(self) -> bool:
        """Whether it is over, and none of the tables had a row: that is never landed, so asked each time."""
        while self._connector.streams() and not self._told():
            if self._connector.has_read_tables():
                return not self._told()
            self._look()
            time.sleep(_PAUSE_SECONDS)
        return False

    def is_read(self, feed: ChangeFeed) -> bool:
        """Whether all of the tables is in the topics: their records say so, or, where one has none, the
        connector.
        """
        if feed.are_read(self._new) or self._connector.has_read_tables():
            return True
        self._look()
        return False

    def _look(self) -> None:
        if self._is_over():
            raise StillRead
        if time.monotonic() - self._looked_at < _LOOK_EVERY_SECONDS:
            return
        self._looked_at = time.monotonic()
        settings = self._services.settings
        try:
            with connect(settings) as client:
                state = client.state(debezium.names(settings).connector)
            rows = self._told()
        except SourceAway as error:
            self._progress.say("connect", str(error))  # it begins again when it is back
            return
        # A worker that has just begun does not know its connectors yet.
        if state is not None and not state.goes_on:
            raise StillRead
        self._progress.say("connect", f"reads {len(self._new)} tables for the first time: {rows:,} rows")

    def _told(self) -> int:
        """Records in the topics of the tables."""
        settings = self._services.settings
        reads = [entity.read for entity in self._new if isinstance(entity.read, Postgres)]
        bootstrap, options = settings.require("kafka_bootstrap"), settings.kafka_options
        return sum(
            sum(kafka.lag(bootstrap, debezium.topic(settings, read), {}, options=options).values())
            for read in reads
        )
