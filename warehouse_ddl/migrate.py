"""What must change in PostgreSQL so that a table is what its model says. Pure: it is told what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from transforms.contract import Table
from warehouse_ddl.postgres_types import holds, postgres_type, widens
from warehouse_ddl.statements import home, index_ddl, quoted


@dataclass(frozen=True)
class ActualColumn:
    """A column as pg_attribute has it; `type` as format_type spells it."""

    name: str
    type: str
    nullable: bool = True


@dataclass(frozen=True)
class ActualTable:
    """A table as it stands in PostgreSQL: key of its primary key, column it is partitioned by, its leaves'
    names."""

    columns: tuple[ActualColumn, ...]
    key: tuple[str, ...] = ()
    partitioned_by: str | None = None
    leaves: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    bare_leaves: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Leaf → declared indexes that it should have and has not."""


@dataclass(frozen=True)
class Change:
    """One difference, as a sentence; `destructive` where a reader loses something they could read."""

    what: str
    way: Literal["in place", "rebuild"]
    destructive: bool = False


@dataclass(frozen=True)
class Migration:
    """How to get there: `statements` in place, or a rebuild beside and a swap when `rebuild`. The indexes of
    leaves are built one leaf after the other, not by these statements.
    """

    table: str
    changes: tuple[Change, ...] = ()
    statements: tuple[str, ...] = ()

    @property
    def is_needed(self) -> bool:
        """Whether anything differs."""
        return bool(self.changes)

    @property
    def rebuild(self) -> bool:
        """Whether the table must be built beside and swapped; `statements` are empty then."""
        return any(change.way == "rebuild" for change in self.changes)

    @property
    def is_destructive(self) -> bool:
        """Whether somebody must say yes first."""
        return any(change.destructive for change in self.changes)

    def describe(self) -> list[str]:
        """A line per change, for people."""
        return [
            f"{self.table}: {change.what} ({change.way}{', destructive' if change.destructive else ''})"
            for change in self.changes
        ]


def plan(actual: ActualTable | Sequence[ActualColumn], table: Table) -> Migration:
    """What must change. New nullable columns, wider types, dropped requirements and new indexes are made in
    place."""
    if not isinstance(actual, ActualTable):
        actual = ActualTable(tuple(actual), key=table.key, partitioned_by=_partitioned_by(table))
    target = f"{home(table)}.{quoted(table.name)}"
    changes: list[Change] = []
    statements: list[str] = []
    there = {column.name: column for column in actual.columns}
    for column in table.columns:
        type_ = postgres_type(column)
        name = quoted(column.name)
        before = there.get(column.name)
        if before is None:
            way: Literal["in place", "rebuild"] = "in place" if column.nullable else "rebuild"
            changes.append(Change(f"column {column.name} {type_} is new", way))
            statements.append(f"alter table {target} add column if not exists {name} {type_}")
            continue
        if before.type != type_:
            way = "in place" if widens(before.type, type_) else "rebuild"
            what = f"column {column.name} becomes {type_}, was {before.type}"
            changes.append(Change(what, way, destructive=not holds(before.type, type_)))
            statements.append(f"alter table {target} alter column {name} type {type_}")
        if before.nullable and not column.nullable:
            changes.append(Change(f"column {column.name} must not be null any more", "rebuild"))
        elif not before.nullable and column.nullable:
            changes.append(Change(f"column {column.name} may be null now", "in place"))
            statements.append(f"alter table {target} alter column {name} drop not null")
    declared = {column.name for column in table.columns}
    for name in there:
        if name not in declared:
            changes.append(Change(f"column {name} is gone", "rebuild", destructive=True))
    changes.extend(_shape(actual, table))
    if actual.partitioned_by is None and actual.indexes:
        for index, statement in zip(table.indexes, index_ddl(table), strict=True):
            if index not in actual.indexes:
                changes.append(Change(f"index {index} is new", "in place"))
                statements.append(statement)
    for index in table.indexes:
        if leaves := [leaf for leaf, indexes in actual.bare_leaves.items() if index in indexes]:
            changes.append(Change(f"index {index} is new on {len(leaves)} of its leaves", "in place"))
    rebuild = any(change.way == "rebuild" for change in changes)
    return Migration(table.name, tuple(changes), () if rebuild else tuple(statements))


def _partitioned_by(table: Table) -> str | None:
    return table.partition.by if table.is_partitioned_in_postgres and table.partition else None


def _shape(actual: ActualTable, table: Table) -> list[Change]:
    """Changes of key and partitions; they touch no column, so nobody loses anything."""
    changes = []
    by = _partitioned_by(table)
    key_expected = not by or by in table.key
    if key_expected and actual.key != table.key:
        was = ", ".join(actual.key) or "nothing"
        changes.append(Change(f"its key becomes ({', '.join(table.key)}), was ({was})", "rebuild"))
    if actual.partitioned_by != by:
        changes.append(
            Change(
                f"it becomes {'partitioned by ' + by if by else 'one table'}, "
                f"was {'partitioned by ' + actual.partitioned_by if actual.partitioned_by else 'one table'}",
                "rebuild",
            )
        )
    elif by and table.partition is not None and actual.leaves:
        length = len(table.name) + (11 if table.partition.every == "day" else 8)
        if any(len(leaf) != length for leaf in actual.leaves):
            changes.append(Change(f"its partitions become one a {table.partition.every}", "rebuild"))
    return changes
