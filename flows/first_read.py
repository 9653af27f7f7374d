"""The first read of the tables that are captured: nothing is landed of it before all of it is there.

Half a table would be published as if the other half had never been.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from flows.errors import FlowsError
from flows.extract import SourceError, debezium, kafka
from flows.extract.debezium_caught_up import caught_up, end_of_log
from flows.extract.debezium_guard import REMEMBERED
from flows.extract.debezium_observed import REGISTRATION, connect
from flows.progress import Progress
from flows.services import Services
from transforms.entities import Postgres, SourceEntity

SECONDS = 600.0
"""How long a run waits for it, and shows how far it is."""
_TOLD_SECONDS = 5.0


class StillRead(SourceError):
    """The connector has not read a table to its end yet."""


def wait(
    services: Services,
    entities: Iterable[SourceEntity],
    progress: Progress,
    seconds: float = SECONDS,
    stop: threading.Event | None = None,
) -> dict[str, str]:
    """Wait until the connector has read every table that was not landed since it was registered.

    Returns raw table → why it must not be landed in this run, for those that are not read by then. Where the
    connector, the source or the broker is away or has stopped, landing says so. `stop` ends the waiting.
    """
    captured = debezium.entities(entities)
    if not captured:
        return {}
    try:
        new = _not_landed(services, captured)
        if not new or _is_over(services, new, progress, seconds, stop or threading.Event()):
            return {}
    except FlowsError:
        return {}
    reason = (
        "{} is halted: the connector is still reading the application's tables for the first time; run again "
        "once it has (python -m flows cdc status shows the topics)."
    )
    return {entity.table: reason.format(f"{entity.source}.{entity.name}") for entity in new}


def _not_landed(services: Services, captured: Sequence[SourceEntity]) -> list[SourceEntity]:
    """The tables of which nothing was landed since the connector was registered."""
    with connect(services.settings) as client:
        known = client.configuration(debezium.names(services.settings).connector)
    if known is None:
        return []
    with services.ledger() as ledger:
        remembered = {
            entity.table: ledger.positions(entity.table).positions.get(REMEMBERED, {}) for entity in captured
        }
    return [
        entity
        for entity in captured
        if remembered[entity.table].get("registration") != known.get(REGISTRATION)
    ]


def _is_over(
    services: Services,
    new: Sequence[SourceEntity],
    progress: Progress,
    seconds: float,
    stop: threading.Event,
) -> bool:
    settings = services.settings
    end, deadline = end_of_log(settings), time.monotonic() + seconds
    name = debezium.names(settings).connector
    while not caught_up(settings, end, min(_TOLD_SECONDS, max(0.0, deadline - time.monotonic()))):
        if time.monotonic() >= deadline or stop.is_set():
            return False
        with connect(settings) as client:
            state = client.state(name)
        if state is None or not state.runs:
            return True  # it goes no further: landing says why
        progress.say("connect", f"reads {len(new)} tables for the first time: {_told(services, new):,} rows")
    return True


def _told(services: Services, new: Sequence[SourceEntity]) -> int:
    """Records in the topics of these tables."""
    settings = services.settings
    reads = [entity.read for entity in new if isinstance(entity.read, Postgres)]
    bootstrap, options = settings.require("kafka_bootstrap"), settings.kafka_options
    return sum(
        sum(kafka.lag(bootstrap, debezium.topic(settings, read), {}, options=options).values())
        for read in reads
    )
