"""Which upstream columns a column is made of: sqlglot reads the SQL models, Polars' own plan the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from transforms import registry as registries
from transforms.contract import Column, ContractError
from transforms.lineage_steps import ROWS, Kind, Made, Origin, Traced
from transforms.model import FRONT_MATTER, Model, canonical_type, place
from transforms.registry import Registry

__all__ = ["ROWS", "ColumnLineage", "Kind", "Origin", "conditions", "lineage", "rows", "steps", "types"]


@dataclass(frozen=True)
class ColumnLineage:
    """Where a column comes from; `passed_through` is the one column it is, unchanged but for its type.

    `kinds` says of each origin how it is made of it, `ROWS` among them where rows are counted. A constant
    has none.
    """

    origins: tuple[Origin, ...]
    passed_through: Origin | None = None
    kinds: Mapping[Origin, Kind] = field(default_factory=dict)


def lineage(name: str, registry: Registry | None = None) -> Mapping[str, ColumnLineage]:
    """Lineage of every stored column of `name`; empty for raw tables.

    Raises ContractError when a model can't be read so far.
    """
    registry = registry or registries.default()
    traced = _traced(name, registry)
    if traced is None:
        return {}
    table = registry.table(name)
    return steps(table.columns, traced, types(registry, table.upstreams))


def conditions(name: str, registry: Registry | None = None) -> Mapping[Origin, Kind]:
    """Upstream columns that say which rows `name` has: in its filters and joins, and what it groups by."""
    traced = _traced(name, registry or registries.default())
    return traced.conditions if traced is not None else {}


def rows(name: str, registry: Registry | None = None) -> tuple[str, ...]:
    """Upstreams whose rows those of `name` are, or are added up from; not those only looked up in."""
    traced = _traced(name, registry or registries.default())
    return traced.rows if traced is not None else ()


def types(registry: Registry, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Column → type, by table: what a query over these tables is traced with."""
    return {name: {column.name: column.type for column in registry.table(name).columns} for name in names}


def steps(
    columns: Iterable[Column], traced: Traced, upstreams: Mapping[str, Mapping[str, str]]
) -> Mapping[str, ColumnLineage]:
    """How each of these columns is made, told by names and types: its own and those of what it is made of."""
    found = {}
    for column in columns:
        kinds = {
            origin: _kind(made, origin, upstreams[origin.table].get(origin.column, ""), column)
            for origin, made in sorted(traced.columns.get(column.name, {}).items())
        }
        origins = tuple(origin for origin in kinds if origin.column != ROWS)
        is_one = len(origins) == 1 and kinds[origins[0]] <= Kind.CAST
        found[column.name] = ColumnLineage(origins, origins[0] if is_one else None, kinds)
    return found


def _kind(made: Made, origin: Origin, before: str, column: Column) -> Kind:
    if made.kind > Kind.CAST:
        return made.kind
    # Nobody declares the types of a view.
    said = {before, column.type, *(canonical_type(cast) for cast in made.casts)} - {""}
    if len(said) > 1:
        return Kind.CAST
    return Kind.PASS if column.name == origin.column else Kind.RENAME


def _traced(name: str, registry: Registry) -> Traced | None:
    if name not in registry.models:
        registry.table(name)
        return None
    if name not in registry.traced:
        model = registry.models[name]
        registry.traced[name] = (_of_sql if model.sql is not None else _of_polars)(model, registry)
    traced: Traced = registry.traced[name]
    return traced


def _of_sql(model: Model, registry: Registry) -> Traced:
    # sqlglot takes half a second to import; only the commands that show or write documentation pay for it.
    from sqlglot import errors

    from transforms import lineage_sql

    table = model.table
    schema = types(registry, table.upstreams)
    try:
        # The front matter goes: sqlglot would read it as a comment of the first word.
        return lineage_sql.trace(FRONT_MATTER.sub("", model.sql or "", count=1), schema)
    except errors.SqlglotError as error:
        where = place(table.path) if table.path else table.name
        raise ContractError(f"{where}: its column lineage can't be read: {error}") from error


def _of_polars(model: Model, registry: Registry) -> Traced:
    from transforms import engine, lineage_polars

    if model.build is None:
        return Traced({}, {}, ())
    table = model.table
    connection = engine.connect(threads=1)
    try:
        frames = {
            upstream: lineage_polars.marked(
                engine.polars_input(engine.empty(registry.table(upstream).columns, connection)).collect(),
                upstream,
            )
            for upstream in table.upstreams
        }
        return lineage_polars.trace(model.build(**frames), [column.name for column in table.columns])
    except (Exception, SystemExit) as error:  # the model's own code runs here, and may raise anything
        where = place(table.path) if table.path else table.name
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ContractError(f"{where}: its column lineage can't be read: {said[0]}") from error
    finally:
        connection.close()
