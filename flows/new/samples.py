"""Made-up values by type, for the rows that show what a new model promises."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transforms.contract import Column
from transforms.model import canonical_type

Row = Mapping[str, Any]
_PLAIN = re.compile(r"_?[a-zA-Z][a-zA-Z0-9_]+")
"""A name that YAML takes for a text."""


def sample(kind: str, number: int) -> str | int | bool | None:
    """The value with this number (from 1 on) of a type, as YAML writes it; None where no text is one in
    every type like it (lists, structs).
    """
    kind = canonical_type(kind)
    scale = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind)
    if scale is not None:
        precision, digits = map(int, scale.groups())
        if precision == digits:
            return f"0.{number:0{digits}d}"
        return f"{number}.{0:0{digits}d}" if digits else str(number)
    if kind.endswith(("INTEGER", "SMALLINT", "TINYINT", "BIGINT", "HUGEINT")):
        return number
    known: Mapping[str, str | bool] = {
        "VARCHAR": f"text {number}",
        "UUID": f"00000000-0000-0000-0000-{number:012d}",
        "BOOLEAN": number % 2 == 0,
        "DOUBLE": f"{number}.5",
        "FLOAT": f"{number}.5",
        "DATE": f"2025-10-{number:02d}",
        "TIMESTAMP": f"2025-10-{number:02d} 12:00:00",
        "TIMESTAMP WITH TIME ZONE": f"2025-10-{number:02d}T12:00:00Z",
        "TIME": f"12:00:{number:02d}",
        "JSON": f'{{"number": {number}}}',
    }
    return known.get(kind)


def row(columns: Sequence[Column], number: int, **given: Any) -> dict[str, Any]:
    """A row of these columns, each with a value of its type; `given` besides or instead."""
    values = {column.name: sample(column.type, number) for column in columns}
    return {name: value for name, value in values.items() if value is not None} | given


def case(name: str, given: Mapping[str, Sequence[Row]], expect: Sequence[Row], **more: Sequence[Row]) -> str:
    """A case of a given/expect file; JSON's values are YAML's."""
    lines = [f"- name: {name}", "  given:"]
    for table, rows in given.items():
        lines += [f"    {table}:", *(f"      - {_mapping(one)}" for one in rows)]
    for word, rows in {"expect": expect, **more}.items():
        lines += [f"  {word}:", *(f"    - {_mapping(one)}" for one in rows)] if rows else [f"  {word}: []"]
    return "\n".join(lines) + "\n"


def _mapping(values: Row) -> str:
    texts = (
        f"{name if _PLAIN.fullmatch(name) else _text(name)}: {_text(value)}" for name, value in values.items()
    )
    return "{" + ", ".join(texts) + "}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
