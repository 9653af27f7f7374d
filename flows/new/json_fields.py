"""The fields of JSON objects that somebody sends: what they hold, and which of them can be columns."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

Kind = Literal["varchar", "bigint", "integer", "double", "boolean", "timestamptz", "json"]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A field that a staging model can name."""
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.]\d+)?)?(Z|[+-]\d\d(:?\d\d)?)")
"""ISO 8601 with an offset."""
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
_WIDTH = 112


class Field(Protocol):
    """A field, and the column that it is to be."""

    @property
    def name(self) -> str: ...

    @property
    def column(self) -> str: ...


F = TypeVar("F", bound=Field)


def by_field(objects: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each field of these objects, in the order in which fields are first seen."""
    found: dict[str, list[Any]] = {}
    for one in objects:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return found


def told_apart(
    fields: Sequence[F], seen: Iterable[str], taken: Collection[str] = ()
) -> tuple[list[F], list[str]]:
    """The fields that can be columns, and the names of the others: names that no column can have, or that two
    would have. `seen`: every field of the objects; `taken`: columns that the model has besides.
    """
    columns = Counter([*(field.column for field in fields), *taken])
    # DuckDB's fields differ by more than case.
    names = Counter(name.lower() for name in seen)
    kept = [
        field
        for field in fields
        if NAME.fullmatch(field.name)
        and _COLUMN.fullmatch(field.column)
        and columns[field.column] == names[field.name.lower()] == 1
    ]
    return kept, [field.name for field in fields if field not in kept]


def kind_of(seen: Sequence[Any]) -> Kind:
    """The type that holds all of these values; of none but nulls the text that anything can be."""
    known = [value for value in seen if value is not None]
    kinds = {type(value) for value in known}
    if kinds <= {str}:
        return "timestamptz" if known and all(map(is_moment, known)) else "varchar"
    if kinds == {bool}:
        return "boolean"
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in known):
        return "bigint"
    return "double" if float in kinds <= {int, float} else "json"


def is_moment(value: Any) -> bool:
    """Whether a value is a time in ISO 8601 with an offset, and one that there is."""
    if not isinstance(value, str) or not TIME.fullmatch(value):
        return False
    try:
        return bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def wrapped(members: Sequence[str]) -> str:
    """Members of a JSON object on lines of a model, indented."""
    joined = [f"{member}," for member in members[:-1]] + [members[-1]]
    held = [member.replace(" ", "\0") for member in joined]
    lines = textwrap.wrap(" ".join(held), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines).replace("\0", " "), " " * 12)
