"""What Debezium tells of a value that is landed as text, as the text that a read of its table gives.

One form, whichever way a row came: PostgreSQL's own text in a session of UTC with ISO dates and intervals
(flows/extract/postgres_session.py). Debezium's forms are those of its PostgreSQL connector 3.7 with the
settings of flows/cdc/configuration.py, tried value by value (tests/flows/extract/test_told_texts.py).
Everything here is SQL text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from transforms.change_values import is_of_lists, is_unavailable, value
from transforms.contract import Column
from transforms.engine import text_literal

_RANGES = frozenset({"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"})
_PLAIN = _RANGES | {
    *("text", "character", "uuid", "json", "jsonb", "boolean", "smallint", "integer", "bigint", "oid"),
    *("inet", "cidr", "macaddr", "tsvector"),
}
"""Types whose text Debezium tells as PostgreSQL writes it, also where they stand in arrays."""
_AS_THEY_ARE = _PLAIN | {
    *("name", '"char"', "macaddr8", "xml", "citext", "ltree", "isbn", "money"),
    # These have a form of Debezium's own.
    *("box", "lseg", "path", "polygon", "hstore", "geometry", "geography", "vector", "halfvec", "sparsevec"),
}
_ITEMS = _PLAIN | {
    *("numeric", "real", "double", "bytea", "date", "time", "timestamp"),
    *("timestamp with time zone", "time with time zone"),
}
"""Types whose arrays are told item by item; of others comes null, or nothing at all."""
_INFINITE_DAYS = {"infinity": (2146033979, -622191234), "-infinity": (-2147472691, -625821272)}
"""What the stream and a snapshot tell of them as days since 1970; no date of PostgreSQL has these."""
_FIRST, _LAST = -(2**63), 2**63 - 1
_MIDNIGHT = 86_400_000_000


def is_told(pg_type: str) -> bool:
    """Whether Debezium tells a value of this type, and not null in its place or a part of it."""
    if pg_type.endswith("[]"):
        return _name(pg_type.removesuffix("[]")) in _ITEMS
    return _name(pg_type) != "bit varying"


def spelled(pg_type: str, text: str, *, is_enum: bool = False) -> str:
    """SQL: the text as PostgreSQL writes the value; NULL for one that Debezium has not told exactly.

    What was not sent (TOAST) stays as it is. `text` itself where nothing is to be done.
    """
    own = text if is_enum else _spelled(pg_type, text)
    return text if own == text else f"case when {is_unavailable(text)} then {text} else {own} end"


def _spelled(pg_type: str, text: str) -> str:
    name = _name(pg_type)
    if pg_type.endswith("[]"):
        return _array(pg_type.removesuffix("[]"), text)
    if name in _AS_THEY_ARE:
        return text
    if name == "bit":
        return _bits(int(re.sub(r"\D", "", pg_type) or 1), text)
    if name in _FORMS:
        return _FORMS[name](text)
    # Of types that it does not know Debezium sends the bytes of PostgreSQL's text.
    return f"try(decode(from_base64({text})))"


def _name(pg_type: str) -> str:
    """The type without what stands in its parentheses, and without `varying` where that means nothing."""
    bare = re.sub(r"\([^)]*\)", "", pg_type)
    if bare.startswith("interval "):  # what follows says which fields of it are kept
        return "interval[]" if bare.endswith("[]") else "interval"
    return {"character varying": "character", "timestamp without time zone": "timestamp"}.get(
        bare, {"time without time zone": "time", "double precision": "double"}.get(bare, bare)
    )


def _number(text: str) -> str:
    words = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}
    cases = " ".join(f"when '{told}' then '{own}'" for told, own in words.items())
    return f"case {text} {cases} else {text} end"


def _float(digits: int, text: str) -> str:
    """PostgreSQL writes an exponent from 10^`digits` on (float4 6, float8 15), DuckDB from 10^16 on."""
    number = f"try_cast({text} as {'float' if digits == 6 else 'double'})"
    shown = f"regexp_replace({number}::varchar, '\\.0$', '')"
    figures = f"replace(ltrim({shown}, '-'), '.', '')"
    whole = f"length(split_part(ltrim({shown}, '-'), '.', 1))"
    rest = f"rtrim({figures}[2:], '0')"
    exponent = (
        f"case when {number} < 0 then '-' else '' end || {figures}[1] || "
        f"case when {rest} = '' then '' else '.' || {rest} end || "
        f"'e+' || lpad(({whole} - 1)::varchar, 2, '0')"
    )
    return (
        f"case when {text} in ('NaN', 'Infinity', '-Infinity') then {text} "
        f"when abs({number}) >= 1e{digits} and not contains({shown}, 'e') then {exponent} else {shown} end"
    )


def _date(text: str) -> str:
    words = " ".join(
        f"when {text} in ('{streamed}', '{read}') then '{word}'"
        for word, (streamed, read) in _INFINITE_DAYS.items()
    )
    return f"case {words} else {_before_christ(value(Column('d', 'date'), text))} end"


def _timestamp(text: str) -> str:
    return (
        f"case {text} when '{_LAST}' then 'infinity' when '{_FIRST}' then '-infinity' "
        f"else {_before_christ(value(Column('t', 'timestamp'), text))} end"
    )


def _before_christ(time: str) -> str:
    """DuckDB marks such a year in the middle, PostgreSQL at the end."""
    shown = f"({time})::varchar"
    return (
        f"case when contains({shown}, ' (BC)') then replace({shown}, ' (BC)', '') || ' BC' else {shown} end"
    )


def _instant(text: str) -> str:
    """An ISO year 0 is 1 BC, and years of more than four digits have a sign."""
    form = r"'^([-+]?\d+)-(\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d+))?Z$'"
    year, day, time, part = (f"regexp_extract({text}, {form}, {group})" for group in (1, 2, 3, 4))
    number = f"{year}::integer"
    shown = f"lpad(case when {number} > 0 then {number} else 1 - {number} end::varchar, 4, '0')"
    shown = f"case when abs({number}) > 9999 then abs({number})::varchar else {shown} end"
    fraction = f"case when rtrim({part}, '0') = '' then '' else '.' || rtrim({part}, '0') end"
    return (
        f"case when {text} in ('infinity', '-infinity') then {text} "
        f"when regexp_matches({text}, {form}) then {shown} || '-' || {day} || ' ' || {time} || {fraction} "
        f"|| '+00' || case when {number} > 0 then '' else ' BC' end end"
    )


def _time(text: str) -> str:
    return (
        f"case {text} when '{_MIDNIGHT}' then '24:00:00' else {value(Column('t', 'time'), text)}::varchar end"
    )


def _time_of_utc(text: str) -> str:
    form = r"'^(\d\d:\d\d:\d\d)(\.\d*[1-9])?(?:\.?0*)Z$'"
    return f"case when regexp_matches({text}, {form}) then regexp_replace({text}, {form}, '\\1\\2+00') end"


def _interval(text: str) -> str:
    """PostgreSQL leaves out what is nothing."""
    form = r"'^P(-?\d+)Y(-?\d+)M(-?\d+)DT(-?\d+)H(-?\d+)M(-?[\d.]+)S$'"
    given = [f"regexp_extract({text}, {form}, {group})" for group in range(1, 7)]
    kept = [
        f"case when {part}::double <> 0 then {part} || '{unit}' else '' end"
        for part, unit in zip(given, "YMDHMS", strict=True)
    ]
    days, time = " || ".join(kept[:3]), " || ".join(kept[3:])
    return (
        f"case when {text} is null or not regexp_matches({text}, {form}) then null "
        f"when {days} || {time} = '' then 'PT0S' when {time} = '' then 'P' || {days} "
        f"else 'P' || {days} || 'T' || {time} end"
    )


def _bytes(text: str) -> str:
    return f"'\\x' || lower(hex(try(from_base64({text}))))"


def _bits(length: int, text: str) -> str:
    """The lowest eight bits come first, and bytes of nothing at the end are left out."""
    if length == 1:
        return f"case {text} when 'true' then '1' when 'false' then '0' end"
    byte = f"('0x0' || substr(hex(try(from_base64({text}))), 2 * (bit // 8) + 1, 2))::integer"
    return (
        f"case when try(from_base64({text})) is not null then array_to_string(list_transform("
        f"range({length - 1}, -1, -1), lambda bit: {byte} >> (bit % 8) & 1), '') end"
    )


def _of_numbers(form: str, text: str) -> str:
    """`form` has {names} where the fields of an object of numbers belong."""
    parts = re.split(r"\{([a-z.]+)\}", form)
    shown = [
        _float(15, f"json_extract_string({text}, '$.{part}')") if number % 2 else text_literal(part)
        for number, part in enumerate(parts)
    ]
    return f"case when json_valid({text}) then {' || '.join(shown)} end"


def _array(item: str, text: str) -> str:
    """PostgreSQL's literal of a list."""
    # In an array PostgreSQL writes a truth value as its own output does, alone as a cast to text does.
    own = "case item when 'true' then 't' when 'false' then 'f' end"
    if item != "boolean":
        own = _spelled(item, "item")
    quoted = "'\"' || replace(replace(it, '\\', '\\\\'), '\"', '\\\"') || '\"'"
    shown = (
        "case when it is null then 'NULL' when it = '' or lower(it) = 'null' "
        f"or regexp_matches(it, '[{{}},\"\\\\\\s]') then {quoted} else it end"
    )
    items = f"try(from_json({text}, '[\"VARCHAR\"]'))"
    spelt = f"list_transform({items}, lambda item: {own})"
    nested = is_of_lists(items, of_text=_name(item) in ("text", "character", "uuid"))
    lost = f"list_count({spelt}) <> list_count({items}) or {nested}"
    literal = f"'{{' || array_to_string(list_transform({spelt}, lambda it: {shown}), ',') || '}}'"
    return f"case when {items} is not null and not ({lost}) then {literal} end"


_FORMS: dict[str, Callable[[str], str]] = {
    "numeric": _number,
    "real": lambda text: _float(6, text),
    "double": lambda text: _float(15, text),
    "date": _date,
    "timestamp": _timestamp,
    "timestamp with time zone": _instant,
    "time": _time,
    "time with time zone": _time_of_utc,
    "interval": _interval,
    "bytea": _bytes,
    "point": lambda text: _of_numbers("({x},{y})", text),
    "line": lambda text: _of_numbers("{{a},{b},{c}}", text),
    "circle": lambda text: _of_numbers("<({center.x},{center.y}),{radius}>", text),
}
