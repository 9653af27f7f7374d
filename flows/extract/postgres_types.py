"""PostgreSQL types as DuckDB and Arrow types: which column is read how, and which values nobody can hold.

Exact or not at all: what has no exact counterpart (enums, addresses, ranges, intervals, unusual arrays) is
read as PostgreSQL's own text, and a value outside a type's range (infinite or BC times, NaN in a numeric)
makes its row a dead letter, because ADBC would hand on a wrapped number instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa
from psycopg import sql

from transforms.change_values import FIRST_AND_END
from transforms.contract import Column, ContractError
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
    """A column as the database has it: PostgreSQL's name of its type, domains resolved.

    `number` is its attnum, which no rename changes and no other column ever gets; `labels` are the values of
    an enum, in order; `fills` says that rows which were there before the column have its default, of which no
    change tells; `is_generated` that PostgreSQL computes it, of which no change tells either.
    """

    name: str
    pg_type: str
    number: int = 0
    nullable: bool = True
    labels: tuple[str, ...] = ()
    fills: bool = field(default=False, compare=False)
    table: int = field(default=0, compare=False)
    """The table's oid: one that was dropped and made anew counts its columns anew."""
    is_generated: bool = field(default=False, compare=False)
    declared: Column | None = field(default=None, compare=False)
    """The column that it is landed as, where that has another name or type."""

    @property
    def landed_as(self) -> str:
        """The name that its values are landed under."""
        return self.declared.name if self.declared else self.name

    @property
    def landed_type(self) -> str:
        """The DuckDB type of its values in raw: text where that is declared, else its own."""
        is_text = self.declared is not None and declared_type(self.declared.type) == "VARCHAR"
        return "VARCHAR" if is_text else self.duckdb_type

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
        return _SAME.get(without_precision(self.pg_type), "VARCHAR")

    @property
    def expression(self) -> sql.Composable:
        """How it is selected: as it is, or as text where there is no other exact form."""
        name = sql.Identifier(self.name)
        if self.pg_type == "inet" or self.pg_type.startswith("character("):
            # A cast writes /32 behind every address and cuts the blanks off that fill a text up; the type
            # itself (and the change log) does not.
            return sql.SQL("case when {0} is not null then format('%s', {0}) end").format(name)
        if self.pg_type == "money":
            # Its own text depends on the server's locale.
            return sql.SQL("{}::numeric::text").format(name)
        if without_precision(self.pg_type) == "time with time zone":
            # The change log tells it in UTC.
            return sql.SQL("({} at time zone 'UTC')::text").format(name)
        if self.declared and (cast := self._cast(self.declared)):
            # A row that does not fit is read too, and becomes a dead letter.
            return sql.SQL("case when ({}) is null then {}::{} end").format(
                self.problem or sql.SQL("null::text"), name, sql.SQL(cast)
            )
        is_text = self.pg_type == "text" or self.pg_type.startswith("character")
        return name if is_text or self.duckdb_type != "VARCHAR" else sql.SQL("{}::text").format(name)

    @property
    def problem(self) -> sql.Composable | None:
        """An SQL text that is null unless the row's value can't be held; None where every value can."""
        kind, name = self.duckdb_type, sql.Identifier(self.name)
        if self.declared and (cast := self._cast(self.declared)):
            return self._unfit(cast)
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

    def _cast(self, declared: Column) -> str:
        """The type of PostgreSQL that its values are read as where they may not fit; '' where they do."""
        kind = declared_type(declared.type)
        if kind == self.duckdb_type:
            return ""
        if kind == "VARCHAR":
            return "text"
        return re.sub("^DECIMAL", "numeric", kind).lower()

    def _unfit(self, cast: str) -> sql.Composable | None:
        name = sql.Identifier(self.name)
        if cast == "text":
            return None
        if number := re.fullmatch(r"numeric\((\d+),(\d+)\)", cast):
            whole, scale = int(number[1]) - int(number[2]), int(number[2])
            found = sql.SQL("{0} = 'NaN' or abs({0}) >= {1} or round({0}, {2}) <> {0}").format(
                sql.SQL("{}::numeric").format(name), sql.SQL("1" + "0" * whole), sql.SQL(str(scale))
            )
        else:
            most = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}[cast]
            found = sql.SQL("{0} = 'NaN' or {0} < -{1} or {0} >= {1} or round({0}) <> {0}").format(
                sql.SQL("{}::numeric").format(name), sql.SQL(str(most))
            )
        why = sql.Literal(f"{self.name} can't be held as {cast}")
        return sql.SQL("case when {} then {} end").format(found, why)


