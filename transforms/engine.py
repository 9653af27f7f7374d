"""Runs a model over the relations it is given. No disk layout, no network: who calls decides what is read.

A model sees its upstreams under their own names, each cast to its declared columns; what it gives comes
back as exactly the table's columns, in order and type. The file's text runs as it stands anywhere else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from transforms import casts, changes
from transforms import registry as registries
from transforms.contract import Column, ContractError, Table
from transforms.model import DEAD_LETTER_REASON, Model, place
from transforms.registry import Registry
from transforms.tokens import with_items
from transforms.told import OF_PYTHON, line_of, said_by_polars, said_by_python, without_values

if TYPE_CHECKING:
    import polars as pl


Source = DuckDBPyRelation | str | Path | Sequence[str | Path] | None
"""What an upstream may be read from: a relation, a query or table name, Parquet files (none: no rows), or
nothing."""

_serial = itertools.count(1)


class ModelError(RuntimeError):
    """A model did not run; the message names the file and what DuckDB or Polars said, without any value.

    What they raised is no cause of it: a traceback would show the row that they quote.
    """


@dataclass(frozen=True)
class Computed:
    """What a model gave. Where it can reject rows, all are in the temporary table `held`, the caller's."""

    model: Model
    connection: DuckDBPyConnection
    query: str
    """SQL for the table's rows."""
    rejected: str | None
    """SQL for its dead letters; None where the model rejects none."""
    held: str | None = None

    @cached_property
    def rows(self) -> DuckDBPyRelation:
        """The table's rows. Raises ModelError when the model fails while it is bound."""
        return self.select(*(column.name for column in self.model.table.columns))

    @cached_property
    def dead_letters(self) -> DuckDBPyRelation | None:
        """A reason, and what is needed to find the bytes."""
        return None if self.rejected is None else self.connection.sql(self.rejected)

    def select(self, *columns: str) -> DuckDBPyRelation:
        """These columns of the rows. Raises ModelError like `rows`."""
        try:
            return self.connection.sql(f"select {', '.join(map(quoted, columns))} from ({self.query})")
        except duckdb.Error as error:
            raise _model_error(self.model, error) from None

    def store(self, name: str) -> None:
        """Compute the rows into a temporary table, in the place of one that is there. Raises ModelError."""
        try:
            self.connection.execute(f"create or replace temp table {name} as {self.query}")
        except duckdb.Error as error:
            raise _model_error(self.model, error) from None


def connect(
    memory_limit: str | None = None,
    threads: int | None = None,
    temp_directory: Path | None = None,
    *,
    keeps_order: bool = False,
) -> DuckDBPyConnection:
    """An in-memory DuckDB in UTC that never downloads an extension and gives Arrow its exact types.

    What does not fit in `memory_limit` ('2GB') goes to `temp_directory`, by default `.tmp` in the current
    folder. `keeps_order`: rows come in the order of the source that has no other; it costs memory. Use one
    `cursor()` per thread; what a run leaves on a cursor goes when the cursor is closed.
    """
    connection = duckdb.connect(
        ":memory:",
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False},
    )
    connection.execute("set global TimeZone = 'UTC'")  # also of its cursors
    connection.execute("set arrow_lossless_conversion = true")
    connection.execute("set preserve_insertion_order = ?", [keeps_order])
    connection.execute("set enable_progress_bar = false")
    if memory_limit is not None:
        connection.execute("set memory_limit = ?", [memory_limit])
    if temp_directory is not None:
        connection.execute("set temp_directory = ?", [str(temp_directory)])
    if threads is not None:
        connection.execute("set threads = ?", [threads])
    return connection


def run(
    table: Table | str,
    connection: DuckDBPyConnection,
    inputs: Mapping[str, Source],
    *,
    registry: Registry | None = None,
) -> DuckDBPyRelation:
    """The rows of `table`: its declared columns, in order and type; rows that are dead letters left out.

    Lazy where the model is SQL: it computes when the relation is read, over what the inputs hold by then.
    Raises ModelError when the model fails while it is bound, ContractError when an upstream is not among
    `inputs`.
    """
    return compute(table, connection, inputs, registry=registry).rows


