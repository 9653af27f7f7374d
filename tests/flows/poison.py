"""Messages that are no events, and what their letters say: one list for the batch and the stream."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

DEEP = 100_000


@dataclass(frozen=True)
class Poison:
    """A message, and a word of the reason why it can't be read."""

    value: bytes | None
    word: str


def event(number: int, at: datetime, **more: Any) -> bytes:
    """A user event that everybody can read."""
    whole: dict[str, Any] = {
        "event_id": str(uuid.UUID(int=number)),
        "event_type": "login",
        "event_time": at.isoformat(),
        "user_id": 1,
        "anonymous_id": "a",
        "session_id": "s",
        "page": None,
        "properties": {"n": number},
    }
    return json.dumps({**whole, **more}).encode()


def poison(at: datetime) -> dict[str, Poison]:
    """By name, everything a topic may hold that is no event at the time `at`."""

    def spoiled(old: str, new: bytes) -> bytes:
        whole = event(5, at)
        assert whole.count(old.encode()) == 1
        return whole.replace(old.encode(), new)

    def without(name: str) -> bytes:
        fields = json.loads(event(5, at))
        del fields[name]
        return json.dumps(fields).encode()

    number = b'{"n": 5}'.decode()
    ahead = (at + timedelta(days=2)).isoformat()
    return {
        "invalid JSON": Poison(b'{"event_id": "x', "JSON"),
        "one event and a half": Poison(event(5, at) + b"{", "JSON"),
        "a trailing comma": Poison(spoiled("}}", b"},}"), "JSON"),
        "invalid UTF-8": Poison(b"\xff\xfe\x00", "UTF-8"),
        "invalid UTF-8 in a string": Poison(spoiled('"s"', b'"\xc3("'), "UTF-8"),
        "a lone surrogate as bytes": Poison(b"\xed\xa0\x80", "UTF-8"),
        "a lone surrogate escaped": Poison(spoiled('"s"', b'"\\ud800"'), "JSON"),
        "a lone surrogate in the properties": Poison(spoiled(number, b'{"n": "\\udc00x"}'), "JSON"),
        "a NUL alone": Poison(b"\x00", "JSON"),
        "a NUL in a string": Poison(spoiled('"s"', b'"a\x00b"'), "JSON"),
        "NaN as user": Poison(spoiled('"user_id": 1', b'"user_id": NaN'), "user_id"),
        "NaN in the properties": Poison(spoiled(number, b'{"n": NaN}'), "JSON"),
        "infinity": Poison(spoiled(number, b'{"n": -Infinity}'), "JSON"),
        "a number that no double holds": Poison(spoiled(number, b'{"n": 1e999999}'), "range"),
        "a user above 64 bits": Poison(event(5, at, user_id=2**63), "user_id"),
        "a user below 64 bits": Poison(event(5, at, user_id=-(2**63) - 1), "user_id"),
        "deep brackets": Poison(b"[" * DEEP, "JSON"),
        "deep objects": Poison(b'{"a":' * DEEP, "JSON"),
        "deep and closed": Poison(b"[" * DEEP + b"]" * DEEP, "JSON"),
        "deep properties": Poison(spoiled(number, b'{"n": ' * DEEP + b"1" + b"}" * DEEP), "256 deep"),
        "more than a megabyte": Poison(b'"' + b"x" * 1_200_000 + b'"', "larger"),
        "nothing": Poison(b"", "JSON"),
        "no value": Poison(None, "no value"),
        "null": Poison(b"null", "object"),
        "a list": Poison(b"[1, 2]", "object"),
        "a text": Poison(b'"text"', "object"),
        "an id that is a number": Poison(b'{"event_id": 5}', "event_id"),
        "a time that is a number": Poison(event(5, at, event_time=1_762_000_000), "event_time"),
        "a user that is a text": Poison(event(5, at, user_id="seven"), "user_id"),
        "a user that is a list": Poison(event(5, at, user_id=[1]), "user_id"),
        "properties that are a list": Poison(event(5, at, properties=[1]), "properties"),
        "a type that is a number": Poison(event(5, at, event_type=5), "event_type"),
        "a page that is an object": Poison(event(5, at, page={"x": 1}), "page"),
        "a session that is a list": Poison(event(5, at, session_id=[1]), "session_id"),
        "a visitor that is a number": Poison(event(5, at, anonymous_id=7), "anonymous_id"),
        "no id": Poison(without("event_id"), "event_id"),
        "no time": Poison(without("event_time"), "event_time"),
        "no type": Poison(without("event_type"), "event_type"),
        "a time without an offset": Poison(event(5, at, event_time="2025-11-03T10:00:00"), "event_time"),
        "year 1": Poison(event(5, at, event_time="0001-01-01T00:00:00Z"), "year 2000"),
        "year 9999": Poison(event(5, at, event_time="9999-12-31T23:59:59.999999Z"), "after its arrival"),
        "a year beyond": Poison(event(5, at, event_time="294277-01-01T00:00:00Z"), "event_time"),
        "ahead of the clock": Poison(event(5, at, event_time=ahead), "5 minutes after its arrival"),
    }
