"""An answer's records, each with its text as it was received.

An answer that is valid throughout is taken apart whole: orjson judges it, msgspec says where each record
stands. In any other one, spans are found with the standard library's scanner, which says where a value ends;
what it lets pass and others do not (NaN, lone surrogates, invalid UTF-8) is found by orjson, record by
record: one bad record, one dead letter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from typing import Any

import msgspec
import orjson

from transforms.entities import Rest

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])

# Integers stay text while scanning: Python refuses to convert more than 4,300 digits, and nobody needs them.
_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)

# What structure is made of; strings are taken whole, so that a bracket in one counts for nothing.
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)


@dataclass(slots=True)
class Record:
    """One element of the list: `id` and `value` when it is a usable object, else `reason`."""

    text: bytes
    digest: str
    id: str | None = None
    value: Mapping[str, Any] | None = None
    reason: str | None = None

    @property
    def place(self) -> str:
        """What names it within a listing: its id, or its content where it has none."""
        return self.id if self.id is not None else f"?{self.digest}"


@dataclass(frozen=True)
class Answer:
    """The records of one answer, in its order, and the other fields of the object around them."""

    records: tuple[Record, ...]
    fields: Mapping[str, Any]


def parse(
    body: bytes,
    records: str | None,
    id_fields: tuple[str, ...],
    is_object: bool = False,
    null_is_empty: bool = False,
) -> Answer:
    """Take an answer apart; raises ValueError when it is no JSON or has no list where one is declared. With
    `is_object` one object may stand there as well: it is the only record; with `null_is_empty` null: no
    record.
    """
    return _whole(body, records, id_fields, is_object, null_is_empty) or _piece_by_piece(
        body, records, id_fields
    )


def record(text: bytes, id_fields: tuple[str, ...]) -> Record:
    """One record that stands alone."""
    return _record(text.strip().decode("utf-8", "surrogateescape"), id_fields)


def _whole(
    body: bytes,
    records: str | None,
    id_fields: tuple[str, ...],
    is_object: bool = False,
    null_is_empty: bool = False,
) -> Answer | None:
    """The answer if every byte of it is valid JSON of the declared shape."""
    try:
        document = orjson.loads(body)
        text, values = msgspec.Raw(body.strip()), document
        around: Any = {}
        name, left = "", steps(records)
        while left:
            around, members = values, _MEMBERS.decode(text)
            name, left = (".".join(left), ()) if ".".join(left) in members else (left[0], left[1:])
            text, values = members[name], values[name]
        if values is None and null_is_empty:
            text, values = msgspec.Raw(b"[]"), []
        texts = [text] if is_object and isinstance(values, dict) else _ELEMENTS.decode(text)
    except (ValueError, KeyError, RecursionError, msgspec.MsgspecError):
        return None
    listed = [values] if is_object and isinstance(values, dict) else values
    found = tuple(_judged(bytes(text), value, id_fields) for text, value in zip(texts, listed, strict=True))
    if records is None:
        return Answer(found, {})
    del around[name]
    return Answer(found, document)


def _piece_by_piece(body: bytes, records: str | None, id_fields: tuple[str, ...]) -> Answer:
    """The records that can be used, of an answer in which something is wrong."""
    text = body.decode("utf-8", "surrogateescape")
    try:
        if records is None:
            spans, end = _elements(text, _blank(text, 0))
            fields: dict[str, Any] = {}
        else:
            spans, fields, end = _members(text, _blank(text, 0), steps(records))
    except (IndexError, RecursionError) as error:
        raise ValueError("its JSON ends early or is nested too deeply") from error
    if _blank(text, end) != len(text):
        raise ValueError("something follows its JSON")
    return Answer(tuple(_record(text[start:stop], id_fields) for start, stop in spans), fields)


def _blank(text: str, index: int) -> int:
    return int(WHITESPACE.match(text, index).end())


def _value(text: str, index: int) -> tuple[Any, int]:
    value, end = _SCANNER.raw_decode(text, index)
    return value, _blank(text, end)


def _elements(text: str, index: int) -> tuple[list[tuple[int, int]], int]:
    """Spans of the elements of the array that starts at `index`, and where it ends."""
    if text.startswith("null", index):
        raise ValueError(
            "it has null where a list is declared. If this API means by it that there is none, declare "
            "`null_is_empty=True`"
        )
    if text[index : index + 1] != "[":
        raise ValueError("it holds no list of records where one is declared")
    spans: list[tuple[int, int]] = []
    index = _blank(text, index + 1)
    if text[index] == "]":
        return spans, index + 1
    while True:
        end = _end(text, index)
        spans.append((index, end))
        index = _blank(text, end)
        if text[index] == "]":
            return spans, index + 1
        if text[index] != ",":
            raise ValueError("its JSON is broken between two records")
        index = _blank(text, index + 1)


def _end(text: str, index: int) -> int:
    """Where the element at `index` ends, also when it is no JSON: then at the comma or bracket that follows
    it.

    So one record that is broken or nested too deeply costs itself and not the page. IndexError when the
    text ends before the element does.
    """
    with suppress(ValueError, RecursionError):
        return int(_SCANNER.raw_decode(text, index)[1])
    depth = 0
    for mark in _MARKS.finditer(text, index):
        if mark[0] in "[{":
            depth += 1
        elif mark[0] in "]}":
            if depth == 0:
                return mark.start()
            depth -= 1
        elif mark[0] == "," and depth == 0:
            return mark.start()
    raise IndexError


def _members(
    text: str, index: int, way: tuple[str, ...]
) -> tuple[list[tuple[int, int]], dict[str, Any], int]:
    """Of the object at `index`: spans of the elements of the list at the end of the way, the other members,
    and where the object ends.
    """
    if text[index] != "{":
        raise ValueError("it is no JSON object")
    spans: list[tuple[int, int]] | None = None
    fields: dict[str, Any] = {}
    index = _blank(text, index + 1)
    while text[index] != "}":
        name, index = _value(text, index)
        if not isinstance(name, str) or text[index] != ":":
            raise ValueError("its JSON is broken")
        index = _blank(text, index + 1)
        if name == ".".join(way):
            spans, index = _elements(text, index)
            index = _blank(text, index)
        elif name == way[0]:
            spans, fields[name], index = _members(text, index, way[1:])
            index = _blank(text, index)
        else:
            fields[name], index = _value(text, index)
        if text[index] == ",":
            index = _blank(text, index + 1)
        elif text[index] != "}":
            raise ValueError("its JSON is broken")
    if spans is None:
        raise ValueError(f"it has no '{'.'.join(way)}'")
    return spans, fields, index + 1


def _record(text: str, id_fields: tuple[str, ...]) -> Record:
    raw = text.encode("utf-8", "surrogateescape")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return Record(raw, _digest(raw), reason=f"not valid JSON: {error.msg}")
    return _judged(raw, value, id_fields)


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _judged(raw: bytes, value: Any, id_fields: tuple[str, ...]) -> Record:
    """The record of a valid text, usable if it is an object with its id."""
    digest = _digest(raw)
    if len(id_fields) == 1 and type(value) is dict:
        # What nearly every record is, in as few steps as can be: there are hundreds of thousands a day.
        identity = value.get(id_fields[0])
        if type(identity) is str and identity:
            return Record(raw, digest, identity, value)
    if not isinstance(value, dict):
        return Record(raw, digest, reason=f"a JSON {_json_type(value)}, not an object")
    natural = [at(value, name) for name in id_fields]
    for name, part in zip(id_fields, natural, strict=True):
        if isinstance(part, bool) or not isinstance(part, str | int) or part == "":
            return Record(raw, digest, reason=f"no usable '{name}'")
    if len(natural) == 1:
        return Record(raw, digest, id=str(natural[0]), value=value)
    key = hashlib.blake2b(orjson.dumps(natural), digest_size=16).hexdigest()
    return Record(raw, digest, id=key, value=value)


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", str: "string", list: "array"}
    return names.get(type(value), "number")


def steps(field: str | None) -> tuple[str, ...]:
    """The names on the way to a field: `data.object.created` goes deeper."""
    return tuple(field.split(".")) if field else ()


def at(value: Any, path: str) -> Any:
    """What stands at a path in an object, None where nothing does: a member of that very name, which may hold
    dots, else as `steps` goes.
    """
    if isinstance(value, dict) and path in value:
        return value[path]
    for step in steps(path):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def window(read: Rest, value: Mapping[str, Any] | None) -> str:
    """The day that an object of a list touches, by its event time, else by the time the list is about; '' for
    the whole entity.
    """
    if read.event_time is None:
        return ""
    is_ms = read.time_format == "unix_ms"
    fields = (read.event_time, read.recorded_at)
    found = next((time for field in fields if (time := moment(value, steps(field), is_ms))), None)
    return "" if found is None else found.date().isoformat()


def moment(value: Mapping[str, Any] | None, field: tuple[str, ...], is_ms: bool = False) -> datetime | None:
    """The UTC time in a field (see `steps`): seconds since 1970, or milliseconds; ISO 8601 or a date."""
    found: Any = value
    for part in field:
        found = found.get(part) if isinstance(found, dict) else None
    if not field or found is None or isinstance(found, bool):
        return None
    with suppress(ValueError, OverflowError, OSError):
        if isinstance(found, int | float):
            return datetime.fromtimestamp(found / 1000 if is_ms else found, UTC)
        if isinstance(found, str):
            time = datetime.fromisoformat(found)
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    return None
