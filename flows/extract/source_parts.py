"""The partitions of the source's tables: what goes or comes with one of them, no change tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

# A partition that was made as one has its type and its place among the others of one transaction.
_PARTS = """
select root.oid::bigint as root, part.oid::bigint as part, part.oid::regclass::text as name,
    place.xmin <> own.xmin and (part.relkind = 'p' or pg_relation_size(part.oid) > 0) as had_rows
from unnest(%s::oid[]) as asked join pg_class root on root.oid = asked and root.relkind = 'p'
cross join pg_partition_tree(root.oid) as tree join pg_class part on part.oid = tree.relid
join pg_inherits place on place.inhrelid = part.oid join pg_type own on own.oid = part.reltype
where tree.level > 0 order by name
"""


@dataclass(frozen=True)
class Part:
    """A partition. `had_rows`: it was a table of its own before it was attached, and rows are in it."""

    name: str
    had_rows: bool


Parts = Mapping[str, Part]
"""The partitions of one table, at any depth, by oid."""


def parts(
    connection: psycopg.Connection[dict[str, Any]], oids: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], Parts]:
    """Those of the tables among these that have partitions: (schema, table) → parts."""
    found: dict[int, dict[str, Part]] = {}
    for row in connection.execute(_PARTS.encode(), (list(oids.values()),)):
        found.setdefault(row["root"], {})[str(row["part"])] = Part(row["name"], row["had_rows"])
    return {place: found[oid] for place, oid in oids.items() if oid in found}


def remembered(found: Mapping[tuple[str, str], Parts]) -> dict[str, dict[str, str]]:
    """The same as a position keeps it, for `told`; JSON."""
    return {
        ".".join(place): {oid: part.name for oid, part in there.items()} for place, there in found.items()
    }


def told(place: str, known: Mapping[str, str], now: Parts, anew: str) -> Iterator[str]:
    """What became of the partitions of a table since those of `known`, oid → name, and what to do."""
    for oid, name in known.items():
        if oid not in now:
            yield (
                f"{name} is no partition of {place} any more, which no change tells, so its rows stay as "
                f"they were; are they to go, read everything again: {anew}"
            )
    for oid, part in now.items():
        if part.had_rows and oid not in known:
            yield (
                f"{part.name} was attached to {place} with rows that no change tells; "
                f"python -m flows cdc resnapshot {place.partition('.')[2]} brings them"
            )
