"""Change topics that the warehouse keeps, for people who have no broker.

They look to a landing as Kafka's do: one partition, offsets from 0, an identity. How far the source was read
stands beside them and is committed with the records, so a record is here once, whatever was killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pyarrow as pa
from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.extract import Extract, SourceAway, SourceError, kafka_records
from flows.settings import Settings

_BATCH_RECORDS = 20_000
_ANOTHER = (
    "a topic of this name was landed before, from a broker or another warehouse. Nothing was landed; choose "
    "another ANALYTICS_CDC_PREFIX and read everything under it: python -m flows cdc register"
)
_MISSING = "The warehouse has no tables for change capture yet: python -m flows cdc register"


@dataclass(frozen=True)
class Kept:
    """What is kept of one capture: `position` is where Debezium goes on, None until every table was read
    once; `seen` what was known of the source before the last reading.
    """

    configuration: dict[str, str]
    state: str
    position: dict[str, Any] | None
    seen: dict[str, Any] = field(default_factory=dict)


@contextmanager
def opened(settings: Settings) -> Iterator[Connection[Any]]:
    """The warehouse in autocommit. Raises SourceAway when it does not answer."""
    from flows.stores.warehouse import Warehouse
    from flows.stores.warehouse_errors import WarehouseError

    try:
        with Warehouse(settings.require("warehouse_dsn"), "user-analytics-capture").connect() as connection:
            if not _there(connection):
                raise SourceError(_MISSING)
            yield connection
    except WarehouseError as error:
        raise SourceAway(str(error)) from None


def _there(connection: Connection[Any]) -> bool:
    row = connection.execute("select to_regclass('ops.change_record') is not null").fetchone()
    return bool(row and row[0])


def load(connection: Connection[Any], connector: str) -> Kept | None:
    """What is kept under this connector's name; None where nothing was registered."""
    row = connection.execute(
        "select configuration, state, position, seen from ops.change_capture where connector = %s",
        (connector,),
    ).fetchone()
    return Kept(*row) if row else None


def begin(connection: Connection[Any], connector: str, configuration: Mapping[str, str]) -> None:
    """Keep a capture that has read nothing yet in the place of whatever was kept under this name."""
    connection.execute(
        "insert into ops.change_capture (connector, configuration) values (%s, %s) on conflict (connector) "
        "do update set configuration = excluded.configuration, state = 'running', position = null, "
        "seen = '{}', read_at = null",
        (connector, Jsonb(dict(configuration))),
    )


def configure(connection: Connection[Any], connector: str, configuration: Mapping[str, str]) -> None:
    """Give it another configuration; where it goes on stays."""
    connection.execute(
        "update ops.change_capture set configuration = %s where connector = %s",
        (Jsonb(dict(configuration)), connector),
    )


def set_state(connection: Connection[Any], connector: str, state: str) -> None:
    """running, paused or stopped."""
    connection.execute("update ops.change_capture set state = %s where connector = %s", (state, connector))


def forget(connection: Connection[Any], connector: str) -> None:
    """Remove it; its topics stay, as a broker's do."""
    connection.execute("delete from ops.change_capture where connector = %s", (connector,))


def note(
    connection: Connection[Any],
    connector: str,
    position: Mapping[str, Any],
    seen: Mapping[str, Any],
) -> None:
    """Note how far the source was read; in the transaction of the records."""
    connection.execute(
        "update ops.change_capture set position = %s, seen = %s, read_at = clock_timestamp() "
        "where connector = %s",
        (Jsonb(dict(position)), Jsonb(dict(seen)), connector),
    )


def append(connection: Connection[Any], topic: str, records: pa.RecordBatch) -> None:
    """Put records (`child.SCHEMA`) at the topic's end, which is made if it is missing; in a transaction."""
    row = connection.execute(
        "insert into ops.change_topic as t (topic, next_offset) values (%s, %s) on conflict (topic) "
        "do update set next_offset = t.next_offset + excluded.next_offset returning next_offset",
        (topic, records.num_rows),
    ).fetchone()
    assert row is not None
    first = int(row[0]) - records.num_rows
    names = ("received_at", "key", "headers", "value")
    columns = [records.column(name).to_pylist() for name in names]
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy ops.change_record (topic, kafka_offset, received_at, key, headers, value) "
            "from stdin (format binary)"
        ) as copy,
    ):
        copy.set_types(["text", "int8", "timestamptz", "bytea", "bytea", "bytea"])
        for number, (received, key, headers, value) in enumerate(zip(*columns, strict=True)):
            told = [[h["name"], None if h["value"] is None else h["value"].decode()] for h in headers]
            copy.write_row((topic, first + number, received, key, orjson.dumps(told), value))