def compute(
    table: Table | str,
    connection: DuckDBPyConnection,
    inputs: Mapping[str, Source],
    *,
    registry: Registry | None = None,
    beside: str = "",
) -> Computed:
    """As `run`, with the dead letters beside the rows.

    A model with `_dead_letter_reason` is computed once, into a temporary table of this connection, so that
    rows and dead letters are parted without computing twice. Dead letters have the declared columns (as far
    as they could be read) and every reserved column; `beside` is one more column of that table, as SQL over
    them.
    """
    registry = registry or registries.default()
    model = registry.model(table if isinstance(table, str) else table.name)
    everything = (*model.table.columns, *model.reserved)
    sources = {name: _source(name, model, connection, inputs, registry) for name in model.table.upstreams}
    try:
        if model.sql is not None:
            query = _query(model, sources, everything)
        else:
            query = _run_polars(model, connection, sources, everything)
        listed = ", ".join(quoted(column.name) for column in model.table.columns)
        if not any(column.name == DEAD_LETTER_REASON for column in model.reserved):
            return Computed(model, connection, f"select {listed} from ({query})", None)
        held = f"_computed_{next(_serial)}_{model.table.name}"
        name = quoted(held)
        more = f", {beside}" if beside else ""
        connection.execute(f"create temp table {name} as select *{more} from ({query})")
    except duckdb.Error as error:
        raise _model_error(model, error) from None
    return Computed(
        model,
        connection,
        f"select {listed} from {name} where {DEAD_LETTER_REASON} is null",
        f"select * from {name} where {DEAD_LETTER_REASON} is not null",
        held,
    )


def empty(columns: Sequence[Column], connection: DuckDBPyConnection) -> DuckDBPyRelation:
    """A relation of these columns without a row."""
    return connection.sql(_empty_query(columns))


def explain(error: duckdb.Error) -> str:
    """What DuckDB said, without the values it said it of.

    A conversion error quotes the row, which may hold a person. Errors in the SQL itself are left whole:
    they quote names.
    """
    message = str(error).strip()
    if isinstance(error, duckdb.BinderException | duckdb.ParserException | duckdb.CatalogException):
        return message
    said, line, shown = message.partition("\n\nLINE ")
    return without_values(re.sub(r"\s*Input:.*", "", said.splitlines()[0])) + line + shown


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(value: str) -> str:
    """`value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def _empty_query(columns: Sequence[Column]) -> str:
    fields = ", ".join(f"null::{column.type} as {quoted(column.name)}" for column in columns)
    return f"select {fields} where false"


def _source(
    name: str,
    model: Model,
    connection: DuckDBPyConnection,
    inputs: Mapping[str, Source],
    registry: Registry,
) -> str:
    """SQL that reads one upstream as its declared columns; a column that its files lack is null."""
    if name not in inputs:
        raise ContractError(
            f"{model.table.name} reads {name}, which it was not given. "
            f"Pass inputs[{name!r}] (None for no rows)."
        )
    return typed(name, connection, inputs[name], registry)


def typed(name: str, connection: DuckDBPyConnection, value: Source, registry: Registry | None = None) -> str:
    """A query for a table's declared columns out of what it is read from, as models see them."""
    registry = registry or registries.default()
    declared = _visible_columns(name, registry)
    if value is None or (not isinstance(value, DuckDBPyRelation | str | Path) and not value):
        return _empty_query(declared)
    if isinstance(value, DuckDBPyRelation):
        # A relation of Python objects has no SQL text of its own; a view does for every kind.
        view = f"_input_{next(_serial)}_{name}"
        value.create_view(view)
        relation, text = value, f"from {quoted(view)}"
    else:
        text = _text(value)
        relation = connection.sql(text)
    present = {column.lower() for column in relation.columns}
    entity = registry.entities.get(name)
    if entity is not None and changes.is_of_changes(present):
        text = changes.typed(entity, text, present)
        present = {column.name for column in declared}
    # What was read before a rename stands in its files under the name of then.
    own = {c.name: changes.as_read(c, present) for c in entity.columns if c.formerly} if entity else {}
    if entity is not None and changes.marks_deleted(entity) and "_op" in present:
        landed = changes.DELETED_AT if "_changed_at" in present else changes.DELETED_AT_READ
        own["_deleted_at"] = f"({landed})"
    fields = ", ".join(
        f"{own.get(c.name) or (quoted(c.name) if c.name.lower() in present else 'null')}::{c.type} "
        f"as {quoted(c.name)}"
        for c in declared
    )
    return f"select {fields} from ({text})"


