"""Landing from a change topic: whether it may be read now, and from where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from flows.extract import Extract, SourceError, cdc, debezium, debezium_guard
from flows.settings import Settings
from transforms.entities import Postgres, SourceEntity


def extract(
    settings: Settings,
    entity: SourceEntity,
    positions: Mapping[str, Any],
    connection: DuckDBPyConnection,
    landed: Callable[[], DuckDBPyRelation | None],
    landed_at: datetime,
    *,
    is_watched: bool,
) -> Extract:
    """The changes of a table since its position, once it is sure that they are all there are.

    `is_watched`: a connector of ours fills the topic, so the source and the connector are looked at first.
    Raises SourceError, with what to do, where changes may have been lost.
    """
    assert isinstance(entity.read, Postgres)
    before = dict(positions)
    if is_watched:
        # Before the topic is read: what is remembered must not be newer than what is landed.
        observed = debezium_guard.observe(settings, [entity])
        remembered = before.get(debezium_guard.REMEMBERED, {})
        halted = debezium_guard.guard(settings, [entity], {entity.table: remembered}, observed)
        if entity.table in halted:
            raise SourceError(halted[entity.table])
        if remembered.get("registration") != observed.registration:
            # Everything is sent anew, at LSNs of its own; what was deleted in between nobody sends, and the
            # topic may begin with what a registration before this one has sent.
            before = {name: value for name, value in before.items() if name != cdc.SEEN} | {cdc.COMPARE: True}
        before[debezium_guard.REMEMBERED] = observed.facts()
    source = cdc.Source(
        debezium.topic(settings, entity.read),
        settings.require("kafka_bootstrap"),
        settings.kafka_options,
        partial(settings.require, "app_dsn"),
        settings.clock_offset,
    )
    return cdc.read(entity, source, before, connection, landed, landed_at)