def without_precision(pg_type: str) -> str:
    """A type of PostgreSQL without the number of decimals that a time or interval is kept with: any number
    of them fits in the microseconds that it is read in.
    """
    return re.sub(r"^(time|timestamp|interval)([a-z ]*)\(\d\)", r"\1\2", pg_type)


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
    """The landed rows of a database table: its declared columns, then `_op`. Raises ContractError for one
    that has no declared column, or one of a type in which no value lands.
    """
    if not entity.columns:
        raise ContractError(
            f"{entity.place}: none of its columns is declared. `python -m flows schema diff {entity.name} "
            "--write` declares those that the table has."
        )
    for column in entity.columns:
        kind = declared_type(column.type)
        if not kind.startswith("DECIMAL(") and kind.removesuffix("[]") not in _ARROW:
            raise ContractError(
                f"{entity.place}: column {column.name} is declared as {column.type}, in which nothing lands. "
                f"`python -m flows schema diff {entity.name} --write` declares it as the table has it; "
                "varchar holds any."
            )
    fields = [pa.field(column.name, arrow_type(declared_type(column.type))) for column in entity.columns]
    return pa.schema([*fields, pa.field("_op", pa.string())])


def fitted(entity: SourceEntity, found: Mapping[str, SourceColumn | None]) -> list[SourceColumn]:
    """The source's columns as those of the entity that they are landed as; `found` is by landed name.

    A narrower one needs no cast: what it holds the declared type holds.
    """
    made = []
    for column in entity.columns:
        if (own := found[column.name]) is not None:
            wider = {"SMALLINT": 1, "INTEGER": 2, "BIGINT": 3}
            kinds = (own.duckdb_type, declared_type(column.type))
            is_narrower = all(kind in wider for kind in kinds) and wider[kinds[0]] < wider[kinds[1]]
            kept = replace(column, type=own.duckdb_type) if is_narrower else column
            made.append(replace(own, declared=kept))
    return made


def problem(
    columns: Sequence[SourceColumn],
    required: Sequence[str],
    refused: Sequence[tuple[str, Sequence[str] | None, str]] = (),
) -> sql.Composable:
    """An SQL expression: null for a row that can be landed, else why it can't be.

    `refused` are (column, the values it may have or None for all but null, why not).
    """
    parts = [found for column in columns if (found := column.problem) is not None]
    own = {column.landed_as: sql.Identifier(column.name) for column in columns}
    parts += [
        sql.SQL("case when {} is null then {} end").format(own[name], sql.Literal(f"{name} is null"))
        for name in required
    ]
    for name, allowed, reason in refused:
        is_wrong = (
            sql.SQL("{} is null").format(own[name])
            if allowed is None
            else sql.SQL("{}::text <> all ({})").format(own[name], sql.Literal(list(allowed)))
        )
        parts.append(sql.SQL("case when {} then {} end").format(is_wrong, sql.Literal(reason)))
    if not parts:
        return sql.SQL("null::text")
    return sql.SQL("nullif(concat_ws('; ', {}), '')").format(sql.SQL(", ").join(parts))


def convert(batch: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    """The batch in exactly these types. Raises pa.ArrowInvalid where that would lose something."""
    columns = []
    for one in wanted:
        column = batch.column(one.name)
        if column.type != one.type:
            if isinstance(column, pa.ExtensionArray):
                column = column.storage
            column = column.cast(one.type)
        columns.append(column)
    return pa.record_batch(columns, schema=wanted)
