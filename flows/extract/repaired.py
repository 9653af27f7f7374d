"""One record from bytes that somebody gives, in the form in which its protocol lands it.

What a source sent and nobody could read comes back this way, as it was or repaired. The bytes are held to
what the protocol itself demands of a record; whether it makes sense is for the models to say.
"""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import msgspec
import orjson
import pyarrow as pa

from flows.extract import answer, kafka_records, postgres_types, rest
from transforms import engine
from transforms.change_values import FIRST_AND_END
from transforms.contract import Column
from transforms.entities import Postgres, Rest, SourceEntity

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Unusable(ValueError):
    """The bytes can't be a record of this source; the text says why, as a dead letter's reason does."""


def of_topic(landed: pa.Table, value: bytes | None) -> pa.RecordBatch:
    """A message with another value; all else is what the broker gave: `landed` is its one raw row."""
    names = [name for name in kafka_records.SCHEMA.names if name != "value"]
    columns = [landed[name].combine_chunks().cast(kafka_records.SCHEMA.field(name).type) for name in names]
    return pa.record_batch([*columns, pa.array([value], pa.binary())], schema=kafka_records.SCHEMA)


def of_api(entity: SourceEntity, text: bytes, received_at: datetime) -> tuple[pa.RecordBatch, str]:
    """An object of a list endpoint, and the window it touches. Raises Unusable."""
    assert isinstance(entity.read, Rest)
    record = answer.record(text, entity.read.id_fields)
    if record.id is None:
        raise Unusable(record.reason or "it is no object of this list")
    time = pa.array([received_at], rest.SCHEMA.field("window_start").type)
    content = pa.ExtensionArray.from_storage(pa.json_(), pa.array([record.text.decode()], pa.string()))
    batch = pa.record_batch([pa.array([record.id]), content, time, time], schema=rest.SCHEMA)
    return batch, answer.window(entity.read, record.value)


def of_database(entity: SourceEntity, text: bytes) -> tuple[pa.RecordBatch, str]:
    """A row of a database table, written as PostgreSQL's to_json() writes it, and the window it touches.

    Exact or not at all, as when it is read from the database: a number that a column would round, a time that
    is outside the years 1 to 9999 are no values of it. Raises Unusable.
    """
    assert isinstance(entity.read, Postgres)
    try:
        if not isinstance(orjson.loads(text), dict):
            raise Unusable("it is no JSON object with a row's columns")
    except orjson.JSONDecodeError as error:
        raise Unusable(f"it is not valid JSON: {error.msg}") from None
    # Numbers stay the text they are: a column of 38 digits has no other exact form.
    fields = json.loads(text, parse_int=str, parse_float=str)
    values: list[Any] = []
    with engine.connect() as connection:
        for column in entity.columns:
            if column.name not in fields:
                raise Unusable(f"it has no column {column.name}")
            if fields[column.name] is None and column.name in entity.required:
                raise Unusable(f"{column.name} is null")
            values.append(_value(connection, column, fields[column.name], text))
        schema = postgres_types.schema(entity)
        kinds = [postgres_types.declared_type(column.type) for column in entity.columns]
        named = zip(kinds, entity.columns, strict=True)
        listed = ", ".join(f'?::{kind} as "{column.name}"' for kind, column in named)
        row = connection.sql(f"select {listed}, 'r' as _op", params=values).to_arrow_table()
    batch = postgres_types.convert(row.combine_chunks().to_batches()[0], schema)
    if entity.partition is None:
        return batch, ""
    at = batch.column(entity.partition.by)[0].as_py()
    return batch, "" if at is None else entity.partition.key(at)


def _value(connection: duckdb.DuckDBPyConnection, column: Column, given: Any, whole: bytes) -> Any:
    """One field as text that DuckDB reads as the declared type without loss; None for null."""
    kind = postgres_types.declared_type(column.type)
    if given is None:
        return None
    if kind == "JSON" or kind.endswith("[]"):
        # Its own text: read and written again, a long decimal would be another number.
        text = bytes(_MEMBERS.decode(whole)[column.name]).decode()
        given = text if kind == "JSON" else json.loads(text)
    elif isinstance(given, bool):
        given = str(given).lower()
    elif not isinstance(given, str):
        raise Unusable(f"{column.name} is no {column.type}")
    if kind == "BLOB":
        try:
            return bytes.fromhex(given.removeprefix("\\x"))
        except ValueError:
            raise Unusable(f"{column.name} is not written in hexadecimal, like \\x00ff") from None
    try:
        bounds = FIRST_AND_END.get(kind)
        is_outside = f"v < {bounds[0]} or v >= {bounds[1]}" if bounds else "false"
        ((outside, exact),) = connection.execute(
            f"select {is_outside}, v::varchar from (select ?::{kind} as v)", [given]
        ).fetchall()
    except duckdb.Error:
        raise Unusable(f"{column.name} is no {column.type}") from None
    if outside:
        raise Unusable(f"{column.name} is outside the years 1 to 9999")
    if kind.startswith("DECIMAL") and Decimal(exact) != Decimal(given):
        raise Unusable(f"{column.name} has more digits than {column.type} holds")
    if kind in ("BIGINT", "INTEGER", "SMALLINT") and exact != given.lstrip("+"):
        raise Unusable(f"{column.name} is no {column.type}")
    return given
