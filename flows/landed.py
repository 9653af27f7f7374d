"""What every landing has, whoever makes it: its folder, its rows' places and windows, a time that never goes
back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection

from flows.extract import ControlTotal, Extract, SourceRefused, answer
from flows.stores.lake import Lake
from flows.stores.ledger_rows import Position
from flows.stores.manifest import LakeFile
from transforms import changes
from transforms.engine import quoted
from transforms.entities import Kafka, Postgres, Rest, SourceEntity

ROWS_PER_FILE = 1_000_000
_AT_ONCE = 10_000
_LARGEST_MESSAGE = 1 << 20
"""Bytes of a message that its staging model reads at most: a larger one is of no window."""
STREAMED = "stream-"
"""What the names of micro-batches begin with."""
BY, BY_STREAM, BY_REPLAY = "by", "stream", "replay"
"""Key under which a landing says who made it if no batch did: the stream, or a replay of records or letters,
whose offsets are no unbroken run."""
LANDED_ON = changes.LANDED_ON
"""Folder column of raw files: the day they were landed."""
CLOCK = "landed_at"
"""Key under which a position keeps the time of its landing."""
WINDOWS_BY = "windows_by"
"""Key under which the position of a database's table keeps the column by which its landings tell windows."""
NOTHING_IN = "nothing_in"
"""Key under which a topic's position keeps what was read behind its last landing and held no record, as
under OFFSETS."""
OFFSETS = "offsets"
"""Key under which a landing of a topic says, in its ledger entry, what was read: partition → spans
[first, after). A gap between records within a span is no loss: transaction markers, compaction."""


def landed_on(file: LakeFile) -> str:
    """The day a raw file was landed, as its folder says."""
    return file.path.split(f"{LANDED_ON}=")[1].split("/")[0]


def landing_time(now: datetime, position: Position) -> datetime:
    """The time of a landing that begins now: never the same or an earlier one for one entity, whatever the
    clock does.
    """
    last = position.positions.get(CLOCK)
    if last is None:
        return now.astimezone(UTC)
    return max(now.astimezone(UTC), datetime.fromisoformat(last) + timedelta(microseconds=1))


def landed_schema(rows: pa.Schema) -> pa.Schema:
    """The columns of landed rows: their own, and those that say where they stand in raw."""
    place = [
        pa.field("_batch_id", pa.string()),
        pa.field("_landed_at", pa.timestamp("us", tz="UTC")),
        pa.field("_seq", pa.int64()),
    ]
    return pa.schema([*rows, *place])


def with_place(batch: pa.RecordBatch, batch_id: str, landed_at: datetime, first: int = 0) -> pa.RecordBatch:
    """Rows with their place: their batch, its time, and their number in it from `first` on."""
    count, schema = batch.num_rows, landed_schema(batch.schema)
    places = [
        pa.repeat(pa.scalar(batch_id), count),
        pa.repeat(pa.scalar(landed_at, schema.field("_landed_at").type), count),
        pa.arange(first, first + count),
    ]
    return pa.record_batch([*batch.columns, *places], schema=schema)


def windows_by(entity: SourceEntity, position: Position) -> dict[str, str]:
    """What the next position keeps under WINDOWS_BY. Raises SourceRefused where the column is another one
    than it was: the landings before say of no row in which window it would be by that.
    """
    if not isinstance(entity.read, Postgres):
        return {}
    known = position.positions.get(WINDOWS_BY)
    now = entity.partition.by if entity.partition else None
    names = {now, *(name for column in entity.columns if column.name == now for name in column.formerly)}
    if known and now and known not in names:
        raise SourceRefused(
            f"{entity.place}: its windows were told by {known} before, and tables find its rows by them; "
            f'nothing was landed. Declare Partition("{known}", …) for it again, or give it another name: all '
            "of it lands anew under that."
        )
    return {WINDOWS_BY: by} if (by := now or known) else {}


def spans_without_records(position: Position) -> dict[str, list[list[int]]]:
    """What was read of a topic since its last landing; no landing tells of it yet."""
    return {
        partition: [list(span) for span in spans]
        for partition, spans in position.positions.get(NOTHING_IN, {}).items()
    }


def add_span(spans: dict[str, list[list[int]]], partition: int, span: tuple[int, int]) -> None:
    """Add what was read of a partition; what goes on where the last span ended is one with it."""
    there = spans.setdefault(str(partition), [])
    if there and there[-1][1] == span[0]:
        there[-1][1] = span[1]
    else:
        there.append(list(span))


def spans_with(offsets: Mapping[int, tuple[int, int]], position: Position) -> dict[str, list[list[int]]]:
    """What was read, with what reads since the last landing found nothing in."""
    spans = spans_without_records(position)
    for partition, span in offsets.items():
        add_span(spans, partition, span)
    return spans


