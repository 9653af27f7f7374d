"""Editing the declarations in transforms/sources: a table's columns as its source has them, and the staging
that selects what is new of them.

Only the text of that table's columns is written anew, in the form that the linter wants; the rest of the
file, comments included, stays as it is.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows.errors import FlowsError
from flows.extract.schema_differences import Difference
from transforms import engine, tokens
from transforms.contract import Column
from transforms.entities import SourceEntity
from transforms.model import canonical_type, place

_LINE = 110
_SPELLED = {"TIMESTAMP WITH TIME ZONE": "timestamptz"}


def declared_columns(entity: SourceEntity, differences: Sequence[Difference]) -> tuple[Column, ...]:
    """The columns with these differences declared; new ones stand last."""
    columns: dict[str, Column | None] = {column.name: column for column in entity.columns}
    added: list[Column] = []
    for one in differences:
        own = columns.get(one.column) if one.declared else None
        if one.change == "added" and one.after:
            added.append(Column(one.after.name, spelled(one.after.duckdb_type)))
        elif one.change == "dropped" and one.declared:
            columns[one.column] = None
        elif own and one.after:
            kind = (
                own.type
                if canonical_type(own.type) == one.after.duckdb_type
                else spelled(one.after.duckdb_type)
            )
            formerly = own.formerly
            if one.change == "renamed":
                formerly = (own.name, *(name for name in own.formerly if name != one.after.name))
            columns[one.column] = replace(own, name=one.after.name, type=kind, formerly=formerly)
    return (*(column for column in columns.values() if column is not None), *added)


def selected(model: Path, columns: Sequence[Column]) -> str:
    """The text of a staging model with these columns of its upstream selected, last, as they are."""
    text = model.read_text(encoding="utf-8")
    for column in columns:
        item = f"{in_sql(column.name)}::{column.type} as {in_sql(column_name(column.name))}"
        text = tokens.with_line(text, item, place(model))
    return text


def column_name(name: str) -> str:
    """A source's name in the letters that columns have here: `created_at` of `createdAt`."""
    return re.sub(r"[^a-z0-9_]", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def in_sql(name: str) -> str:
    """A column's name as SQL has to write it."""
    return name if name == column_name(name) and not _is_reserved(name) else engine.quoted(name)


def _is_reserved(name: str) -> bool:
    query = "select 1 from duckdb_keywords() where keyword_name = ? and keyword_category <> 'unreserved'"
    with engine.connect() as connection:
        return bool(connection.execute(query, [name]).fetchall())


def spelled(kind: str) -> str:
    """A DuckDB type as declarations write it."""
    return _SPELLED.get(kind, kind.lower().replace(",", ", "))


def edited(text: str, name: str, columns: Sequence[Column], path: Path) -> str:
    """The file's text with these columns in the declaration of table `name`.

    Raises FlowsError where the file has no `_entity("name", grain, {…})`.
    """
    call = _call(text, name)
    if call is None or len(call.args) < 3 or not isinstance(call.args[2], ast.Dict):
        raise FlowsError(
            f'{path.name}: there is no `_entity("{name}", grain, {{columns}})` to be edited; declare its '
            f"columns by hand: {', '.join(f'{c.name} {c.type}' for c in columns)}."
        )
    formerly = {column.name: column.formerly for column in columns if column.formerly}
    keyword = next((one for one in call.keywords if one.arg == "formerly"), None)
    # From the end to the beginning, so that what stands before keeps its place.
    if keyword is not None:
        text = _put(text, keyword.value, _formerly(formerly))
    elif formerly:
        last = max((*call.args, *(one.value for one in call.keywords)), key=lambda one: _end(text, one))
        end = _end(text, last)
        indent = _indent(text, _start(text, call.args[0]))
        text = f"{text[:end]},\n{indent}formerly={_formerly(formerly)}{text[end:]}"
    return _put(text, call.args[2], _dictionary(text, call.args[2], columns))


def added(text: str, declaration: str, path: Path) -> str:
    """The file's text with one more declaration, last in ENTITIES; it stands there indented by four.

    Raises FlowsError where ENTITIES is not written out.
    """
    for node in ast.parse(text).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if node.target.id == "ENTITIES" and isinstance(node.value, ast.Tuple):
            last = text.rindex(")", 0, _end(text, node.value))
            return f"{text[:last]}{textwrap.indent(declaration, '    ')},\n{text[last:]}"
    raise FlowsError(
        f"{path.name}: there is no `ENTITIES: tuple[SourceEntity, ...] = (…)` to which something could be "
        f"added. Write it by hand: {declaration}"
    )


def _call(text: str, name: str) -> ast.Call | None:
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "_entity"
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and node.args[0].value == name
        ):
            return node
    return None


def _dictionary(text: str, node: ast.Dict, columns: Sequence[Column]) -> str:
    pairs = [f'"{column.name}": "{column.type}"' for column in columns]
    start, line = _start(text, node), "{" + ", ".join(pairs) + "}"
    before = start - (text.rfind("\n", 0, start) + 1)
    if node.lineno == node.end_lineno and before + len(line) + 1 <= _LINE:
        return line
    indent = _indent(text, start)
    return "{\n" + "".join(f"{indent}    {pair},\n" for pair in pairs) + indent + "}"


def _formerly(names: dict[str, tuple[str, ...]]) -> str:
    def listed(former: tuple[str, ...]) -> str:
        return "(" + ", ".join(f'"{name}"' for name in former) + ("," if len(former) == 1 else "") + ")"

    return "{" + ", ".join(f'"{name}": {listed(former)}' for name, former in names.items()) + "}"


def _put(text: str, node: ast.expr, new: str) -> str:
    return text[: _start(text, node)] + new + text[_end(text, node) :]


def _start(text: str, node: ast.expr) -> int:
    return _place(text, node.lineno, node.col_offset)


def _end(text: str, node: ast.expr) -> int:
    return _place(text, node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)


def _place(text: str, line: int, column: int) -> int:
    """Where a line's byte stands in the text."""
    lines = text.splitlines(keepends=True)
    own = lines[line - 1].encode()[:column].decode()
    return sum(map(len, lines[: line - 1])) + len(own)


def _indent(text: str, place: int) -> str:
    line = text[text.rfind("\n", 0, place) + 1 :]
    return line[: len(line) - len(line.lstrip(" "))]
