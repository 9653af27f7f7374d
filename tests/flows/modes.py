"""The application's tables as they are read without change data capture, for tests of that, and for tests
that are about something else and have no Kafka Connect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from unittest import mock

from transforms import registry
from transforms.entities import Postgres, SourceEntity
from transforms.registry import Registry

_ROWS = {"inventory": Postgres("inventory")}
"""Tables without a column that a read can go by."""
_GROWS = {"order_events": Postgres("order_events", "incremental", cursor="id", deletes_every=None)}
"""Tables of which nothing is ever changed or deleted."""


def read_by_rows(entity: SourceEntity) -> SourceEntity:
    """The entity, read by its rows where it is declared to be read by its changes."""
    if not isinstance(entity.read, Postgres) or entity.read.mode != "cdc":
        return entity
    by_time = Postgres(entity.read.table, "incremental", cursor="updated_at", deletes_every=timedelta(0))
    return replace(entity, read=(_ROWS | _GROWS).get(entity.name, by_time))


@cache
def _registry() -> Registry:
    entities = tuple(read_by_rows(entity) for entity in registry.declared_entities())
    return registry.read(registry._PACKAGE, entities)


@contextmanager
def without_capture() -> Iterator[None]:
    """In this process no table is read by its changes."""
    with mock.patch.object(registry, "default", _registry):
        yield
