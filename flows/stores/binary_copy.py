"""COPY inside a transaction: Arrow batches as PostgreSQL's binary rows, made column by column.

ADBC's COPY is a transaction of its own. Rows that are to be seen with something else go through this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import Connection, sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format

from flows.stores.warehouse import PostgresColumn

BATCH_ROWS = 30_720
"""Rows of a batch that is encoded at once."""

_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_DAYS_TO_2000 = 10_957
"""PostgreSQL counts days and microseconds from 2000-01-01, Arrow from 1970-01-01."""
_SHIFTED = {
    "date": _DAYS_TO_2000,
    "timestamp": _DAYS_TO_2000 * 86_400_000_000,
    "timestamptz": _DAYS_TO_2000 * 86_400_000_000,
}
_NUMBERS = {
    "bool": "u1",
    "int2": ">i2",
    "int4": ">i4",
    "int8": ">i8",
    "float4": ">f4",
    "float8": ">f8",
    "date": ">i4",
    "time": ">i8",
    "timestamp": ">i8",
    "timestamptz": ">i8",
}
_TEXTS = {"text", "varchar", "bpchar", "json", "jsonb", "bytea"}
_JSONB_VERSION = 1

_Fixed: TypeAlias = npt.NDArray[np.uint8]
"""Rows × bytes: a piece of rows that has the same length in each."""


def copy(
    connection: Connection[Any],
    target: sql.Identifier,
    columns: Sequence[PostgresColumn],
    batches: Iterable[pa.RecordBatch],
) -> None:
    """COPY batches into a table, in the caller's transaction.

    They have `columns` in this order and their exact types, as `Warehouse.exact` gives them. One at a time
    is in memory as bytes.
    """
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(target, names)
    with connection.cursor() as cursor, cursor.copy(query) as copying:
        copying.write(_SIGNATURE)
        for batch in batches:
            if batch.num_rows:
                copying.write(encoded(connection, columns, batch))
        copying.write(_TRAILER)


def encoded(
    connection: Connection[Any], columns: Sequence[PostgresColumn], batch: pa.RecordBatch
) -> memoryview:
    """The rows of a batch as they stand in a binary COPY."""
    fields = np.frombuffer(len(columns).to_bytes(2, "big"), np.uint8)
    pieces: list[_Fixed | pa.BinaryArray] = [np.broadcast_to(fields, (batch.num_rows, 2))]
    for column, values in zip(columns, batch.columns, strict=True):
        pieces += _field(connection, column, values)
    rows = pc.binary_join_element_wise(*_joined(pieces), b"")
    content: pa.Buffer = rows.buffers()[2]
    return memoryview(content)


def _field(
    connection: Connection[Any], column: PostgresColumn, values: pa.Array
) -> Iterator[_Fixed | pa.BinaryArray]:
    """One column: of each row the length (-1: null) and the value."""
    plain = values.storage if isinstance(values.type, pa.ExtensionType) else values
    if column.type in _NUMBERS:
        yield _or_null(_with_length(_numbers(column.type, plain)), plain)
    elif column.type == "uuid":
        content = np.frombuffer(plain.buffers()[1], np.uint8)[plain.offset * 16 :]
        yield _or_null(_with_length(content[: len(plain) * 16].reshape(-1, 16)), plain)
    elif column.type in _TEXTS or column.is_enum:
        yield from _of_any_length(plain.cast(pa.binary()), is_jsonb=column.type == "jsonb")
    else:
        yield from _of_any_length(_one_by_one(connection, column, plain), is_jsonb=False)


def _numbers(kind: str, values: pa.Array) -> _Fixed:
    given = values.cast(pa.uint8()) if kind == "bool" else values
    if kind in _SHIFTED or kind == "time":
        given = given.cast(pa.int32() if kind == "date" else pa.int64())
    numbers = (pc.fill_null(given, 0) if given.null_count else given).to_numpy(zero_copy_only=False)
    big = (numbers - _SHIFTED[kind] if kind in _SHIFTED else numbers).astype(_NUMBERS[kind])
    fixed: _Fixed = big.view(np.uint8).reshape(len(values), -1)
    return fixed


def _of_any_length(values: pa.BinaryArray, *, is_jsonb: bool) -> Iterator[_Fixed | pa.BinaryArray]:
    known = pc.fill_null(values, b"") if values.null_count else values
    lengths = pc.binary_length(known).to_numpy(zero_copy_only=False) + is_jsonb
    before = lengths.astype(">i4").view(np.uint8).reshape(-1, 4)
    if is_jsonb:
        before = np.hstack([before, np.full((len(values), 1), _JSONB_VERSION, np.uint8)])
    yield _or_null(before, values)
    yield known


def _one_by_one(connection: Connection[Any], column: PostgresColumn, values: pa.Array) -> pa.BinaryArray:
    """What has no quicker way, numeric and arrays, as psycopg writes it."""
    kind = connection.adapters.types[column.type.removeprefix("_")]
    transformer = Transformer(connection)
    transformer.set_dumper_types([kind.array_oid if column.type.startswith("_") else kind.oid], Format.BINARY)
    given = ([value] for value in values.to_pylist())
    written = (transformer.dump_sequence(value, [PyFormat.BINARY])[0] for value in given)
    return pa.array((None if value is None else bytes(value) for value in written), pa.binary())


def _with_length(values: _Fixed) -> _Fixed:
    length = np.frombuffer(values.shape[1].to_bytes(4, "big"), np.uint8)
    return np.hstack([np.broadcast_to(length, (len(values), 4)), values])


def _or_null(pieces: _Fixed, values: pa.Array) -> _Fixed | pa.BinaryArray:
    """Nothing but a length of -1 where there is no value."""
    return pc.if_else(values.is_valid(), _binary(pieces), _NULL) if values.null_count else pieces


def _joined(pieces: Sequence[_Fixed | pa.BinaryArray]) -> Iterator[pa.BinaryArray]:
    """Pieces of one length that stand side by side as one."""
    waiting: list[_Fixed] = []
    for piece in pieces:
        if isinstance(piece, np.ndarray):
            waiting.append(piece)
            continue
        if waiting:
            yield _binary(np.hstack(waiting))
            waiting = []
        yield piece
    if waiting:
        yield _binary(np.hstack(waiting))


def _binary(pieces: _Fixed) -> pa.BinaryArray:
    count, width = pieces.shape
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    content = pa.py_buffer(np.ascontiguousarray(pieces))
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), content])
