"""What of the rows just read is news, found in DuckDB, which spills to disk when there is much to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from flows.extract.postgres_ahead import Ahead, in_utc
from flows.extract.postgres_types import declared_type
from transforms.changes import marks_deleted
from transforms.engine import quoted, text_literal
from transforms.entities import SourceEntity

_ROWS = 100_000
_KEYS = 5_000
_NUMBER = "_extract"


class Changes:
    """The comparison tables of one read.

    `connection` serves this read alone: rows stream through it, and its temporary tables end with it.
    """

    def __init__(self, entity: SourceEntity, schema: pa.Schema, connection: DuckDBPyConnection) -> None:
        self._schema = schema
        self._connection = connection
        self._keys = list(entity.key)
        self._kinds = {column.name: declared_type(column.type) for column in entity.columns}
        self._window = entity.partition.by if entity.partition else None
        self._marks = marks_deleted(entity)
        self._has_memory = False
        self._broke: Exception | None = None

    # --------------------------------------------------------------------------------------- what was landed

    def remember(self, before: DuckDBPyRelation | None, cursor: str, lower: Any) -> None:
        """Keep key and row hash of the newest landed version of each key; `new` leaves these out.

        Only keys that were landed with a cursor of at least `lower` (None: all) can be read again.
        """
        if before is None:
            return
        self._connection.register("raw_before", before)
        again = "true"
        if lower is not None:
            self._connection.execute(
                f"create or replace temp table again as select distinct {_list(self._keys)} from raw_before "
                f"where {quoted(cursor)} >= ?",
                [lower],
            )
            again = f"({_list(self._keys)}) in (select ({_list(self._keys)}) from again)"
        newest = self._newest(f"{{'op': _op, 'row': {self._hash()}}}", again)
        self._connection.execute(
            "create or replace temp table landed_before as "
            f"select {_list(self._keys)}, newest from ({newest})"
        )
        self._has_memory = True

    def new(
        self, batches: Iterator[pa.RecordBatch], cursor: str, highest: list[Any], ahead: Ahead
    ) -> Iterator[pa.RecordBatch]:
        """The batches without the rows that `remember` or `ahead` knows; the cursor's maxima go into
        `highest`.
        """

        def watched() -> Iterator[pa.RecordBatch]:
            for batch in batches:
                highest.append(in_utc(pc.max(batch.column(cursor)).as_py()))
                yield ahead.news(batch)

        if not self._has_memory:
            yield from watched()
            return
        fresh = self._reader(self._schema, watched())
        yield from self._query(
            f"select fresh.* from fresh anti join landed_before on "
            f"{_same('fresh', 'landed_before', self._keys)} "
            f"and fresh._op = newest.op and {self._hash('fresh')} = newest.row",
            fresh=fresh,
        )

    def deleted(self, before: DuckDBPyRelation) -> Iterator[pa.RecordBatch]:
        """A row with `_op` 'd' for each key that is live in `before` and not at the source any more.

        Filled are the key and the column of the window, so that the right partitions are rebuilt; where
        deleted rows are marked, everything as it was last.
        """
        self._connection.register("raw_before", before)
        # Most keys are still there: versions are compared only of those that are not.
        self._connection.execute(
            f"create or replace temp table gone as select distinct {_list(self._keys)} from raw_before "
            f"anti join source_keys on {_same('raw_before', 'source_keys', self._keys)}"
        )
        others = [name for name in self._kinds if name not in self._keys]
        kept = [name for name in others if self._marks or name == self._window]
        packed = "".join(f", {text_literal(name)}: {quoted(name)}" for name in kept)
        live = self._newest(
            f"{{'op': _op{packed}}}",
            f"({_list(self._keys)}) in (select ({_list(self._keys)}) from gone)",
        )
        given = {name: quoted(name) for name in self._keys} | {n: f"newest.{quoted(n)}" for n in kept}
        values = ", ".join(
            f"{given.get(name, 'null')}::{self._kinds[name]} as {quoted(name)}"
            for name in self._schema.names
            if name != "_op"
        )
        yield from self._query(
            f"select {values}, 'd' as _op from ({live}) where newest.op = 'r' order by {_list(self._keys)}"
        )

    # ------------------------------------------------------------------------------------ what the source has

    def keep_keys(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Take over the keys of all rows at the source, with `is_below`: it should have been landed."""
        kinds = [self._schema.field(name) for name in self._keys]
        wanted = pa.schema([*kinds, pa.field("is_below", pa.bool_())])
        keys = self._reader(wanted, (_convert_keys(batch, wanted) for batch in batches))
        self._store("source_keys", "select * from fresh", keys)

    def missed(self, before: DuckDBPyRelation) -> Iterator[Sequence[tuple[str, ...]]]:
        """Keys at the source that should have been landed and are not live, some thousand at a time."""
        self._connection.register("raw_before", before)
        dead = self._newest(
            "_op", f"({_list(self._keys)}) in (select ({_list(self._keys)}) from raw_before where _op = 'd')"
        )
        texts = ", ".join(f"source_keys.{quoted(name)}::varchar" for name in self._keys)
        same = _same("source_keys", "other", self._keys)
        rows: list[tuple[str, ...]] = []
        for others in (
            f"anti join raw_before as other on {same}",
            f"semi join (from ({dead}) where newest = 'd') as other on "
            f"{_same('source_keys', 'other', self._keys)}",
        ):
            # One after the other: each holds the keys of a whole table.
            rows += self._connection.execute(
                f"select {texts} from source_keys {others} where is_below"
            ).fetchall()
        for start in range(0, len(rows), _KEYS):
            yield rows[start : start + _KEYS]

    def spool(self, batches: Iterator[pa.RecordBatch]) -> str:
        """Keep all rows; returns a digest of their content, whatever their order."""
        self._store("spool", "select * from fresh", self._reader(self._schema, batches))
        self._connection.execute(
            f"create or replace temp table source_keys as select {_list(self._keys)} from spool"
        )
        names = ", ".join(f"{text_literal(name)}: {quoted(name)}" for name in self._kinds)
        found = self._connection.execute(
            "select count(*), coalesce(sum(md5_number_lower(content)), 0), "
            "coalesce(sum(md5_number_upper(content)), 0) "
            f"from (select to_json({{{names}}})::varchar as content from spool)"
        ).fetchall()[0]
        return "-".join(f"{number:x}" for number in found)

    def spooled(self) -> Iterator[pa.RecordBatch]:
        """The rows that were kept, in the order of their keys."""
        yield from self._query(f"select * from spool order by {_list(self._keys)}")

    # ------------------------------------------------------------------------------------------------ inside

    def _newest(self, value: str, where: str) -> str:
        """Query over `raw_before` for `value` of the newest version of each key, as `newest`."""
        return (
            f"select {_list(self._keys)}, arg_max({value}, {{'at': _landed_at, 'seq': _seq}}) as newest "
            f"from raw_before where {where} group by {_list(self._keys)}"
        )

    def _hash(self, table: str = "") -> str:
        prefix = f"{table}." if table else ""
        values = ", ".join(f"{prefix}{quoted(name)}::{kind}" for name, kind in self._kinds.items())
        return f"hash({values})"

    def _reader(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.RecordBatchReader:
        """The batches for DuckDB, which makes errors of its own of what they raise: see `_as_raised`."""

        def read() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches
            except Exception as error:
                self._broke = error
                raise

        return pa.RecordBatchReader.from_batches(schema, read())

    @contextmanager
    def _as_raised(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error:
            if self._broke is None:
                raise
            raise self._broke from None

    def _store(self, name: str, query: str, fresh: pa.RecordBatchReader) -> None:
        self._connection.register("fresh", fresh)
        with self._as_raised():
            self._connection.execute(f"create or replace temp table {name} as {query}")
        self._connection.unregister("fresh")

    def _query(self, query: str, fresh: pa.RecordBatchReader | None = None) -> Iterator[pa.RecordBatch]:
        if fresh is not None:
            self._connection.register("fresh", fresh)
        with self._as_raised():
            for batch in self._connection.sql(query).to_arrow_reader(_ROWS):
                if batch.num_rows:
                    columns = [batch.column(field.name).cast(field.type) for field in self._schema]
                    yield pa.record_batch(columns, schema=self._schema)


def _convert_keys(batch: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for field, column in ((field, batch.column(field.name)) for field in wanted)
    ]
    return pa.record_batch(columns, schema=wanted)


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))


def _same(left: str, right: str, names: Sequence[str]) -> str:
    return " and ".join(f"{left}.{quoted(name)} = {right}.{quoted(name)}" for name in names)
