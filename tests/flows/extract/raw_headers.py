"""Records with headers that no Python client writes: on the wire names are bytes, and clients in C give any.

Sent by librdkafka itself, the one that confluent-kafka carries.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import confluent_kafka

_PRODUCER, _COPY = 0, 2
_TOPIC, _PARTITION, _VALUE, _MSGFLAGS, _HEADER = 1, 3, 4, 7, 9


class _Part(ctypes.Structure):
    """rd_kafka_vu_t: an argument of rd_kafka_produceva, its kind and 64 bytes of which that takes its own."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("third", ctypes.c_ssize_t),
        ("_rest", ctypes.c_uint64 * 5),
    )


def send(bootstrap: str, topic: str, value: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Send one record into partition 0, its headers' names as they are."""
    library = _library()
    problem = ctypes.create_string_buffer(512)
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(settings, b"bootstrap.servers", bootstrap.encode(), problem, len(problem))
    client = library.rd_kafka_new(_PRODUCER, settings, problem, len(problem))
    assert client, problem.value
    name = topic.encode()
    try:
        parts = [
            _Part(_TOPIC, _address(name)),
            _Part(_PARTITION, 0),
            _Part(_VALUE, _address(value), len(value)),
            _Part(_MSGFLAGS, _COPY),
            *(_Part(_HEADER, _address(named), _address(held), len(held)) for named, held in headers),
        ]
        assert library.rd_kafka_produceva(client, (_Part * len(parts))(*parts), len(parts)) is None
        assert library.rd_kafka_flush(client, 20_000) == 0
    finally:
        library.rd_kafka_destroy(client)


def _address(text: bytes) -> int | None:
    """Where the bytes are, for as long as somebody holds them."""
    return ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value


@cache
def _library() -> Any:
    (path,) = (Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs").glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    for name in ("conf_new", "new", "produceva"):
        getattr(library, f"rd_kafka_{name}").restype = ctypes.c_void_p
    library.rd_kafka_conf_set.argtypes = [ctypes.c_void_p, *[ctypes.c_char_p] * 3, ctypes.c_size_t]
    library.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.rd_kafka_produceva.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    library.rd_kafka_flush.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_destroy.argtypes = [ctypes.c_void_p]
    return library
