"""Landing from change topics: whether they may be read now, and what their records say of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from flows.cdc import source as database
from flows.cdc.consuming import change_topic
from flows.errors import FlowsError
from flows.extract import Extract, SourceAway, SourceError, cdc, debezium, debezium_guard, source_parts
from flows.extract.application import answering
from flows.extract.debezium_guard import KEY, REMEMBERED, Observed
from flows.extract.kafka import PositionGone
from flows.extract.postgres_session import catalog
from flows.extract.postgres_types import SourceColumn
from flows.settings import Settings
from transforms.entities import Postgres, SourceEntity

TOPIC = "topic"
"""Key, beside what is remembered of the source, of the change topic's name."""
_OF_TOPIC = ("topic_id", "offsets")
_OF_BROKER = (*_OF_TOPIC, cdc.TRANSACTIONS)
Positions = Mapping[SourceEntity, Mapping[str, Any]]
"""Where each table stands in the ledger."""


@dataclass(frozen=True)
class Told:
    """What was read of one table's topic, and how its source was seen before that; None: nobody looked."""

    records: Extract
    observed: Observed | None
    is_half: bool = False
    """Whether the rest of the connector's first read follows within the same transaction."""
    is_all: bool = False
    """Whether the topic has told of every row that the table ever had, and of all that went."""


def look(settings: Settings, positions: Positions) -> tuple[Observed, dict[str, SourceError]]:
    """How source and connector are, and which tables must halt, and why.

    To be called before the topics are read: what is remembered of it must not be newer than what is landed.
    Raises SourceAway when PostgreSQL or Kafka Connect does not answer.
    """
    entities = list(positions)
    observed = debezium_guard.observe(settings, entities)
    remembered = {entity.table: known.get(REMEMBERED, {}) for entity, known in positions.items()}
    halted = debezium_guard.guard(settings, entities, remembered, observed)
    return observed, {table: SourceError(reason) for table, reason in halted.items()}


def fill(settings: Settings) -> None:
    """Without Kafka, whoever lands has Debezium read the source's log to its present end first, for every
    captured table. Raises SourceError, with what to do, where changes may have been lost.
    """
    if settings.cdc_engine == "embedded":
        from flows.extract.embedded.connector import Embedded

        with Embedded(settings, debezium.names(settings)) as engine:
            engine.read()


def beginnings(settings: Settings, positions: Positions, observed: Observed | None) -> Positions:
    """Where their topics are read from: a registration under another prefix has topics of its own, and one
    after which the broker does not hold what comes next begins with what it holds. The tables come out as the
    source has them by that: a registration sends every row anew, and the keys are compared. What a row was
    between two changes that nobody had landed is lost to histories.

    Raises SourceAway when the broker does not answer.
    """
    return {entity: _beginning(settings, entity, at, observed) for entity, at in positions.items()}


def _beginning(
    settings: Settings, entity: SourceEntity, position: Mapping[str, Any], observed: Observed | None
) -> Mapping[str, Any]:
    assert isinstance(entity.read, Postgres)
    remembered = position.get(REMEMBERED, {})
    if observed is None or remembered.get("registration") == observed.registration:
        return position
    topic = debezium.topic(settings, entity.read)
    forgotten: tuple[str, ...] = ()
    if remembered.get(TOPIC, topic) != topic:
        forgotten = _OF_BROKER
    elif _is_gone(settings, topic, position):
        forgotten = _OF_TOPIC
    return {name: position[name] for name in position if name not in forgotten}


def _is_gone(settings: Settings, topic: str, position: Mapping[str, Any]) -> bool:
    """Whether the broker has made the topic anew, or lost what comes after the position."""
    if settings.cdc_engine == "embedded":
        return False  # the warehouse's own topics say themselves what to do
    try:
        change_topic(settings, topic).spans(position)
    except PositionGone:
        return True
    except SourceAway:
        raise
    except SourceError:
        return False  # what it is the feed tells
    return False


