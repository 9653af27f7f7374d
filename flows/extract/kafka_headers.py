"""The headers of Kafka's messages as they are landed.

On the wire the name of a header is bytes; confluent-kafka makes a str of it and fails where it is not UTF-8.
The record is landed all the same, since no model reads headers; a null says that they are unknown, and not
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from confluent_kafka import Message

_UNKNOWN = object()
HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))


def of(messages: Sequence[Message]) -> pa.Array:
    """The headers of each message, in order; null where the client can't give them."""
    given: list[Any] = []
    # A failed message gives a list with holes (confluent-kafka 2.16), and who looks into it crashes: each is
    # asked once, and by `map`, since the interpreter's own quick calls of C don't see that an error was set.
    asked = map(Message.headers, messages)
    while len(given) < len(messages):
        try:
            given.extend(asked)
        except (SystemError, UnicodeDecodeError):
            given.append(_UNKNOWN)
    # Most messages of a topic have the same headers, or none: each set of them is made once.
    if given.count(None) == len(given):
        return pa.array([[]], HEADERS).take(pa.repeat(pa.scalar(0, pa.int32()), len(given)))
    sets: dict[Sequence[Any], int] = {}
    which = [None if pairs is _UNKNOWN else sets.setdefault(tuple(pairs or ()), len(sets)) for pairs in given]
    made = [[{"name": name, "value": value} for name, value in pairs] for pairs in sets]
    return pa.array(made, HEADERS).take(pa.array(which, pa.int32()))
