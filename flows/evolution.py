"""What the application's tables have beyond their declarations: landings let it pass (`on_change="evolve"`),
raw keeps it, and staging that says so passes it on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.extract.schema_contract import CATALOG, undeclared
from flows.extract.schema_differences import Remembered
from flows.stores.ledger_reader import LedgerReader
from transforms import registry
from transforms.contract import Column, Table
from transforms.entities import SourceEntity
from transforms.registry import Registry


def found(entity: SourceEntity, positions: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns that nobody declared and landings so far, which have got to `positions`, let pass."""
    return undeclared(entity, Remembered.read(positions.get(CATALOG)))


def registry_for(ledger: LedgerReader, table: Table) -> Registry:
    """The registry in which `table` has what it passes on, as landed by now."""
    own = registry.default()
    columns = {
        name: found(own.entities[name], ledger.positions(name).positions) for name in _landed(table, own)
    }
    return own.with_found(columns) if any(columns.values()) else own


def _landed(table: Table, known: Registry) -> Iterator[str]:
    """The raw tables whose columns come to it."""
    for name in table.passes:
        if name in known.entities:
            yield name
        else:
            yield from _landed(known.table(name), known)
