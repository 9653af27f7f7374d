"""Editing the declarations in transforms/sources: a table's columns as its source has them, and the staging
that selects what is new of them.

Only the text of that table's columns is written anew, in the form that the linter wants; the rest of the
file, comments included, stays as it is.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
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
    is_plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _reserved()
    return name if is_plain else engine.quoted(name)


@cache
def _reserved() -> frozenset[str]:
    """Words that are no names unless they are quoted."""
    query = "select keyword_name from duckdb_keywords() where keyword_category <> 'unreserved'"
    with engine.connect() as connection:
        return frozenset(name for (name,) in connection.execute(query).fetchall())


def spelled(kind: str) -> str:
    """A DuckDB type as declarations write it."""
    return _SPELLED.get(kind, ", ".join(part.strip() for part in kind.lower().split(",")))


def edited(texts: dict[Path, str], entity: SourceEntity, columns: Sequence[Column]) -> Path:
    """Put these columns into the declaration of a table, in the one of the files' `texts` that has it.

    Returns that file's path. Raises FlowsError where none has an `_entity("name", grain, {…})`, or a
    `SourceEntity(name="name", …)` with columns that stand there one by one.
    """
    for path, text in texts.items():
        for call in _calls(text):
            if (
                _is_of_application(call, entity.name)
                and len(call.args) > 2
                and isinstance(call.args[2], ast.Dict)
            ):
                texts[path] = _of_dictionary(text, call, call.args[2], columns)
                return path
            if _is_declaration(call, entity):
                texts[path] = _of_columns(text, call, columns)
                return path
    raise FlowsError(
        f'{entity.place}: there is no `_entity("{entity.name}", grain, {{columns}})` and no '
        f'`SourceEntity(name="{entity.name}", columns=(Column(…), …))` in transforms/sources to be edited; '
        f"declare its columns by hand: {', '.join(f'{c.name} {c.type}' for c in columns)}."
    )


def _of_dictionary(text: str, call: ast.Call, given: ast.Dict, columns: Sequence[Column]) -> str:
    formerly = {column.name: column.formerly for column in columns if column.formerly}
    keyword = _keyword(call, "formerly")
    # From the end to the beginning, so that what stands before keeps its place.
    if keyword is not None:
        text = _put(text, keyword, _formerly(formerly))
    elif formerly:
        text = _with_keyword(text, call, "formerly", _formerly(formerly))
    return _put(text, given, _dictionary(text, given, columns))


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


def _of_columns(text: str, call: ast.Call, columns: Sequence[Column]) -> str:
    """A column that is as it was keeps its text."""
    given = _keyword(call, "columns")
    stand = {_column(one): one for one in given.elts} if isinstance(given, ast.Tuple | ast.List) else {}
    indent = _indent(text, _start(text, call.keywords[0].value))
    lines = [
        text[_start(text, own) : _end(text, own)]
        if (own := stand.get((column.name, column.type))) is not None and not column.formerly
        else _spelled_out(column)
        for column in columns
    ]
    made = "(\n" + "".join(f"{indent}    {line},\n" for line in lines) + f"{indent})"
    return _put(text, given, made) if given is not None else _with_keyword(text, call, "columns", made)


def _spelled_out(column: Column) -> str:
    said = [in_python(column.name), json.dumps(column.type)]
    if column.description:
        said.append(in_python(column.description))
    said += [] if column.nullable else ["nullable=False"]
    said += ["pii=True"] if column.pii else []
    said += [f"max_length={column.max_length}"] if column.max_length is not None else []
    said += [f"formerly={tuple_in_python(column.formerly)}"] if column.formerly else []
    return f"Column({', '.join(said)})"


def _calls(text: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


def _is_of_application(call: ast.Call, name: str) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "_entity" and _texts(call.args[:1]) == [name]


def _is_declaration(call: ast.Call, entity: SourceEntity) -> bool:
    """Whether it declares this table, with columns that can be told one by one, or none."""
    if not (isinstance(call.func, ast.Name) and call.func.id == "SourceEntity"):
        return False
    told = [_keyword(call, "source"), _keyword(call, "name")]
    given = _keyword(call, "columns")
    can_be_told = given is None or (isinstance(given, ast.Tuple | ast.List) and all(map(_column, given.elts)))
    return can_be_told and _texts(told) == [entity.source, entity.name]


def _column(node: ast.expr) -> tuple[str, ...]:
    """Name and type of a `Column("name", "type", …)`; empty of anything else."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Column"):
        return ()
    told = _texts(node.args[:2])
    return tuple(told) if len(told) == 2 else ()


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((one.value for one in call.keywords if one.arg == name), None)


def _texts(nodes: Sequence[ast.expr | None]) -> list[str]:
    return [str(node.value) for node in nodes if isinstance(node, ast.Constant)]


def _with_keyword(text: str, call: ast.Call, name: str, value: str) -> str:
    """With one more argument, behind all the others."""
    own = [*call.args, *(one.value for one in call.keywords)]
    end = max(_end(text, one) for one in own)
    indent = _indent(text, _start(text, own[0]))
    return f"{text[:end]},\n{indent}{name}={value}{text[end:]}"


def _dictionary(text: str, node: ast.Dict, columns: Sequence[Column]) -> str:
    pairs = [f'{in_python(column.name)}: "{column.type}"' for column in columns]
    start, line = _start(text, node), "{" + ", ".join(pairs) + "}"
    before = start - (text.rfind("\n", 0, start) + 1)
    if node.lineno == node.end_lineno and before + len(line) + 1 <= _LINE:
        return line
    indent = _indent(text, start)
    return "{\n" + "".join(f"{indent}    {pair},\n" for pair in pairs) + indent + "}"


def _formerly(names: dict[str, tuple[str, ...]]) -> str:
    return (
        "{"
        + ", ".join(f"{in_python(name)}: {tuple_in_python(former)}" for name, former in names.items())
        + "}"
    )


def in_python(value: str) -> str:
    """A text of Python's, quoted as the formatter does it."""
    is_plain = value.isprintable() and not {"'", "\\"} & {*value}
    return f"'{value}'" if '"' in value and is_plain else json.dumps(value, ensure_ascii=False)


def tuple_in_python(names: Sequence[str]) -> str:
    """A tuple of texts, likewise."""
    listed = ", ".join(in_python(name) for name in names)
    return f"({listed},)" if len(names) == 1 else f"({listed})"


def _put(text: str, node: ast.expr, new: str) -> str:
    return text[: _start(text, node)] + new + text[_end(text, node) :]


def _start(text: str, node: ast.expr) -> int:
    return _place(text, node.lineno, node.col_offset)


def _end(text: str, node: ast.expr) -> int:
    return _place(text, node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)


def _place(text: str, line: int, column: int) -> int:
    """Where a line's byte stands in the text."""
    lines = text.split("\n")  # as Python counts them: no page break or separator of Unicode's ends one
    own = lines[line - 1].encode()[:column].decode()
    return sum(len(before) + 1 for before in lines[: line - 1]) + len(own)


def _indent(text: str, place: int) -> str:
    line = text[text.rfind("\n", 0, place) + 1 :]
    return line[: len(line) - len(line.lstrip(" "))]