def control(extract: Extract, position: Position) -> dict[str, Any]:
    """What a landing says of its source beside its rows: the offsets that were read, or the totals."""
    if extract.offsets:
        return {OFFSETS: spans_with(extract.offsets, position)}
    if extract.control is None:
        return {}
    return {
        "totals": [
            [total.day.isoformat() if total.day else None, total.group, total.row_count, str(total.amount)]
            for total in extract.control
        ]
    }


def portions_of(
    extract: Extract, batch_id: str, landed_at: datetime, rows_per_file: int
) -> Iterator[pa.RecordBatchReader]:
    """Readers of at most `rows_per_file` rows each, each row with its place. Read them in turn."""
    batches = (batch for batch in extract.batches if batch.num_rows)
    waiting = next(batches, None)
    seq = 0

    def portion() -> Iterator[pa.RecordBatch]:
        nonlocal waiting, seq
        room = rows_per_file
        while waiting is not None and room:
            part, rest = waiting.slice(0, room), waiting.slice(room)
            count = part.num_rows
            yield with_place(part, batch_id, landed_at, seq)
            seq += count
            room -= count
            waiting = rest if rest.num_rows else next(batches, None)

    while waiting is not None:
        yield pa.RecordBatchReader.from_batches(landed_schema(extract.schema), portion())


def rows_landed(
    connection: DuckDBPyConnection, lake: Lake, entity: SourceEntity, files: Sequence[LakeFile]
) -> DuckDBPyRelation | None:
    """The rows of raw files of a database's table as models see them, read or told; None without a file."""
    if not files:
        return None
    raw = lake.read(connection, files)
    if not changes.is_of_changes(raw.columns):
        own = {column.name: changes.as_read(column, raw.columns) for column in entity.columns}
        if all(read == quoted(name) for name, read in own.items()):
            return raw
        made = [f"{own[c.name] or f'null::{c.type}'} as {quoted(c.name)}" for c in entity.columns]
        rest = [quoted(name) for name in raw.columns if name.startswith("_")]
        return raw.project(", ".join((*made, *rest)))
    raw.create_view("raw_records", replace=True)
    return connection.sql(changes.typed(entity, "from raw_records", raw.columns))


def enter_totals(connection: Connection[Any], entity: SourceEntity, totals: Iterable[ControlTotal]) -> None:
    """The newest totals take the place of the older ones, which describe rows that have changed since."""
    name = f"{entity.source}.{entity.name}"
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("delete from ops.control_total where entity = %s", (name,))
        cursor.executemany(
            "insert into ops.control_total (entity, day, group_value, row_count, amount) "
            "values (%s, %s, %s, %s, %s)",
            [
                (name, total.day, total.group, total.row_count, total.amount)
                for total in totals
                if total.day is not None
            ],
        )


def rows_by_window(
    connection: DuckDBPyConnection, entity: SourceEntity, paths: Sequence[str], among: str = "true"
) -> dict[str, int]:
    """Rows of raw files per window they touch; '' where it can't be told. `among`: a condition on the rows.

    The connection's time zone is UTC.
    """
    if not paths:
        return {}
    if isinstance(entity.read, Rest):
        return _days_of_objects(connection, entity.read, paths, among)
    partition = entity.partition
    if partition is None:
        moment, form = "null::timestamptz", "%Y"
    else:
        moment, form = quoted(partition.by), "%Y-%m-%d" if partition.every == "day" else "%Y-%m"
    if partition is not None and isinstance(entity.read, Kafka):
        path = json.dumps({entity.read.event_time: "VARCHAR"}).replace("'", "''")
        field = quoted(entity.read.event_time)
        # Once a row fails, `try` goes through all of its vector row by row: what is no JSON is not tried.
        text = f"try(decode(case when octet_length(value) <= {_LARGEST_MESSAGE} then value end))"
        text = f"case when json_valid({text}) then {text} end"
        moment = f"try_cast(try(from_json({text}, '{path}')).{field} as timestamptz)"
    rows = connection.execute(
        f"select coalesce(strftime({moment}, '{form}'), ''), count(*) "
        f"from read_parquet(?, hive_partitioning = false) where {among} group by 1 order by 1",
        [list(paths)],
    ).fetchall()
    counts: Counter[str] = Counter()
    for window, count in rows:
        # A year of five digits or before Christ is no window, nor is infinity.
        counts[window if partition is not None and partition.is_window(window) else ""] += count
    return dict(counts)


def _days_of_objects(
    connection: DuckDBPyConnection, read: Rest, paths: Sequence[str], among: str
) -> dict[str, int]:
    """The same of what an API lists, as its landing counts it: the time is within the object."""
    found = connection.execute(
        f"select object::varchar from read_parquet(?, hive_partitioning = false) where {among}",
        [list(paths)],
    )
    counts: Counter[str] = Counter()
    while rows := found.fetchmany(_AT_ONCE):
        counts.update(answer.window(read, orjson.loads(text)) for (text,) in rows)
    return dict(counts)