def extract(
    settings: Settings,
    entity: SourceEntity,
    told: Told,
    positions: Mapping[str, Any],
    connection: DuckDBPyConnection,
    landed: Callable[[], DuckDBPyRelation | None],
    landed_at: datetime,
) -> Extract:
    """What the records say of a table that stood at `positions` before them."""
    assert isinstance(entity.read, Postgres)
    before = dict(positions)
    topic = debezium.topic(settings, entity.read)
    if told.observed is not None:
        remembered = before.get(REMEMBERED, {})
        registered_at, earlier = remembered.get(cdc.REGISTERED_AT), _unread(before, topic, told)
        if remembered.get("registration") != told.observed.registration:
            if topic in told.observed.begins:
                earlier = [*earlier, [told.observed.begins[topic], registered_at]]
            registered_at = landed_at.isoformat()
            # Everything is sent anew, at LSNs of its own; what was deleted in between nobody sends, and the
            # topic may begin with what a registration before this one has sent.
            of_it = (cdc.SEEN, cdc.READING)
            before = {name: value for name, value in before.items() if name not in of_it} | {
                cdc.COMPARE: True
            }
        before[REMEMBERED] = {
            **told.observed.facts(),
            TOPIC: topic,
            KEY: list(entity.key),
            cdc.REGISTERED_AT: registered_at,
            **({cdc.EARLIER: earlier} if earlier else {}),
        }
    if told.is_all:
        before.pop(cdc.COMPARE, None)
    source = cdc.Source(
        topic,
        told.records,
        partial(settings.require, "app_dsn"),
        settings.clock_offset,
        settings.earlier_clock_offsets,
        partial(_catalog, settings, entity.read) if told.observed is not None else tuple,
        told.observed.columns.get((entity.read.schema, entity.read.table), ()) if told.observed else (),
        told.is_half,
        int(positions.get(REMEMBERED, {}).get("confirmed", 0)),
        partial(_reread, settings, entity) if told.observed is not None else None,
    )
    found = cdc.read(entity, source, before, connection, landed, landed_at)
    found.warnings += _parts_told(entity, positions.get(REMEMBERED, {}), told.observed)
    return found


def _parts_told(
    entity: SourceEntity, remembered: Mapping[str, Any], observed: Observed | None
) -> Iterator[str]:
    """Of partitions that went or came since the table was landed last; a new registration reads all of it."""
    assert isinstance(entity.read, Postgres)
    known, place = remembered.get("parts"), (entity.read.schema, entity.read.table)
    if observed is None or known is None or remembered.get("registration") != observed.registration:
        return
    name, now = ".".join(place), observed.parts.get(place, {})
    for sentence in source_parts.told(name, known.get(name, {}), now, debezium_guard.ANEW):
        yield f"{entity.source}.{entity.name}: {sentence}."


def _unread(position: Mapping[str, Any], topic: str, told: Told) -> list[list[Any]]:
    """Of the registrations before the present one, those whose records the position has not passed; what is
    known of another topic says nothing of this one.
    """
    remembered, read = position.get(REMEMBERED, {}), told.records.positions.get("topic_id")
    if remembered.get(TOPIC, topic) != topic or read not in (None, position.get("topic_id")):
        return []
    at = int(position.get("offsets", {}).get("0", 0))
    return [[end, began] for end, began in remembered.get(cdc.EARLIER, []) if end > at]


def of(entities: Iterable[SourceEntity]) -> list[SourceEntity]:
    """Those that are read by their changes."""
    return [e for e in entities if isinstance(e.read, Postgres) and e.read.mode == "cdc"]


def _reread(settings: Settings, entity: SourceEntity, keys: Sequence[Mapping[str, Any]]) -> None:
    assert isinstance(entity.read, Postgres)
    try:
        database.reread(settings, entity.read, keys)
    except SourceError:
        raise
    except FlowsError as error:
        raise SourceError(
            f"{entity.source}.{entity.name} is halted: a row of it has to be read again. {error}"
        ) from None


def _catalog(settings: Settings, read: Postgres) -> list[SourceColumn]:
    with answering(settings) as dsn:
        return catalog(dsn, read.schema, read.table)
