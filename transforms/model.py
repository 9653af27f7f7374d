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
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import yaml

from transforms.contract import Column, ContractError, Layer, Table, check_name
from transforms.header import Header, read_header
from transforms.postgres_types import postgres_type
from transforms.queries import hold_to_as_of, tables_of
from transforms.tokens import Item, final_select

RESERVED = "_"
"""Columns that start with it steer the engine (`_dead_letter_reason`, `_batch_id`, `_seq`) and are not
stored."""

_PUBLISHED = {layer.value for layer in Layer if layer.is_published}
MODEL_LAYERS = (Layer.STAGING, Layer.DIMENSIONS, Layer.FACTS, Layer.MARTS)
_PACKAGE = Path(__file__).parent
DEAD_LETTER_REASON = "_dead_letter_reason"
"""Column that says why a row can't be one of the table; null where it is one."""
_PLACE = ("_batch_id", "_seq")
FRONT_MATTER = re.compile(r"\A\s*/\*\s*---[ \t]*\n(?P<header>.*?)\n[ \t]*---\s*\*/", re.DOTALL)


_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class TextLoader(_Yaml):  # type: ignore[misc]
    """YAML whose dates and times stay the text that they are: databases compare and cast them, not Python."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to configure a loader
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Yaml.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A word that stands twice is refused: what it says first would be lost without a word."""
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # YAML itself says what is wrong with it
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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


def text_of_file(path: Path) -> str:
    """The text of a model's file, without the mark that some editors begin it with. Raises ContractError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContractError(
            f"{place(path)}: it is no UTF-8 (byte {error.start + 1:,}). Save it as UTF-8."
        ) from error


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
    layer = path.parent.name
    checked = [_column(c.name, c.type, c.description, where, None, read, layer) for c in columns]
    return _table(path, read, checked, ())


def _load_sql(path: Path) -> Model:
    where = place(path)
    text = text_of_file(path)
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
    columns = [_item_column(item, where, header, path.parent.name) for item in items]
    _refuse_repeated(items, where)
    upstreams = tuple(sorted(tables_of(text, where) - {path.stem}))
    hold_to_as_of(text, header, upstreams, where)
    table = _table(path, header, [c for c in columns if not c.name.startswith(RESERVED)], upstreams)
    reserved = tuple(column for column in columns if column.name.startswith(RESERVED))
    _refuse_lost_letters({column.name for column in reserved}, where)
    return Model(table, sql=text, reserved=reserved)


def _sql_header(match: re.Match[str], text: str, where: str) -> Header:
    source = match.group("header")
    first_line = text.count("\n", 0, match.start("header")) + 1
    try:
        words = yaml.load(source, Loader=TextLoader)
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


def _item_column(item: Item, where: str, header: Header, layer: str) -> Column:
    if item.type is None:
        raise ContractError(
            f"{where}:{item.line}: column {item.name} has no type. "
            f"End its expression with a cast: `…::varchar as {item.name},`."
        )
    return _column(item.name, item.type, item.documentation, where, item.line, header, layer)


def _column(
    name: str, type_: str, documentation: str, where: str, line: int | None, header: Header, layer: str
) -> Column:
    at = f"{where}:{line}" if line else where
    try:
        check_name(name.removeprefix(RESERVED))
    except ContractError as error:
        raise ContractError(f"{at}: column {name}: {error} Give it such a name behind `as`.") from error
    try:
        canonical = canonical_type(type_)
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
    column = Column(
        name=name,
        type=canonical,
        description=documentation,
        nullable=name not in header.required,
        pii=name in header.pii,
        max_length=header.lengths.get(name),
    )
    if layer in _PUBLISHED and not name.startswith(RESERVED):
        try:
            postgres_type(column)
        except ContractError as error:
            raise ContractError(f"{at}: {error}") from error
    return column


def _refuse_lost_letters(names: set[str], where: str) -> None:
    missing = [name for name in _PLACE if name not in names]
    if DEAD_LETTER_REASON in names and missing:
        raise ContractError(
            f"{where}: it selects {DEAD_LETTER_REASON} and no {' and no '.join(missing)}, by which the bytes "
            "of a dead letter are found. Select `_batch_id::varchar as _batch_id` and `_seq::bigint as _seq` "
            "of the raw table, too."
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
    header.check_columns({column.name: column.type for column in columns}, where)
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


def _load_python(path: Path) -> Model:
    """Read TABLE and build's parameters without importing the file.

    Polars takes half a second to import, and most commands only want to know which tables there are. So
    TABLE may use nothing but literals and what is imported from transforms.
    """
    where = place(path)
    try:
        tree = ast.parse(text_of_file(path), filename=str(path))
    except SyntaxError as error:
        raise ContractError(f"{where}:{error.lineno}: Python can't read it: {error.msg}.") from error
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
    except (ImportError, TypeError, ValueError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(
            f"{where}: TABLE can't be made ({error}). Write it as docs/add-a-table.md shows."
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
