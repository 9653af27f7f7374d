"""The words of lineage: a column of a table, and how another one is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

ROWS = "*"
"""Stands where a column's name would, for the rows themselves: `count(*)` is made of these."""


@dataclass(frozen=True, order=True)
class Origin:
    """A column of an upstream table."""

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


class Kind(IntEnum):
    """How a step makes a column; of several within one model the strongest counts.

    The last three make no column of what they read: they say which rows there are.
    """

    PASS = 0
    """The same value under the same name."""
    RENAME = 1
    CAST = 2
    """The same value in another type, whatever it is called."""
    EXPRESSION = 3
    """Computed within the row, or from other rows beside it (a window)."""
    AGGREGATE = 4
    """Many rows become one."""
    FILTER = 5
    JOIN = 6
    GROUP = 7

    @property
    def word(self) -> str:
        """As people read it."""
        return self.name.lower()

    @property
    def is_condition(self) -> bool:
        """Whether it says which rows there are, and nothing of what stands in them."""
        return self >= Kind.FILTER


@dataclass(frozen=True)
class Made:
    """How a column is made of one origin: the kind, and the types it was cast to on the way."""

    kind: Kind
    casts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Traced:
    """A query's columns, each with what it is made of; the columns that say which rows it has; and the tables
    whose rows these are, or are added up from.
    """

    columns: Mapping[str, Mapping[Origin, Made]]
    conditions: Mapping[Origin, Kind]
    rows: tuple[str, ...]


def merged(*parts: Mapping[Origin, Made]) -> Mapping[Origin, Made]:
    """What a column is made of that is made in several ways; the strongest kind counts."""
    found: dict[Origin, Made] = {}
    for part in parts:
        for origin, made in part.items():
            known = found.get(origin)
            if known is None:
                found[origin] = made
            elif made != known:
                found[origin] = Made(max(made.kind, known.kind), (*known.casts, *made.casts))
    return found
