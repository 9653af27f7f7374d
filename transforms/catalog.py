"""What the tables are: documentation, Arrow schemas, and fingerprints that say when one must be rebuilt."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transforms import engine
from transforms import registry as registries
from transforms.contract import Column, Table
from transforms.lineage import ColumnLineage, lineage
from transforms.model import Model, text_of_file
from transforms.registry import Registry
from transforms.tokens import scan, text_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ColumnLineage",
    "arrow_schema",
    "columns",
    "description",
    "dictionary",
    "fingerprint",
    "lineage",
]


_PACKAGE = Path(__file__).parent
_DECLARING = ("contract", "model")


def fingerprint(table: Table | str, registry: Registry | None = None) -> str:
    """A digest of what decides a table's rows: code (that of a module of this package from which it takes
    something, too), columns, key, partition and way of writing.

    Formatting, comments, documentation and expectations don't count. A partition that was built with another
    fingerprint than its table has now is built again.
    """
    registry = registry or registries.default()
    own = registry.table(table) if isinstance(table, str) else table
    if own.name not in registry.codes:
        model = registry.models.get(own.name)
        registry.codes[own.name] = _code(model) if model else None
    said: dict[str, Any] = {
        "columns": [(column.name, column.type) for column in own.columns],
        "key": own.key,
        "partition": asdict(own.partition) if own.partition else None,
        "write": own.write.value,
        "changed": own.changed,
        "by_key": dict(own.by_key),
        **({"looks_up": {name: asdict(one) for name, one in own.looks_up.items()}} if own.looks_up else {}),
        **({"mentioned_by": dict(own.mentioned_by)} if own.mentioned_by else {}),
        "lookback": own.lookback.total_seconds(),
        "tie_break": own.tie_break,
        "code": registry.codes[own.name],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _code(model: Model) -> str:
    """The model's code without what says nothing: comments and spacing; docstrings and TABLE in Python."""
    if model.sql is not None:
        return text_of(scan(model.sql)).rstrip("; ")
    if model.table.path is None:
        return ""
    return "\n".join(_python(model.table.path, set()))


def _python(path: Path, seen: set[Path]) -> Iterator[str]:
    """The code of a file, then that of each module of this package which it imports, once."""
    seen.add(path)
    tree = ast.parse(text_of_file(path))
    tree.body = [statement for statement in tree.body if not _assigns_table(statement)]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [statement for statement in body if not _is_text(statement)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    yield ast.unparse(tree)
    for helper in _helpers(tree):
        if helper not in seen:
            yield from _python(helper, seen)


def _helpers(tree: ast.Module) -> Iterator[Path]:
    """The modules of this package that a file imports, without those that say what a table is: of these the
    table itself is told.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != _PACKAGE.name:
            continue
        inside = (node.module or "").split(".")[1:]
        for parts in (inside, *([*inside, alias.name] for alias in node.names)):
            path = _PACKAGE.joinpath(*parts).with_suffix(".py")
            if parts and path.is_file() and path.stem not in _DECLARING:
                yield path


def _assigns_table(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "TABLE" for target in targets)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow schema of the table's columns, in their order: the order and the types of a COPY."""
    import pyarrow

    connection = engine.connect(threads=1)
    try:
        empty = engine.empty(table.columns, connection).to_arrow_table()
    finally:
        connection.close()
    fields = [
        field.with_nullable(column.nullable)
        for field, column in zip(empty.schema, table.columns, strict=True)
    ]
    return pyarrow.schema(fields)


def columns(table: Table | str, registry: Registry | None = None) -> tuple[Column, ...]:
    """The table's columns, each with its documentation: its own, or that of the column it passes through."""
    registry = registry or registries.default()
    own = registry.table(table) if isinstance(table, str) else table
    if own.name not in registry.tables or all(column.description for column in own.columns):
        return own.columns
    return tuple(_documented(own, column, registry) for column in own.columns)


def _documented(table: Table, column: Column, registry: Registry) -> Column:
    if column.description:
        return column
    origin = lineage(table.name, registry).get(column.name)
    if origin is None or origin.passed_through is None:
        return column
    source = origin.passed_through
    upstream = registry.table(source.table)
    inherited = _documented(upstream, upstream.column(source.column), registry)
    return replace(column, description=inherited.description)


def description(table: Table) -> str:
    """What a table is, in a sentence or two: its description, then its grain."""
    grain = table.grain[:1].upper() + table.grain[1:]
    return f"{table.description.rstrip('.')}. {grain}." if table.description else f"{grain}."


def dictionary(registry: Registry | None = None) -> list[dict[str, Any]]:
    """The entries of all tables; transforms.dictionary has views and charts too."""
    from transforms import dictionary, lineage_graph

    registry = registry or registries.default()
    return dictionary.entries(lineage_graph.build(registry, (), ()), registry)
