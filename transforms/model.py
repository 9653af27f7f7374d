"""Reads one model file and says what table it makes.

A `.sql` model: a front-matter comment (what SQL can't say), then plain DuckDB SQL whose final select gives
the columns: the cast the type, the trailing comment the documentation. A `.py` model: `TABLE =
polars_table(__file__, …)` with the same words as keywords, and `build(<upstream>: pl.LazyFrame, …) ->
pl.LazyFrame`. Name and layer come from the path. Every error is a ContractError with file, line and what to
write instead.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import yaml

from transforms.contract import VALID_FROM, Column, ContractError, Layer, Table, check_name
from transforms.header import Header, read_header
from transforms.tokens import Item, final_select

RESERVED = "_"
"""Columns that start with it steer the engine (`_dead_letter_reason`, `_batch_id`, `_seq`) and are not
stored."""

MODEL_LAYERS = (Layer.STAGING, Layer.DIMENSIONS, Layer.FACTS, Layer.MARTS)
_PACKAGE = Path(__file__).parent
FRONT_MATTER = re.compile(r"\A\s*/\*\s*---[ \t]*\n(?P<header>.*?)\n[ \t]*---\s*\*/", re.DOTALL)


_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _HeaderLoader(_Yaml):  # type: ignore[misc]
    """Leaves dates and times the text they are: rules are compared by databases, not by Python."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to configure a loader
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Yaml.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Model:
    """A table with the code that makes it: `sql` (the file as it stands) or `build` (Polars), never both.

    `reserved` are the columns starting with `_` that the code gives beside the table's own, `passed` those
    of its own that the code does not name.
    """

    table: Table
    sql: str | None = None
    build: Callable[..., Any] | None = None
    reserved: tuple[Column, ...] = ()
    passed: tuple[Column, ...] = ()


def place(path: Path) -> str:
    """How errors name a model file: `facts/fct_orders.sql`."""
    return f"{path.parent.name}/{path.name}"


@lru_cache(maxsize=512)
def canonical_type(text: str) -> str:
    """DuckDB's own spelling of a type: `timestamptz` is `TIMESTAMP WITH TIME ZONE`. Raises ContractError."""
    try:
        return str(duckdb.sqltype(text))
    except duckdb.Error as error:
        raise ContractError(f"'{text}' is no DuckDB type") from error


def load(path: Path) -> Model:
    """Read the model file at `path`. Raises ContractError."""
    return _load_sql(path) if path.suffix == ".sql" else _load_python(path)


def polars_table(file: str, *, columns: Sequence[Column], **header: Any) -> Table:
    """The table of a `.py` model: name and layer from its path, `header` in the words of a SQL model's
    header.

    Upstreams are the parameter names of the module's `build`; they are filled in when the registry loads it.
    """
    path = Path(file).resolve()
    where = place(path)
    read = read_header({**header}, where, lambda _key: None)
    checked = [_column(column.name, column.type, column.description, where, None, read) for column in columns]
    return _table(path, read, checked, ())


def _load_sql(path: Path) -> Model:
    where = place(path)
    text = path.read_text(encoding="utf-8")
    match = FRONT_MATTER.match(text)
    if match is None:
        raise ContractError(
            f"{where}:1: it does not begin with a header. Write `/* ---`, then grain, key, one a line, "
            "then `--- */` before the SQL."
        )
    header = _sql_header(match, text, where)
    body_start = match.end()
    shift = text.count("\n", 0, body_start)
    # Blank lines instead of the header keep the line numbers of errors those of the file.
    items = final_select("\n" * shift + text[body_start:], where)
    columns = [_item_column(item, where, header) for item in items]
    _refuse_repeated(items, where)
    upstreams = tuple(sorted(_tables_of(text, where) - {path.stem}))
    _hold_to_as_of(text, header, upstreams, where)
    table = _table(path, header, [c for c in columns if not c.name.startswith(RESERVED)], upstreams)
    return Model(table, sql=text, reserved=tuple(c for c in columns if c.name.startswith(RESERVED)))


