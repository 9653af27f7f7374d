"""Which upstream columns a column is made of: sqlglot reads the SQL models, Polars' own plan the others."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transforms import registry as registries
from transforms.contract import ContractError, Table
from transforms.model import FRONT_MATTER, Model, place
from transforms.registry import Registry

_TABLE_MARK = "__table__"


@dataclass(frozen=True, order=True)
class Origin:
    """A column of an upstream table."""

    table: str
    column: str


@dataclass(frozen=True)
class ColumnLineage:
    """Where a column comes from; `passed_through` is the one column it is, unchanged but for its type."""

    origins: tuple[Origin, ...]
    passed_through: Origin | None = None


def lineage(name: str, registry: Registry | None = None) -> Mapping[str, ColumnLineage]:
    """Lineage of every stored column of `name`; empty for raw tables.

    Raises ContractError when a model can't be read so far.
    """
    registry = registry or registries.default()
    if name not in registry.models:
        registry.table(name)
        return {}
    model = registry.models[name]
    if name not in registry.traced:
        registry.traced[name] = (_of_sql if model.sql is not None else _of_polars)(model, registry)
    traced: Mapping[str, ColumnLineage] = registry.traced[name]
    return traced


# ------------------------------------------------------------------------------------------------------- SQL


def _of_sql(model: Model, registry: Registry) -> dict[str, ColumnLineage]:
    # sqlglot takes half a second to import; only the commands that show or write documentation pay for it.
    from sqlglot import errors, parse_one
    from sqlglot.lineage import lineage as trace
    from sqlglot.optimizer import build_scope, qualify

    table = model.table
    schema: dict[str, object] = {
        upstream: {column.name: column.type for column in registry.table(upstream).columns}
        for upstream in table.upstreams
    }
    try:
        tree = qualify.qualify(
            parse_one(_body(model), read="duckdb"),
            dialect="duckdb",
            schema=schema,
            validate_qualify_columns=False,
            identify=False,
        )
        scope = build_scope(tree)
    except errors.SqlglotError as error:
        where = place(table.path) if table.path else table.name
        raise ContractError(f"{where}: its column lineage can't be read: {error}") from error
    found = {}
    for column in table.columns:
        try:
            root = trace(column.name, tree, scope=scope, dialect="duckdb", schema=schema, copy=False)
            found[column.name] = _column_lineage(root)
        except (errors.SqlglotError, ValueError):
            # sqlglot can't follow every form (`union all by name`): names are then what is known.
            found[column.name] = _by_name(column.name, table, registry)
    return found


def _by_name(column: str, table: Table, registry: Registry) -> ColumnLineage:
    """The columns of this name in the upstreams; which of them it is stays unknown."""
    same = (
        Origin(upstream, column)
        for upstream in table.upstreams
        if any(other.name == column for other in registry.table(upstream).columns)
    )
    return ColumnLineage(tuple(sorted(same)))


def _body(model: Model) -> str:
    """The SQL without its front matter, which sqlglot would read as a comment of the first word."""
    return FRONT_MATTER.sub("", model.sql or "", count=1)


def _column_lineage(root: Any) -> ColumnLineage:
    from sqlglot import exp

    origins = {
        Origin(node.source.name, node.name.rsplit(".", 1)[-1].strip('"'))
        for node in root.walk()
        if not node.downstream and isinstance(node.source, exp.Table) and node.name != "*"
    }
    return ColumnLineage(tuple(sorted(origins)), _passed_through(root))


def _passed_through(node: Any) -> Origin | None:
    from sqlglot import exp

    while node.downstream:
        expression = node.expression
        while isinstance(expression, exp.Alias | exp.Cast | exp.Paren):
            expression = expression.this
        if not isinstance(expression, exp.Column) or len(node.downstream) != 1:
            return None
        node = node.downstream[0]
    if isinstance(node.source, exp.Table):
        return Origin(node.source.name, node.name.rsplit(".", 1)[-1].strip('"'))
    return None


# ---------------------------------------------------------------------------------------------------- Polars


def _of_polars(model: Model, registry: Registry) -> dict[str, ColumnLineage]:
    """Walks the plan that `build` makes over empty frames, each with a column named after its table."""
    from transforms import engine

    if model.build is None:
        return {}
    connection = engine.connect(threads=1)
    frames = {}
    for upstream in model.table.upstreams:
        columns = registry.table(upstream).columns
        frame = engine.polars_input(engine.empty(columns, connection)).collect()
        frames[upstream] = frame.with_columns(_mark(upstream)).lazy()
    with warnings.catch_warnings():
        # The JSON form is deprecated for storing plans; nothing here is stored.
        warnings.simplefilter("ignore", UserWarning)
        plan = json.loads(model.build(**frames).serialize(format="json"))
    connection.close()
    found = _walk(plan)
    everything = frozenset().union(*found.values()) if found else frozenset()
    result = {}
    for column in model.table.columns:
        origins = sorted(found.get(column.name, everything))
        same_name = [origin for origin in origins if origin.column == column.name]
        only = same_name[0] if len(origins) == 1 and same_name else None
        result[column.name] = ColumnLineage(tuple(origins), only)
    return result


def _mark(table: str) -> Any:
    import polars as pl

    return pl.lit(None, dtype=pl.Boolean).alias(_TABLE_MARK + table)


Origins = dict[str, frozenset[Origin]]


def _walk(node: Any) -> Origins:
    """Output column → origins of one plan node; a node of an unknown kind hands its inputs' columns on."""
    if not isinstance(node, dict):
        return {}
    ((kind, body),) = node.items() if len(node) == 1 else (("", node),)
    if kind == "DataFrameScan":
        fields = list(body["schema"]["fields"])
        table = next((name.removeprefix(_TABLE_MARK) for name in fields if name.startswith(_TABLE_MARK)), "")
        own = (name for name in fields if not name.startswith(_TABLE_MARK))
        return {name: frozenset({Origin(table, name)}) for name in own} if table else {}
    if not isinstance(body, dict):
        return {}
    known: Origins = {}
    for part in _inputs(body):
        for name, origins in _walk(part).items():
            target = f"{name}_right" if name in known and "input_right" in body else name
            known[target] = known.get(target, frozenset()) | origins
    result = dict(known)
    _rename(body.get("function"), result)
    for expression in (
        *body.get("expr", ()),
        *body.get("exprs", ()),
        *body.get("keys", ()),
        *body.get("aggs", ()),
    ):
        roots = list(_roots(expression))
        output = _name(expression) or (roots[0] if roots else None)
        if output is not None:
            none: frozenset[Origin] = frozenset()
            result[output] = none.union(*(known.get(root, none) for root in roots))
    return result


def _inputs(body: Mapping[str, Any]) -> Iterator[Any]:
    for word in ("input", "input_left", "input_right", "contexts", "inputs"):
        value = body.get(word)
        yield from value if isinstance(value, list) else ([value] if value is not None else [])


def _rename(function: Any, columns: Origins) -> None:
    if isinstance(function, dict) and isinstance(function.get("Rename"), dict):
        rename = function["Rename"]
        pairs: Iterable[tuple[str, str]] = zip(rename["existing"], rename["new"], strict=True)
        for old, new in pairs:
            if old in columns:
                columns[new] = columns.pop(old)


def _name(expression: Any) -> str | None:
    if isinstance(expression, dict):
        alias = expression.get("Alias")
        if isinstance(alias, list):
            return str(alias[-1])
        for value in expression.values():
            found = _name(value) if isinstance(value, dict) else None
            if found:
                return found
    return None


def _roots(expression: Any) -> Iterator[str]:
    """Names of all columns that an expression reads."""
    if isinstance(expression, dict):
        for word, value in expression.items():
            if word == "Column" and isinstance(value, str):
                yield value
            else:
                yield from _roots(value)
    elif isinstance(expression, list):
        for value in expression:
            yield from _roots(value)
