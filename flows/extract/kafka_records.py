"""Kafka's messages as they are landed: one row per message, in SCHEMA, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999
"""Milliseconds since 1970 of the years 1 to 9999: no other moment is a date in Python."""
_NONE = -1
"""What a record without a timestamp has in its place (Kafka's RecordBatch.NO_TIMESTAMP)."""
_UNKNOWN = object()
_HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))

SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("kafka_partition", pa.int32()),
        pa.field("kafka_offset", pa.int64()),
        pa.field("kafka_timestamp", pa.timestamp("us", tz="UTC")),
        pa.field("key", pa.binary()),
        pa.field("headers", _HEADERS),
        pa.field("value", pa.binary()),
    ]
)


def record_batch(messages: Sequence[Message], place: tuple[str, int] | None = None) -> pa.RecordBatch:
    """Messages as they are landed, in SCHEMA. `place`: the topic and partition that all of them are of."""
    # Column by column, by methods that are looked up once: this is most of what landing a record costs.
    columns = [
        *_places(messages, place),
        pa.array(list(map(Message.offset, messages)), pa.int64()),
        _times(messages),
        pa.array(list(map(Message.key, messages)), pa.binary()),
        _headers(messages),
        pa.array(list(map(Message.value, messages)), pa.binary()),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def _places(messages: Sequence[Message], place: tuple[str, int] | None) -> list[pa.Array]:
    if place is not None:
        topic, partition = place
        same = (pa.scalar(topic, pa.string()), pa.scalar(partition, pa.int32()))
        return [pa.repeat(value, len(messages)) for value in same]
    return [
        pa.array(list(map(Message.topic, messages)), pa.string()),
        pa.array(list(map(Message.partition, messages)), pa.int32()),
    ]


def _times(messages: Sequence[Message]) -> pa.Array:
    """When each was sent or appended, as its topic says; null where nobody says, or it is no moment."""
    pairs = chain.from_iterable(map(Message.timestamp, messages))
    kinds, moments = np.fromiter(pairs, np.int64, 2 * len(messages)).reshape(-1, 2).T
    # A producer may give any number (nanoseconds, say); one that is no moment must not stop the topic.
    is_given = (kinds != TIMESTAMP_NOT_AVAILABLE) & (moments != _NONE)
    known = is_given & (moments >= _FIRST) & (moments <= _LAST)
    times = pc.if_else(pa.array(known), pa.array(moments), None)
    return times.cast(pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("us", tz="UTC"))


def _headers(messages: Sequence[Message]) -> pa.Array:
    """The headers of each message, in order; null where the client can't give them.

    On the wire the name of a header is bytes; confluent-kafka makes a str of it and fails where it is not
    UTF-8. The record is landed all the same, since no model reads headers; a null says that they are unknown,
    and not none.
    """
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
        return pa.array([[]], _HEADERS).take(pa.repeat(pa.scalar(0, pa.int32()), len(given)))
    sets: dict[Sequence[Any], int] = {}
    which = [None if pairs is _UNKNOWN else sets.setdefault(tuple(pairs or ()), len(sets)) for pairs in given]
    made = [[{"name": name, "value": value} for name, value in pairs] for pairs in sets]
    return pa.array(made, _HEADERS).take(pa.array(which, pa.int32()))
