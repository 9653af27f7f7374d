"""Messages that are not valid: what a topic holds besides events, each with the class of its fault."""

from __future__ import annotations

import numpy as np
import polars as pl

from flows.sandbox.world.shape import DAY, between, tokens, uuids

_HEAD = '{"event_id":"%s","event_time":"%s","user_id":%s,"anonymous_id":"a-bad","session_id":"s-bad",'
_TAIL = (
    '"event_type":"login","page":"/","properties":{"a":1}}',
    '"path":"/","referrer":null,"title":"Home","duration_ms":12}',
    '"page":"/","element":"body","x":1,"y":2}',
)
_TIME = "2025-10-30T10:00:00.000Z"

REASONS = (
    "invalid_json",
    "truncated",
    "empty",
    "no_value",
    "invalid_utf8",
    "lone_surrogate",
    "not_an_object",
    "missing_event_id",
    "event_id_is_no_uuid",
    "event_time_is_no_time",
    "event_time_without_offset",
    "year_9999",
    "user_id_is_text",
    "not_a_number",
    "missing_event_time",
    "two_values",
)


def spoil(reason: str, topic: int, event_id: str, time: str) -> bytes | None:
    """An event of `topic` with one fault. Raises KeyError for a reason that is not in REASONS."""
    tail = _TAIL[topic]
    whole = _HEAD % (event_id, time, 7) + tail
    faults: dict[str, bytes | None] = {
        "invalid_json": whole.replace('","', '",,"', 1).encode(),
        "truncated": whole.encode()[:-25],
        "empty": b"",
        "no_value": None,
        "invalid_utf8": whole.replace("a-bad", "a-b#d").encode().replace(b"#", b"\xff\xfe"),
        "lone_surrogate": whole.replace("a-bad", "a-\\ud800-bad").encode(),
        "not_an_object": f'["{event_id}", "{time}"]'.encode(),
        "missing_event_id": whole.replace(f'"event_id":"{event_id}",', "").encode(),
        "event_id_is_no_uuid": whole.replace(event_id, f"{event_id[:-1]}z").encode(),
        "event_time_is_no_time": whole.replace(time, "yesterday at noon").encode(),
        "event_time_without_offset": whole.replace(time, time[:-1]).encode(),
        "year_9999": whole.replace(time, "9999-12-31T23:59:59.999Z").encode(),
        "user_id_is_text": whole.replace('"user_id":7', '"user_id":"seven"').encode(),
        "not_a_number": whole.replace('"user_id":7', '"user_id":NaN').encode(),
        "missing_event_time": whole.replace(f'"event_time":"{time}",', "").encode(),
        "two_values": (whole + whole).encode(),
    }
    return faults[reason]


def poison(rng: np.random.Generator, start: int, count: int) -> pl.DataFrame:
    """`count` invalid messages spread over the day from `start`; every reason comes up when there are
    enough.
    """
    topics = rng.integers(0, 3, count)
    ids = uuids(rng, count).to_list()
    reasons = [REASONS[i % len(REASONS)] for i in range(count)]
    values = [
        spoil(reason, topic, event_id, _TIME)
        for reason, topic, event_id in zip(reasons, topics.tolist(), ids, strict=True)
    ]
    return pl.DataFrame(
        {
            "topic": pl.Series(topics, dtype=pl.Int8),
            "key": tokens(rng, count, 8),
            "partition": pl.Series(rng.integers(0, 4, count), dtype=pl.Int32),
            "value": pl.Series(values, dtype=pl.Binary),
            "sent_at": between(rng, count, start, start + DAY),
            "attempt": pl.Series([1] * count, dtype=pl.Int8),
            "event_id": pl.Series([None] * count, dtype=pl.String),
            "event_type": pl.Series([None] * count, dtype=pl.String),
            "event_time": pl.Series([None] * count, dtype=pl.Int64),
            "user_id": pl.Series([None] * count, dtype=pl.Int64),
            "session_id": pl.Series([None] * count, dtype=pl.String),
            "page": pl.Series([None] * count, dtype=pl.String),
            "copied": [False] * count,
            "reason": reasons,
        }
    )