def _sql_header(match: re.Match[str], text: str, where: str) -> Header:
    source = match.group("header")
    first_line = text.count("\n", 0, match.start("header")) + 1
    try:
        words = yaml.load(source, Loader=_HeaderLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = first_line + (mark.line if mark is not None else 0)
        problem = getattr(error, "problem", None) or str(error)
        raise ContractError(
            f"{where}:{line}: the header is no YAML ({problem}). Write it as `name: value` lines."
        ) from error
    if not isinstance(words, dict):
        raise ContractError(f"{where}:{first_line}: the header says nothing. Write at least grain and key.")

    def line_of(key: str) -> int | None:
        found = re.search(rf"^\s*-?\s*{re.escape(key)}\s*:", source, re.MULTILINE)
        return first_line + source.count("\n", 0, found.end()) if found else first_line

    return read_header(words, where, line_of)


def _item_column(item: Item, where: str, header: Header) -> Column:
    if item.type is None:
        raise ContractError(
            f"{where}:{item.line}: column {item.name} has no type. "
            f"End its expression with a cast: `…::varchar as {item.name},`."
        )
    return _column(item.name, item.type, item.documentation, where, item.line, header)


def _column(
    name: str, type_: str, documentation: str, where: str, line: int | None, header: Header
) -> Column:
    at = f"{where}:{line}" if line else where
    try:
        canonical = canonical_type(type_)
        check_name(name.removeprefix(RESERVED))
    except ContractError as error:
        raise ContractError(
            f"{at}: column {name}: {error}. Write a cast to a DuckDB type, `…::bigint as {name},`."
        ) from error
    if re.match(r"(var)?char(acter)?( varying)?\s*\(", type_, re.IGNORECASE):
        length = re.sub(r"\D", "", type_)
        raise ContractError(
            f"{at}: DuckDB forgets the length in {type_}. Cast {name} to varchar and write "
            f"`lengths: {{{name}: {length}}}` in the header."
        )
    return Column(
        name=name,
        type=canonical,
        description=documentation,
        nullable=name not in header.required,
        pii=name in header.pii,
        max_length=header.lengths.get(name),
    )


def _refuse_repeated(items: Sequence[Item], where: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise ContractError(
                f"{where}:{item.line}: column {item.name} is selected twice. Rename one of them."
            )
        seen.add(item.name)


def _table(path: Path, header: Header, columns: Sequence[Column], upstreams: tuple[str, ...]) -> Table:
    where = place(path)
    try:
        layer = Layer(path.parent.name)
    except ValueError as error:
        folders = ", ".join(layer.value for layer in MODEL_LAYERS)
        raise ContractError(
            f"{where}: a model's folder is its layer. Move the file to one of {folders}."
        ) from error
    header.check_columns({column.name for column in columns}, where)
    if header.passes and layer is not Layer.STAGING:
        raise ContractError(f"{where}: passes is for staging. Select what people read, and take it out.")
    try:
        return Table(
            name=path.stem,
            layer=layer,
            columns=tuple(columns),
            upstreams=upstreams,
            path=path,
            **header.table_arguments(path.stem),
        )
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from error


def _hold_to_as_of(sql: str, header: Header, upstreams: Sequence[str], where: str) -> None:
    """What the header joins as of a time, the text joins so, and nothing else."""
    joined = dict(_as_of_joins(_tree(sql, where)))
    for history, moment in header.as_of.items():
        columns = joined.get(history)
        if columns is None or not {VALID_FROM, moment} <= columns:
            raise ContractError(
                f"{where}: as_of names {history} at {moment}, and the text does not join it so. Write "
                f"`asof left join {history} as h on … = … and f.{moment} >= h.{VALID_FROM}`."
            )
    for history in joined.keys() & set(upstreams):
        if history not in header.as_of:
            raise ContractError(
                f"{where}: it joins {history} as of a time that the header does not name. Write e.g. "
                f"`as_of: {{{history}: created_at}}`, so that only the windows that it concerns are rebuilt."
            )


def _as_of_joins(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Tables that a query joins with ASOF, each with the names of the columns in its condition."""
    if isinstance(node, dict):
        right = node.get("right")
        if node.get("ref_type") == "ASOF" and isinstance(right, dict) and right["type"] == "BASE_TABLE":
            yield str(right["table_name"]), set(_columns_in(node.get("condition")))
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _as_of_joins(part)


def _columns_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "COLUMN_REF":
            yield str(node["column_names"][-1])
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _columns_in(part)


@lru_cache(maxsize=1)
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"threads": 1})


def _tables_of(sql: str, where: str) -> set[str]:
    """Bare names of the tables a query reads, its own CTEs left out."""
    return set(_base_tables(_tree(sql, where), frozenset()))


@lru_cache(maxsize=2)
def _tree(sql: str, where: str) -> Any:
    """A query as DuckDB reads it."""
    row = _parser().cursor().execute("select json_serialize_sql(?)", [sql]).fetchall()[0]
    parsed = json.loads(row[0])
    if parsed["error"]:
        line = sql.count("\n", 0, int(parsed.get("position") or 0)) + 1
        raise ContractError(f"{where}:{line}: DuckDB can't read it: {parsed['error_message']}.")
    if len(parsed["statements"]) != 1:
        raise ContractError(f"{where}: a model is one select; it has {len(parsed['statements'])} statements.")
    return parsed["statements"][0]["node"]


def _base_tables(node: Any, ctes: frozenset[str]) -> Iterator[str]:
    """Tables of a query as DuckDB serializes it; a CTE hides a table only from what stands behind it."""
    if isinstance(node, list):
        for part in node:
            yield from _base_tables(part, ctes)
    if not isinstance(node, dict):
        return
    if node.get("type") == "RECURSIVE_CTE_NODE":
        ctes |= {node["cte_name"]}
    for cte in node.get("cte_map", {}).get("map", ()):
        yield from _base_tables(cte["value"], ctes)
        ctes |= {cte["key"]}
    if node.get("type") == "BASE_TABLE" and not node.get("schema_name") and node["table_name"] not in ctes:
        yield str(node["table_name"])
    for word, part in node.items():
        if word != "cte_map":
            yield from _base_tables(part, ctes)


def _load_python(path: Path) -> Model:
    """Read TABLE and build's parameters without importing the file.

    Polars takes half a second to import, and most commands only want to know which tables there are. So
    TABLE may use nothing but literals and what is imported from transforms.
    """
    where = place(path)
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    builds = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build"]
    kept = [node for node in tree.body if _says_table(node)]
    if not builds or not isinstance(kept[-1] if kept else None, ast.Assign):
        raise ContractError(
            f"{where}: a Polars model has `TABLE = polars_table(__file__, …)` and "
            "`def build(<upstream>: pl.LazyFrame) -> pl.LazyFrame`. Add what is missing."
        )
    names: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
    try:
        exec(compile(ast.Module(kept, []), str(path), "exec"), names)
    except NameError as error:
        raise ContractError(
            f"{where}: TABLE uses {error.name}. "
            "Write it with literals and names imported from transforms only."
        ) from error
    upstreams = tuple(sorted(argument.arg for argument in builds[0].args.args))
    if not upstreams:
        raise ContractError(f"{where}: build has no parameters. Name its upstream tables as parameters.")
    table: Table = names["TABLE"]

    def build(**frames: Any) -> Any:
        return _import(path).build(**frames)

    return Model(replace(table, upstreams=upstreams), build=build)


def _says_table(node: ast.stmt) -> bool:
    """Whether a statement is TABLE itself, or imports what TABLE is written with."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in {"__future__", _PACKAGE.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "TABLE" for target in targets)


def _import(path: Path) -> ModuleType:
    """Import a model's module; one outside this package (a test's) is imported from its file."""
    try:
        relative = path.resolve().relative_to(_PACKAGE)
    except ValueError:
        spec = importlib.util.spec_from_file_location(f"_model_{path.parent.name}_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ContractError(f"{place(path)}: Python can't import it; give it a .py name.") from None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return importlib.import_module(".".join((_PACKAGE.name, *relative.with_suffix("").parts)))
