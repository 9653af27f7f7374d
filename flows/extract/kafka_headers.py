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

HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))


def of(messages: Sequence[Message]) -> pa.Array:
    """The headers of each message, in order; null where the client can't give them."""
    # Most messages of a topic have the same headers: each set of them is made once.
    sets: dict[Sequence[Any], int] = {}
    which: list[int | None] = []
    # A failed message gives a list with holes (confluent-kafka 2.16), and who looks into it crashes: each is
    # asked once, and by `map`, since the interpreter's own quick calls of C don't see that an error was set.
    asked = map(Message.headers, messages)
    for _ in messages:
        try:
            pairs = next(asked)
        except (SystemError, UnicodeDecodeError):
            which.append(None)
        else:
            which.append(sets.setdefault(tuple(pairs or ()), len(sets)))
    made = [[{"name": name, "value": value} for name, value in pairs] for pairs in sets]
    return pa.array(made, HEADERS).take(pa.array(which, pa.int32()))
