"""What must change in PostgreSQL so that a table is what its model says. Pure: it is told what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from transforms.contract import Table
from transforms.postgres_types import postgres_type
from transforms.registry import Registry
from warehouse_ddl.postgres_types import holds, widens
from warehouse_ddl.statements import (
    ForeignKey,
    comment_ddl,
    comments,
    foreign_key_ddl,
    foreign_key_name,
    foreign_keys,
    home,
    index_ddl,
    quoted,
)


@dataclass(frozen=True)
class ActualColumn:
    """A column as pg_attribute has it; `type` as format_type spells it."""

    name: str
    type: str
    nullable: bool = True
    comment: str | None = None


@dataclass(frozen=True)
class ActualTable:
    """A table as it stands in PostgreSQL: key of its primary key, column it is partitioned by, its leaves'
    names."""

    columns: tuple[ActualColumn, ...]
    key: tuple[str, ...] = ()
    partitioned_by: str | None = None
    leaves: tuple[str, ...] = ()
    indexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Index of the table itself → its columns, as a header spells them."""
    foreign_keys: tuple[ForeignKey, ...] = ()
    comment: str | None = None
    bare_leaves: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Leaf → declared indexes that it should have and has not."""
    old_indexes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Leaf → those of our indexes on it that are declared no more."""


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


def plan(actual: ActualTable, table: Table, registry: Registry | None = None) -> Migration:
    """What must change. New nullable columns, wider types, dropped requirements, indexes, foreign keys and
    documentation are made in place. An index of a table without leaves that no header knows is let be: it
    may be an administrator's.
    """
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
    for change, *made in (
        *_indexes(actual, table),
        *_foreign_keys(actual, table, registry),
        *_comments(actual, table, registry),
    ):
        changes.append(Change(change, "in place"))
        statements += made
    if changes:
        statements += comment_ddl(table, registry)
    rebuild = any(change.way == "rebuild" for change in changes)
    return Migration(table.name, tuple(changes), () if rebuild else tuple(statements))


def _indexes(actual: ActualTable, table: Table) -> Iterator[tuple[str, ...]]:
    """What becomes of which index, and the statements that do it: none where leaves have them."""
    for index, statement in zip(table.indexes, index_ddl(table), strict=True):
        columns = tuple(table.indexes[index])
        before = actual.indexes.get(index)
        if actual.partitioned_by is None and before is None:
            yield f"index {index} is new", statement
        elif actual.partitioned_by is None and before is not None and before != columns:
            what = f"index {index} becomes ({', '.join(columns)}), was ({', '.join(before)})"
            yield what, f"drop index if exists {home(table)}.{quoted(index)}", statement
        if leaves := [leaf for leaf, indexes in actual.bare_leaves.items() if index in indexes]:
            yield (f"index {index} is new on {len(leaves)} of its leaves",)
    if actual.old_indexes:
        yield (f"indexes of {len(actual.old_indexes)} leaves that are declared no more go",)


def _foreign_keys(actual: ActualTable, table: Table, registry: Registry | None) -> Iterator[tuple[str, ...]]:
    """The same of foreign keys. Those of other names and columns are not ours."""
    wanted = {key.name: key for key in foreign_keys(table, registry)}
    before = {key.name: key for key in actual.foreign_keys}
    made = foreign_key_ddl(table, registry)
    for number, (name, key) in enumerate(wanted.items()):
        if before.get(name) != key:
            yield f"column {key.column} references {key.table} ({key.referenced})", *made[2 * number :][:2]
    for name, was in before.items():
        if name not in wanted and name == foreign_key_name(table, was.column):
            drop = f"alter table {home(table)}.{quoted(table.name)} drop constraint if exists {quoted(name)}"
            yield f"column {was.column} references {was.table} no more", drop


def _comments(actual: ActualTable, table: Table, registry: Registry | None) -> Iterator[tuple[str, ...]]:
    """The same of documentation. That of a column which is new itself goes without a word."""
    before = {"": actual.comment} | {column.name: column.comment for column in actual.columns}
    declared = ["", *(column.name for column in table.columns)]
    said = comments(table, registry)
    if differ := [name for name in declared if name in before and before[name] != said.get(name)]:
        named = ", ".join(name or "the table" for name in differ[:3])
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        gone = [name for name in differ if name not in said]
        target = f"{home(table)}.{quoted(table.name)}"
        yield (
            f"documentation of {named}{more} is another",
            *(f"comment on column {target}.{quoted(name)} is null" for name in gone),
        )


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
