"""PostgreSQL types as DuckDB and Arrow types: which column is read how, and which values nobody can hold.

Exact or not at all: what has no exact counterpart (enums, addresses, ranges, intervals, unusual arrays) is
read as PostgreSQL's own text, and a value outside a type's range (infinite or BC times, NaN in a numeric)
makes its row a dead letter, because ADBC would hand on a wrapped number instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from psycopg import sql

from flows.extract import SourceError
from transforms.change_values import FIRST_AND_END
from transforms.entities import SourceEntity

PROBLEM = "_problem"
PAYLOAD = "_payload"

_SAME = {
    "bigint": "BIGINT",
    "integer": "INTEGER",
    "smallint": "SMALLINT",
    "boolean": "BOOLEAN",
    "real": "FLOAT",
    "double precision": "DOUBLE",
    "date": "DATE",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE",
    "timestamp without time zone": "TIMESTAMP",
    "time without time zone": "TIME",
    "uuid": "UUID",
    "json": "JSON",
    "jsonb": "JSON",
    "bytea": "BLOB",
    "text": "VARCHAR",
}
_ARRAY_ITEMS = frozenset({"text", "bigint", "integer", "smallint", "boolean", "real", "double precision"})
_ARROW: dict[str, pa.DataType] = {
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "SMALLINT": pa.int16(),
    "BOOLEAN": pa.bool_(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DATE": pa.date32(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIME": pa.time64("us"),
    "UUID": pa.uuid(),
    "JSON": pa.json_(),
    "BLOB": pa.binary(),
    "VARCHAR": pa.string(),
}


@dataclass(frozen=True)
class SourceColumn:
    """A column as the database has it: PostgreSQL's name of its type, domains resolved."""

    name: str
    pg_type: str

    @property
    def duckdb_type(self) -> str:
        """The DuckDB type that holds every finite value of it exactly; VARCHAR where only text does."""
        if number := re.fullmatch(r"numeric\((\d+),(-?\d+)\)", self.pg_type):
            precision, scale = int(number[1]), int(number[2])
            return (
                f"DECIMAL({precision},{scale})" if precision <= 38 and 0 <= scale <= precision else "VARCHAR"
            )
        if self.pg_type.endswith("[]"):
            item = re.sub(r"^character varying(\(\d+\))?$", "text", self.pg_type[:-2])
            return f"{_SAME[item]}[]" if item in _ARRAY_ITEMS else "VARCHAR"
        return _SAME.get(self.pg_type, "VARCHAR")

    @property
    def expression(self) -> sql.Composable:
        """How it is selected: as it is, or as text where there is no other exact form."""
        name = sql.Identifier(self.name)
        if self.pg_type == "inet":
            # A cast writes /32 behind every address, the type itself (and the change log) does not.
            return sql.SQL("case when {0} is not null then format('%s', {0}) end").format(name)
        is_text = self.pg_type == "text" or self.pg_type.startswith("character")
        return name if is_text or self.duckdb_type != "VARCHAR" else sql.SQL("{}::text").format(name)

    @property
    def problem(self) -> sql.Composable | None:
        """An SQL text that is null unless the row's value can't be held; None where every value can."""
        kind, name = self.duckdb_type, sql.Identifier(self.name)
        if kind in FIRST_AND_END:
            first, end = (sql.SQL(bound) for bound in FIRST_AND_END[kind])
            found = sql.SQL("{0} < {1} or {0} >= {2}").format(name, first, end)
            why = "is outside the years 1 to 9999"
        elif kind.startswith("DECIMAL"):
            found, why = sql.SQL("{} = 'NaN'").format(name), "is not a number (NaN)"
        elif kind == "TIME":
            found, why = sql.SQL("{} = time '24:00'").format(name), "is 24:00"
        elif kind.endswith("[]"):
            found, why = sql.SQL("array_ndims({}) > 1").format(name), "has more than one dimension"
        else:
            return None
        return sql.SQL("case when {} then {} end").format(found, sql.Literal(f"{self.name} {why}"))


def arrow_type(duckdb_type: str) -> pa.DataType:
    """The Arrow type in which values of that DuckDB type travel."""
    if number := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", duckdb_type):
        return pa.decimal128(int(number[1]), int(number[2]))
    if duckdb_type.endswith("[]"):
        return pa.list_(_ARROW[duckdb_type[:-2]])
    return _ARROW[duckdb_type]


def declared_type(text: str) -> str:
    """DuckDB's own spelling of a declared type."""
    return str(duckdb.sqltype(text))


def schema(entity: SourceEntity) -> pa.Schema:
    """The landed rows of a database table: its declared columns, then `_op`."""
    fields = [pa.field(column.name, arrow_type(declared_type(column.type))) for column in entity.columns]
    return pa.schema([*fields, pa.field("_op", pa.string())])


def check(entity: SourceEntity, found: Sequence[SourceColumn]) -> list[str]:
    """Hold the database's columns to the declaration; returns warnings about columns nobody declared.

    Raises SourceError when a declared column is missing or its values would not come through as declared.
    """
    there = {column.name: column for column in found}
    where = f"{entity.source}.{entity.name}"
    for column in entity.columns:
        if column.name not in there:
            raise SourceError(
                f"{where}: the database has no column {column.name} any more; nothing was landed. "
                f"Take it out of transforms/sources/{entity.source}.py, or give it back to the table."
            )
        actual, declared = there[column.name], declared_type(column.type)
        if actual.duckdb_type != declared:
            raise SourceError(
                f"{where}: column {column.name} is {actual.pg_type} in the database, which is read as "
                f"{actual.duckdb_type}, but {declared} is declared; nothing was landed. "
                f"Correct transforms/sources/{entity.source}.py, or the table."
            )
    names = {column.name for column in entity.columns}
    return [
        f"{where}: the database has a column {name} ({there[name].pg_type}) that nobody declared; it is "
        f"not landed."
        for name in there
        if name not in names
    ]


def problem(columns: Sequence[SourceColumn], required: Sequence[str]) -> sql.Composable:
    """An SQL expression: null for a row that can be landed, else why it can't be."""
    parts = [found for column in columns if (found := column.problem) is not None]
    parts += [
        sql.SQL("case when {} is null then {} end").format(
            sql.Identifier(name), sql.Literal(f"{name} is null")
        )
        for name in required
    ]
    if not parts:
        return sql.SQL("null::text")
    return sql.SQL("nullif(concat_ws('; ', {}), '')").format(sql.SQL(", ").join(parts))


def convert(batch: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    """The batch in exactly these types. Raises pa.ArrowInvalid where that would lose something."""
    columns = []
    for field in wanted:
        column = batch.column(field.name)
        if column.type != field.type:
            if isinstance(column, pa.ExtensionArray):
                column = column.storage
            column = column.cast(field.type)
        columns.append(column)
    return pa.record_batch(columns, schema=wanted)
