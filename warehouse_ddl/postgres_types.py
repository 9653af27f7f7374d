"""DuckDB's types as PostgreSQL's, spelled as PostgreSQL's catalog spells them (`format_type`)."""

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
    "HUGEINT": "numeric(39,0)",
    "INTEGER": "integer",
    "INTERVAL": "interval",
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
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_VARCHAR = re.compile(r"character varying\((\d+)\)")
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")


def postgres_type(column: Column) -> str:
    """The PostgreSQL type of a column. Raises ContractError for a type that can't be copied there."""
    if column.type == "VARCHAR" and column.max_length is not None:
        return f"character varying({column.max_length})"
    return _postgres_type(column.type, column.name)


def _postgres_type(type_: str, name: str) -> str:
    if type_.endswith("[]"):
        element = _postgres_type(type_[:-2], name)
        if not element.endswith("[]"):
            return f"{element}[]"
    elif type_ in _TYPES:
        return _TYPES[type_]
    elif match := _DECIMAL.fullmatch(type_):
        return f"numeric({match.group(1)},{match.group(2)})"
    raise ContractError(
        f"column {name}: PostgreSQL has no column for DuckDB's {type_}. Cast it to json or varchar."
    )


def widens(before: str, after: str) -> bool:
    """Whether a column can change from one type to the other without its rows being written anew."""
    if before == after:
        return True
    old_length, new_length = _VARCHAR.fullmatch(before), _VARCHAR.fullmatch(after)
    if old_length and (after == "text" or (new_length and int(new_length[1]) >= int(old_length[1]))):
        return True
    old, new = _NUMERIC.fullmatch(before), _NUMERIC.fullmatch(after)
    return bool(old and (after == "numeric" or (new and old[2] == new[2] and int(new[1]) >= int(old[1]))))


def holds(before: str, after: str) -> bool:
    """Whether every value of the one type is a value of the other, so that no reader loses anything."""
    integers = ["smallint", "integer", "bigint", "numeric"]
    if before in integers and after in integers:
        return integers.index(before) <= integers.index(after)
    old, new = _NUMERIC.fullmatch(before), _NUMERIC.fullmatch(after)
    if old and new:
        whole = int(new[1]) - int(new[2]) >= int(old[1]) - int(old[2])
        return whole and int(new[2]) >= int(old[2])
    return widens(before, after) or (before, after) == ("real", "double precision")
