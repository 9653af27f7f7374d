"""One column of a change event: Debezium's JSON text as the declared DuckDB type, exactly or not at all.

Everything here is SQL text. A value that the declared type can't hold is never rounded and never becomes
NULL: `problem` says what is wrong with it, and its record is a dead letter.
"""

from __future__ import annotations

import re

from transforms.contract import Column
from transforms.model import canonical_type

UNAVAILABLE = "__debezium_unavailable_value"
"""What Debezium sends in the place of a large value that an update did not touch (TOAST)."""

_BYTES = ",".join(str(byte) for byte in UNAVAILABLE.encode())
_PLACEHOLDERS = (
    UNAVAILABLE,
    "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
    f'"{UNAVAILABLE}"',
    f'["{UNAVAILABLE}"]',
    f"[{_BYTES}]",
    '["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]',
    f'{{"{UNAVAILABLE}":"{UNAVAILABLE}"}}',
)
"""Its forms as text, bytea, json, array of texts, of numbers and of uuids, and hstore."""

_OBJECT = r"\[L[A-Za-z.]+;@[0-9a-f]+"
FIRST_AND_END = {
    "DATE": ("date '0001-01-01'", "date '10000-01-01'"),
    "TIMESTAMP": ("timestamp '0001-01-01'", "timestamp '10000-01-01'"),
    "TIMESTAMP WITH TIME ZONE": ("timestamptz '0001-01-01 00:00+00'", "timestamptz '10000-01-01 00:00+00'"),
}
"""The half-open range, as SQL, of the times that can be held."""

WHOLE = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT"})
_NUMBER = "'[-+]?[0-9]+'"
_COUNT = "'-?[0-9]+'"


def is_unavailable(text: str) -> str:
    """SQL: whether the text stands for a value that was not sent."""
    # Of a list of constants DuckDB makes a join, behind which it leaves no column out that nobody asks for.
    return f"({' or '.join(f'{text} = {_literal(form)}' for form in _PLACEHOLDERS)})"


def value(column: Column, text: str) -> str:
    """SQL: the text as the column's type; NULL for NULL and for what `problem` objects to."""
    kind = canonical_type(column.type)
    if kind == "VARCHAR":
        return text
    if kind == "BLOB":
        return f"try(from_base64({text}))"
    if kind.endswith("[]"):
        return f"try(json_transform_strict({text}, {_literal(_json_shape(kind))}))::{kind}"
    if kind in {"DATE", "TIMESTAMP", "TIME"}:
        return (
            f"case when regexp_full_match({text}, {_COUNT}) then {_counted(kind, text)} "
            f"else try_cast(rtrim({text}, 'Z') as {kind}) end"
        )
    return f"try_cast({text} as {kind})"


def problem(column: Column, text: str) -> str:
    """SQL: null for a text that the column's type holds exactly (and for NULL), else what is wrong."""
    kind = canonical_type(column.type)
    if kind == "VARCHAR":
        return "null"
    is_exact = f"{value(column, text)} is not null"
    if kind in WHOLE:
        is_exact += f" and regexp_full_match({text}, {_NUMBER})"
    elif number := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind):
        # A cast would round what has more decimals. A zero can come with an exponent.
        decimals = rf"[-+]?[0-9]*(\.[0-9]{{0,{number[2]}}}0*)?|[-+]?0(\.0+)?([eE][-+]?[0-9]+)?"
        is_exact += f" and regexp_full_match({text}, {_literal(decimals)})"
    elif kind == "TIME":
        is_exact += f" and {text} not like '24:%' and {text} <> '86400000000'"
    elif kind.endswith("[]"):
        texts = f"try(from_json({text}, '[\"VARCHAR\"]'))"
        is_exact += f" and coalesce(try(json_type({text}, '$[0]')), '') not in ('ARRAY', 'OBJECT')"
        is_exact += f" and not {is_of_lists(texts, of_text=kind == 'VARCHAR[]')}"
    elif kind in FIRST_AND_END:
        first, end = FIRST_AND_END[kind]
        is_exact += f" and {value(column, text)} >= {first} and {value(column, text)} < {end}"
    what = _literal(f"{column.name} can't be held as {kind}")
    return f"case when {text} is not null and not ({is_exact}) then {what} end"


def is_of_lists(items: str, *, of_text: bool) -> str:
    """SQL: whether a list of texts may be what Debezium makes of an array of several dimensions: of text it
    sends the names of Java's objects, of other types nulls, which a list of nothing but nulls looks like.
    """
    if of_text:
        is_name = f"lambda item: regexp_full_match(item, {_literal(_OBJECT)})"
        return f"coalesce(len(list_filter({items}, {is_name})) > 0, false)"
    return f"coalesce(len({items}) > 0 and list_count({items}) = 0, false)"


def encoded(column: Column, expression: str) -> str:
    """SQL: a typed value as text that `value` reads back exactly."""
    kind = canonical_type(column.type)
    if kind == "BLOB":
        return f"base64({expression})"
    if kind.endswith("[]"):
        return f"to_json({expression})::varchar"
    return f"({expression})::varchar"


def _counted(kind: str, text: str) -> str:
    """Days since 1970 for a date, microseconds since 1970 or midnight for a time."""
    number = f"try_cast({text} as bigint)"
    if kind == "DATE":
        return f"try(date '1970-01-01' + try_cast({text} as integer))"
    if kind == "TIMESTAMP":
        return f"try(make_timestamp({number}))"
    return f"case when {number} between 0 and 86399999999 then time '00:00' + to_microseconds({number}) end"


def _json_shape(kind: str) -> str:
    item = kind.removesuffix("[]")
    return f"[{_json_shape(item)}]" if item.endswith("[]") else f'["{item}"]'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
