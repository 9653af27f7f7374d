"""Batches on their way into COPY: one stream of them for several readers, in a form that it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pyarrow as pa


class SharedBatches:
    """Hands each batch of a reader to one of those who ask, whoever asks first; safe between threads."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._schema = reader.schema
        self._source = iter(reader)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._ahead = [batch for batch in (next(self._source, None) for _ in range(2)) if batch is not None]
        self.has_many = len(self._ahead) > 1
        """Whether there is more than one batch, so that a second reader has something to do."""

    def reader(self) -> pa.RecordBatchReader:
        """A reader of its share. It ends when all batches were handed out."""
        return pa.RecordBatchReader.from_batches(self._schema, self._share())

    def stop(self) -> None:
        """Make the readers fail with their next batch: a share that ended early would look complete."""
        with self._lock:
            self._failure = self._failure or InterruptedError("Another part of this COPY failed.")

    def _share(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._next()) is not None:
            yield batch

    def _next(self) -> pa.RecordBatch | None:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                return self._ahead.pop(0) if self._ahead else next(self._source, None)
            except BaseException as error:
                self._failure = error
                raise


def with_plain_booleans(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """DuckDB's exact Arrow form keeps a boolean in a byte of its own type, which binary COPY can't write."""
    if not any(isinstance(field.type, pa.Bool8Type) for field in reader.schema):
        return reader
    schema = pa.schema(
        [
            field.with_type(pa.bool_()) if isinstance(field.type, pa.Bool8Type) else field
            for field in reader.schema
        ]
    )
    return pa.RecordBatchReader.from_batches(schema, (_plain(batch, schema) for batch in reader))


def _plain(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        column.storage.cast(pa.bool_()) if isinstance(column.type, pa.Bool8Type) else column
        for column in batch.columns
    ]
    return pa.record_batch(columns, schema=schema)
