"""Runs a model over rows written in YAML and shows how what it gives differs from what was expected.

A file tests/transforms/<layer>/<table>.yaml is a list of cases:

    - name: a deleted user keeps no personal data
      given:
        stg_app__users:
          - {user_id: 1, email: a@example.com, deleted_at: '2025-10-07T00:00:00Z'}
      expect:
        - {user_id: 1, email: null, is_deleted: true}
      dead_letters: []          # only for models with _dead_letter_reason

An upstream that is not given has no rows. A given column that is not mentioned is null, except that raw
rows have what every landing writes: `_batch_id` batch-1, `_landed_at` 2025-11-01T00:00:00Z, `_seq` their
place in the list, `_op` r. Expected rows are compared without order, over the columns that any of them
mentions. Values are written as text that DuckDB can cast; JSON and blob columns may also hold a mapping or
list (written as JSON).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from transforms import engine
from transforms.contract import Column, Layer, Table
from transforms.model import TextLoader
from transforms.registry import Registry

Row = Mapping[str, Any]
_WORDS = {"name", "given", "expect", "contains", "dead_letters"}
_LANDED = {"_batch_id": "batch-1", "_landed_at": "2025-11-01T00:00:00Z", "_op": "r"}


@dataclass(frozen=True)
class Case:
    """One given/expect case of a table."""

    table: str
    name: str
    given: Mapping[str, Sequence[Row]]
    expect: Sequence[Row]
    dead_letters: Sequence[Row] | None
    partial: bool = False
    """Whether `expect` came as `contains`: these rows among others, for tables too long to write out."""


def cases(path: Path) -> list[Case]:
    """The cases of one file. Raises ValueError for a word that is none of a case's."""
    found = []
    for entry in yaml.load(path.read_text(encoding="utf-8"), Loader=TextLoader) or []:
        unknown = set(entry) - _WORDS
        if unknown or "name" not in entry or ("expect" in entry) == ("contains" in entry):
            raise ValueError(
                f"{path.name}: a case has name, given, expect (or contains: some of the rows) and perhaps "
                f"dead_letters, not {unknown or sorted(entry)}."
            )
        given = {name: rows or [] for name, rows in (entry.get("given") or {}).items()}
        partial = "contains" in entry
        rows = entry["contains" if partial else "expect"] or []
        found.append(Case(path.stem, entry["name"], given, rows, entry.get("dead_letters"), partial))
    return found


def difference(case: Case, connection: DuckDBPyConnection, registry: Registry) -> str:
    """What the model gives otherwise than the case expects, as text; '' when nothing."""
    model = registry.model(case.table)
    unread = set(case.given) - set(model.table.upstreams)
    if unread:
        return f"it is given {', '.join(sorted(unread))}, which {case.table} does not read"
    inputs = {
        name: _relation(connection, registry.table(name), case.given.get(name, ()))
        for name in model.table.upstreams
    }
    computed = engine.compute(case.table, connection, inputs, registry=registry)
    parts = [_compare("rows", computed.rows, case.expect, model.table.columns, connection, case.partial)]
    if computed.dead_letters is not None:
        columns = (*model.table.columns, *model.reserved)
        expected = case.dead_letters or []
        parts.append(_compare("dead letters", computed.dead_letters, expected, columns, connection))
    elif case.dead_letters is not None:
        parts.append(f"{case.table} has no _dead_letter_reason, so it gives no dead letters")
    return "\n".join(part for part in parts if part)


def _relation(connection: DuckDBPyConnection, table: Table, rows: Sequence[Row]) -> DuckDBPyRelation:
    if table.layer is Layer.RAW:
        names = {column.name for column in table.columns}
        landed = {name: value for name, value in _LANDED.items() if name in names}
        rows = [{**landed, "_seq": place, **row} for place, row in enumerate(rows)]
    return _typed(connection, table.columns, rows)


def _typed(
    connection: DuckDBPyConnection, columns: Sequence[Column], rows: Sequence[Row]
) -> DuckDBPyRelation:
    """`rows` as a relation of exactly these columns. Raises ValueError for a column that is none of them."""
    by_name = {column.name: column for column in columns}
    for row in rows:
        unknown = set(row) - set(by_name)
        if unknown:
            raise ValueError(f"no column {', '.join(sorted(unknown))} among {', '.join(by_name)}")
    if not rows:
        return engine.empty(columns, connection)
    fields = ", ".join(f"?::{column.type} as {engine.quoted(column.name)}" for column in columns)
    values = [_value(row.get(column.name), column.type) for row in rows for column in columns]
    query = " union all ".join([f"select {fields}"] * len(rows))
    name = f"_given_{abs(hash((id(rows), query)))}"
    connection.execute(f"create or replace temp table {name} as {query}", values)
    return connection.table(name)


def _value(value: Any, type_: str) -> Any:
    if value is None or isinstance(value, bytes):  # bytes: YAML's !!binary, for what is no text
        return value
    if type_ in {"JSON", "BLOB"}:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text.encode() if type_ == "BLOB" else text
    if type_.startswith("STRUCT") or type_.endswith("[]"):
        return value
    return str(value)


def _compare(
    what: str,
    given: DuckDBPyRelation,
    expected_rows: Sequence[Row],
    columns: Sequence[Column],
    connection: DuckDBPyConnection,
    partial: bool = False,
) -> str:
    mentioned = {name for row in expected_rows for name in row}
    compared = [column for column in columns if column.name in mentioned] or list(columns)
    unknown = mentioned - {column.name for column in columns}
    if unknown:
        return f"the expected {what} mention {', '.join(sorted(unknown))}, which is no column of the table"
    actual = _rows(given, compared)
    expected = _rows(_typed(connection, compared, expected_rows), compared)
    missing, extra = Counter(expected), Counter(actual)
    missing, extra = missing - extra, Counter() if partial else extra - missing
    if not missing and not extra:
        return ""
    names = [column.name for column in compared]
    lines = [f"{what}: expected {len(expected)}, got {len(actual)}; columns {', '.join(names)}"]
    lines += [f"  - expected {_shown(row)}" for row in missing.elements()]
    lines += [f"  + got      {_shown(row)}" for row in extra.elements()]
    lines += _closest(list(missing.elements()), list(extra.elements()), names)
    return "\n".join(lines)


def _rows(relation: DuckDBPyRelation, columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """Rows as text that is equal when the values are (JSON: in any spacing and order of fields)."""
    fields = ", ".join(
        f"{name}::json" if column.type == "JSON" else name
        for column in columns
        for name in [engine.quoted(column.name)]
    )
    fetched = relation.project(fields).fetchall()
    json_at = {place for place, column in enumerate(columns) if column.type == "JSON"}
    return [
        tuple(
            json.dumps(json.loads(value), sort_keys=True, ensure_ascii=False)
            if place in json_at and value is not None
            else _text(value)
            for place, value in enumerate(row)
        )
        for row in fetched
    ]


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, bytes | list | dict) else str(value)


def _shown(row: Sequence[str]) -> str:
    return " | ".join(row)


def _closest(missing: list[tuple[str, ...]], extra: list[tuple[str, ...]], names: Sequence[str]) -> list[str]:
    """For each expected row that is missing, the nearest row there is and where the two differ."""
    lines = []
    for row in missing[:5]:
        if not extra:
            break
        nearest = max(extra, key=lambda other: sum(a == b for a, b in zip(row, other, strict=True)))
        differs = [
            f"{name}: expected {a}, got {b}" for name, a, b in zip(names, row, nearest, strict=True) if a != b
        ]
        lines.append(f"    nearest: {'; '.join(differs)}")
    return lines
