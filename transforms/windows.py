"""Partitions of relations, and what is new among appended rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from transforms.contract import ContractError, Partition, Table
from transforms.engine import quoted

_serial = itertools.count(1)


@dataclass(frozen=True)
class Novel:
    """What an append changes: `added` rows (all columns), and `superseded` rows that were there with their
    keys.

    The key of a superseded row is also the key of an added one, which has the lower tie break.
    """

    added: DuckDBPyRelation
    superseded: DuckDBPyRelation


def partition_of(table: Table) -> str:
    """An SQL expression that gives a row's partition key; `''` for a table without partitions."""
    if table.partition is None:
        return "''"
    column = quoted(table.partition.by)
    if table.column(table.partition.by).type == "TIMESTAMP WITH TIME ZONE":
        column = f"({column} at time zone 'UTC')"
    form = "%Y-%m-%d" if table.partition.every == "day" else "%Y-%m"
    return f"strftime({column}, '{form}')"


def partitions(relation: DuckDBPyRelation, table: Table) -> dict[str, int]:
    """Partition key → rows. Raises ContractError when rows have no value to be partitioned by."""
    counted = relation.aggregate(f"{partition_of(table)} as partition, count(*) as rows", partition_of(table))
    found = dict(counted.order("partition").fetchall())
    if None in found:
        by = table.partition.by if table.partition else ""
        raise ContractError(
            f"{table.name}: {found[None]} rows have no {by}, so they belong to no partition. "
            f"Leave them out in the model, or give {by} a value."
        )
    return found


def within(
    relation: DuckDBPyRelation,
    table: Table,
    keys: Iterable[str],
    lookback: timedelta = timedelta(0),
) -> DuckDBPyRelation:
    """The rows in these partitions of `table`; with `lookback` also those that much before or after each.

    A table without partitions comes back whole.
    """
    partition = table.partition
    if partition is None:
        return relation
    ranges = _joined(partition, keys, lookback)
    if not ranges:
        return relation.filter("false")
    column = quoted(partition.by)
    type_ = table.column(partition.by).type
    return relation.filter(
        " or ".join(
            f"({column} >= {_bound(start, type_)} and {column} < {_bound(end, type_)})"
            for start, end in ranges
        )
    )


def _joined(
    partition: Partition, keys: Iterable[str], lookback: timedelta
) -> list[tuple[datetime, datetime]]:
    """Half-open ranges, neighbours joined: a year of days is one comparison, not 365."""
    ranges: list[tuple[datetime, datetime]] = []
    for start, end in sorted(partition.bounds(key) for key in keys):
        start, end = start - lookback, end + lookback
        if ranges and start <= ranges[-1][1]:
            start, end = ranges[-1][0], max(end, ranges.pop()[1])
        ranges.append((start, end))
    return ranges


def _bound(moment: datetime, type_: str) -> str:
    return f"'{moment.isoformat(' ')}'::timestamptz::{type_}"


def novel(
    connection: DuckDBPyConnection,
    new: DuckDBPyRelation,
    existing: DuckDBPyRelation | None,
    key: Sequence[str],
    tie_break: Sequence[str],
) -> Novel:
    """Rows of `new` to append: one per key, with the lowest `tie_break`, and only where it beats what is
    there.

    `existing` holds the rows among which duplicates are looked for, one per key, with at least the key and
    tie break columns. Both relations are of `connection` and are read once; the answer stands in temporary
    tables of it, so that it stays the same whatever happens to its inputs. Costs hash joins over the keys,
    no sort of rows.
    """
    serial = next(_serial)
    incoming, there, added, superseded = (
        f"_novel_{serial}_{part}" for part in ("incoming", "there", "added", "superseded")
    )
    keys = ", ".join(map(quoted, key))
    tie = ", ".join(map(quoted, tie_break))
    new.create_view(f"{incoming}_view")
    connection.execute(f"create temp table {incoming} as from {incoming}_view")
    connection.execute(f"drop view {incoming}_view")
    if existing is None:
        existing = new.limit(0)
    existing.create_view(f"{there}_view")
    connection.execute(f"create temp table {there} as from {there}_view semi join {incoming} using ({keys})")
    connection.execute(f"drop view {there}_view")
    connection.execute(
        f"""
        create temp table {added} as
        select {incoming}.*
        from {incoming}
        semi join (select arg_min(rowid, ({tie})) as row from {incoming} group by {keys}) as winner
            on {incoming}.rowid = winner.row
        anti join (select {keys}, ({tie}) as tie from {there}) as held
            on {_equal(incoming, "held", key)} and held.tie <= ({_of(incoming, tie_break)})
        """
    )
    connection.execute(f"create temp table {superseded} as from {there} semi join {added} using ({keys})")
    connection.execute(f"drop table {incoming}")
    connection.execute(f"drop table {there}")
    return Novel(connection.table(added), connection.table(superseded))


def _equal(left: str, right: str, columns: Sequence[str]) -> str:
    return " and ".join(f"{left}.{quoted(name)} = {right}.{quoted(name)}" for name in columns)


def _of(table: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{table}.{quoted(name)}" for name in columns)
