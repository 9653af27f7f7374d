"""Change records as they came, and beside each what was found out about it: what is landed.

The records' bytes never go through DuckDB: they are read again, and only put beside what it has found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from flows.extract import kafka_records


class RecordRows:
    """Records of one topic's partition, in their order, in `kafka_records.SCHEMA`; each pass begins at
    the first.
    """

    def __init__(self, records: Iterable[pa.RecordBatch]) -> None:
        self._records = records

    def with_bytes(
        self, found: Sequence[tuple[int, str, int | None]]
    ) -> list[tuple[str, int, int, datetime | None, bytes | None, str, int | None]]:
        """(offset, reason, transaction) in the offsets' order → (topic, partition, offset, timestamp, value,
        reason, transaction).
        """
        if not found:
            return []
        wanted = pa.array([offset for offset, _, _ in found], pa.int64())
        names = ["topic", "kafka_partition", "kafka_offset", "kafka_timestamp", "value"]
        there = [
            tuple(row.values())
            for batch in self._records
            for row in batch.select(names)
            .filter(pc.is_in(batch.column("kafka_offset"), value_set=wanted))
            .to_pylist()
        ]
        return [
            (*record, reason, transaction)
            for record, (_, reason, transaction) in zip(there, found, strict=True)
        ]

    def joined(self, found: Iterable[pa.RecordBatch], wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Rows in the schema `wanted`.

        `found` has the columns of it that are not the record's, and `kafka_offset`, `kafka_timestamp` and
        `sub`: 0 for what is told of a record, in the records' order, other numbers for what it has caused.
        """
        unread = _Unread(self._records)
        for rows in found:
            if not rows.num_rows:
                continue
            is_own = pc.equal(rows.column("sub"), 0)
            number = int(pc.sum(is_own).as_py() or 0)
            if number == rows.num_rows:
                at = 0
                for records in unread.take(number):
                    yield _row(records, rows.slice(at, records.num_rows), wanted)
                    at += records.num_rows
                continue
            table = pa.Table.from_batches(list(unread.take(number)), kafka_records.SCHEMA).combine_chunks()
            places = pc.subtract(pc.cumulative_sum(is_own.cast(pa.int64())), 1)
            spread = table.take(pc.if_else(is_own, places, None))
            for name in ("topic", "kafka_partition"):
                place = pc.if_else(pc.is_valid(rows.column("kafka_offset")), unread.place[name], None)
                spread = _with(spread, name, place)
            for name in ("kafka_offset", "kafka_timestamp"):
                spread = _with(spread, name, rows.column(name))
            yield _row(spread.combine_chunks().to_batches()[0], rows, wanted)


class _Unread:
    """The records behind those that were taken."""

    def __init__(self, records: Iterable[pa.RecordBatch]) -> None:
        self._batches = iter(records)
        self._rest: pa.RecordBatch | None = None
        self.place: dict[str, pa.Scalar] = {
            name: pa.scalar(None, kafka_records.SCHEMA.field(name).type)
            for name in ("topic", "kafka_partition")
        }
        """Topic and partition, once a record was taken."""

    def take(self, number: int) -> Iterator[pa.RecordBatch]:
        """The next so many."""
        while number:
            batch = next(self._batches) if self._rest is None else self._rest
            self.place = (
                {name: batch.column(name)[0] for name in self.place} if batch.num_rows else self.place
            )
            part, rest = batch.slice(0, number), batch.slice(number)
            self._rest = rest if rest.num_rows else None
            number -= part.num_rows
            if part.num_rows:
                yield part


def _row(records: pa.RecordBatch, found: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    same = records.column("kafka_offset").equals(found.column("kafka_offset"))
    assert same, "what was found out belongs to other records"
    columns = [
        records.column(field.name) if field.name in kafka_records.SCHEMA.names else found.column(field.name)
        for field in wanted
    ]
    cast = [column.cast(field.type) for column, field in zip(columns, wanted, strict=True)]
    return pa.record_batch(cast, schema=wanted)


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    number = table.schema.get_field_index(name)
    return table.set_column(number, table.schema.field(name), column.cast(table.schema.field(name).type))
