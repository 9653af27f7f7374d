"""DuckDB's types as PostgreSQL's, spelled as PostgreSQL's catalog spells them (`format_type`), and what a
published column can't be.
"""

from __future__ import annotations

import re

from transforms.contract import Column, ContractError

_TYPES = {
    "BIGINT": "bigint",
    "BLOB": "bytea",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DOUBLE": "double precision",
    "FLOAT": "real",
    "INTEGER": "integer",
    "JSON": "jsonb",
    "SMALLINT": "smallint",
    "TIME": "time without time zone",
    "TIMESTAMP": "timestamp without time zone",
    "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
    "TINYINT": "smallint",
    "UBIGINT": "numeric(20,0)",
    "UINTEGER": "bigint",
    "USMALLINT": "integer",
    "UTINYINT": "smallint",
    "UUID": "uuid",
    "VARCHAR": "text",
}
_INSTEAD = {
    r"U?HUGEINT|BIGNUM": "decimal(38,0)",
    r"INTERVAL": "bigint, of seconds say",
    r"TIMESTAMP(TZ)?_\w+": "timestamp, or timestamptz for an instant",
    r"TIME_NS|TIME WITH TIME ZONE": "time",
    r"BIT|ENUM\(.*": "varchar",
    r"(DECIMAL.*|UBIGINT)\[\]": "double[], varchar[] or json",
    r"BOOLEAN\[\]": "varchar[] or json",
    r"\w+\[\d+\]": "a list (float[])",
}
"""Pattern of a type that PostgreSQL has no column for → what to cast it to; any other to json or varchar."""
_NOT_IN_LISTS = {"UBIGINT", "BOOLEAN"}
"""A list of numerics, and one of booleans, is nothing that COPY can be given."""
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})


def postgres_type(column: Column) -> str:
    """The PostgreSQL type of a column. Raises ContractError for a type that can't be copied there, and for a
    name that PostgreSQL keeps for itself.
    """
    if column.name in _SYSTEM_COLUMNS:
        raise ContractError(
            f"column {column.name}: in PostgreSQL each table has one of its own by that name. "
            "Give it another name behind `as`."
        )
    if column.type == "VARCHAR" and column.max_length is not None:
        return f"character varying({column.max_length})"
    if column.type in _TYPES:
        return _TYPES[column.type]
    if match := _DECIMAL.fullmatch(column.type):
        return f"numeric({match.group(1)},{match.group(2)})"
    element = column.type.removesuffix("[]")
    if element != column.type and element in _TYPES and element not in _NOT_IN_LISTS:
        return f"{_TYPES[element]}[]"
    found = (instead for pattern, instead in _INSTEAD.items() if re.fullmatch(pattern, column.type))
    raise ContractError(
        f"column {column.name}: PostgreSQL has no column for DuckDB's {column.type}. "
        f"Cast it to {next(found, 'json or varchar')}."
    )