def _visible_columns(name: str, registry: Registry) -> tuple[Column, ...]:
    return registry.table(name).columns


def _text(value: str | Path | Sequence[str | Path]) -> str:
    if isinstance(value, str) and not value.endswith(".parquet"):
        words = value.split(None, 1)
        return value if words and words[0].lower() in {"select", "from", "with"} else f"from {value}"
    paths = [value] if isinstance(value, str | Path) else value
    files = ", ".join(text_literal(str(path)) for path in paths)
    return f"from read_parquet([{files}], union_by_name = true, hive_partitioning = false)"


def _query(model: Model, sources: Mapping[str, str], columns: Sequence[Column]) -> str:
    """The model's text inside CTEs of its upstreams' names, what it passes on behind its last column.

    Names bound in the query itself can't be seen by another run on the same connection, and stay what they
    are when the relation is read later. Everything added stands before the text's first line, so DuckDB's
    line numbers are the file's.
    """
    ctes = ", ".join(f"{quoted(name)} as not materialized ({sql})" for name, sql in sources.items())
    fields = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in columns)
    body = (model.sql or "").rstrip().removesuffix(";")
    if model.passed:
        names = [quoted(column.name) for column in model.passed]
        body = with_items(body, names, place(model.table.path) if model.table.path else model.table.name)
    prefix = f"with {ctes} " if ctes else ""
    return f"{prefix}select {fields} from ({body}\n) as model"


def polars_input(relation: DuckDBPyRelation) -> pl.LazyFrame:
    """A relation as the lazy frame a `build` is given: uuid and JSON as text (Polars has neither)."""
    fields = ", ".join(
        f"{quoted(name)}::varchar as {quoted(name)}" if str(type_) in {"UUID", "JSON"} else quoted(name)
        for name, type_ in zip(relation.columns, relation.types, strict=True)
    )
    frame: pl.LazyFrame = relation.project(fields).pl(lazy=True)
    return frame


def _run_polars(
    model: Model,
    connection: DuckDBPyConnection,
    sources: Mapping[str, str],
    columns: Sequence[Column],
) -> str:
    """Run `build` over lazy frames of the upstreams and return a query over what it gave."""
    from polars import LazyFrame
    from polars.exceptions import ColumnNotFoundError, PolarsError, SchemaError

    if model.build is None:
        raise ContractError(f"{model.table.name} is no model: it has neither SQL nor a build function.")
    frames: dict[str, Any] = {}
    for name, sql in sources.items():
        frames[name] = polars_input(connection.sql(sql))
    try:
        result = model.build(**frames)
        if not isinstance(result, LazyFrame):
            raise ModelError(
                f"{_where(model)}: build gives a {type(result).__name__}, where a lazy frame belongs. Return "
                "what it selects, without `.collect()`."
            )
        frame = result.collect(engine="streaming")
    except (ColumnNotFoundError, SchemaError) as error:
        raise ModelError(f"{_where(model)}: Polars says: {str(error).splitlines()[0]}") from None
    except PolarsError as error:
        raise ModelError(f"{_where(model)}: Polars says: {said_by_polars(str(error))}") from None
    except (ContractError, ModelError):
        raise
    except OF_PYTHON as error:
        at = f"{_where(model)}{line_of(model.table.path, error)}"
        raise ModelError(f"{at}: {said_by_python(error)}") from None
    missing = [column.name for column in columns if column.name not in frame.columns]
    if missing:
        raise ModelError(
            f"{_where(model)}: build gave no column {missing[0]} (it gave {', '.join(frame.columns)}). "
            "Select it, or take it out of TABLE's columns."
        )
    view = f"_built_{next(_serial)}_{model.table.name}"
    built = connection.from_arrow(frame.select([c.name for c in columns]).to_arrow())
    for column, kind in zip(columns, built.types, strict=True):
        if what := casts.lost(str(kind), column.type):
            raise ModelError(
                f"{_where(model)}: build gives {column.name} as {kind}, and TABLE declares {column.type}: "
                f"{what} would be lost. Cast it in build, or declare it as it is."
            )
    built.create_view(view)
    fields = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in columns)
    return f"select {fields} from {quoted(view)}"


def _model_error(model: Model, error: duckdb.Error) -> ModelError:
    return ModelError(f"{_where(model)}: {explain(error)}")


def _where(model: Model) -> str:
    return place(model.table.path) if model.table.path else model.table.name