def drop_landed(connection: Connection[Any]) -> None:
    """Remove the records that a landing has in raw."""
    connection.execute(
        "delete from ops.change_record r using ops.change_topic t, ops.position p, "
        "lateral (select coalesce(p.positions -> 'changes', p.positions) as own) o "
        "where r.topic = t.topic and o.own ->> 'topic_id' = t.topic_id::text "
        "and r.kafka_offset < (o.own -> 'offsets' ->> '0')::bigint"
    )


@dataclass(frozen=True)
class Span:
    """Offsets [start, end) of a topic, whose identity is empty where it has no record yet."""

    topic_id: str
    start: int
    end: int

    @property
    def records(self) -> int:
        """How many there are: no offset is left out."""
        return self.end - self.start

    @property
    def rest(self) -> Span:
        """What is behind it."""
        return replace(self, start=self.end)

    @property
    def nothing(self) -> Span:
        """What is before it."""
        return replace(self, end=self.start)


def span(settings: Settings, topic: str, positions: Mapping[str, Any]) -> Span:
    """What a topic holds behind the positions. Raises SourceError when they do not fit it."""
    with opened(settings) as connection:
        return _span(connection, topic, positions)


def _span(connection: Connection[Any], topic: str, positions: Mapping[str, Any]) -> Span:
    row = connection.execute(
        "select t.topic_id::text, t.next_offset, coalesce((select min(r.kafka_offset) "
        "from ops.change_record r where r.topic = t.topic), t.next_offset) "
        "from ops.change_topic t where t.topic = %s",
        (topic,),
    ).fetchone()
    known, at = positions.get("topic_id", ""), positions.get("offsets", {}).get("0")
    if row is None:
        if known:
            raise SourceError(f"Topic {topic} is not in the warehouse, though {_ANOTHER}")
        return Span("", 0, 0)
    identity, end, first = str(row[0]), int(row[1]), int(row[2])
    if known and known != identity:
        raise SourceError(f"Topic {topic} in the warehouse is another one: {_ANOTHER}")
    start = first if at is None else int(at)
    if start < first or start > end:
        raise SourceError(
            f"Topic {topic} in the warehouse has offsets {first} to {end}, and was landed up to {start}: "
            "records are lost. Nothing was landed; choose another ANALYTICS_CDC_PREFIX and read everything "
            "under it: python -m flows cdc register"
        )
    return Span(identity, start, end)


def read(settings: Settings, topic: str, span: Span) -> Extract:
    """Read these records of a topic, as `kafka.read` does, as often as they are asked for; nothing is
    connected before the first batch.
    """
    extract = Extract(kafka_records.SCHEMA, _Records(settings, topic, span))
    extract.offsets = {0: (span.start, span.end)} if span.records else {}
    extract.positions = {"topic_id": span.topic_id, "offsets": {"0": span.end} if span.topic_id else {}}
    return extract


@dataclass(frozen=True)
class _Records:
    settings: Settings
    topic: str
    span: Span

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return _batches(self.settings, self.topic, self.span)


def _batches(settings: Settings, topic: str, span: Span) -> Iterator[pa.RecordBatch]:
    if not span.records:
        return
    with (
        opened(settings) as connection,
        connection.transaction(),
        connection.cursor(name="records", binary=True) as cursor,
    ):
        cursor.itersize = _BATCH_RECORDS
        cursor.execute(
            "select kafka_offset, received_at, key, headers, value from ops.change_record "
            "where topic = %s and kafka_offset >= %s and kafka_offset < %s order by kafka_offset",
            (topic, span.start, span.end),
        )
        while rows := cursor.fetchmany(_BATCH_RECORDS):
            yield _record_batch(topic, rows)


def _record_batch(topic: str, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    offsets, times, keys, headers, values = zip(*rows, strict=True)
    named = [[{"name": n, "value": _bytes(v)} for n, v in orjson.loads(h)] for h in headers]
    schema = kafka_records.SCHEMA
    columns = [
        pa.array([topic] * len(rows), pa.string()),
        pa.array([0] * len(rows), pa.int32()),
        pa.array(offsets, pa.int64()),
        pa.array(times, schema.field("kafka_timestamp").type),
        pa.array(keys, pa.binary()),
        pa.array(named, schema.field("headers").type),
        pa.array(values, pa.binary()),
    ]
    return pa.record_batch(columns, schema=schema)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
