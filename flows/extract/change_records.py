"""What each change record says by itself: `parsed`, a table of the connection with a row for each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
from duckdb import DuckDBPyConnection

from flows.extract import kafka_records
from flows.extract.row_lives import KEYED, LIVE
from flows.extract.source_clock import SourceClock
from transforms import changes
from transforms.change_values import value
from transforms.engine import quoted, text_literal
from transforms.entities import SourceEntity

OLD_KEY = "__debezium.oldkey"
"""Header of a create that is the second half of a key change: the key that the row had before."""
NEW_KEY = "__debezium.newkey"
"""Header of a delete that is its first half: the key that the row has from now on."""
_PORTION_BYTES = 64 << 20


class Opening:
    """Reads records of one topic. `clock` tells the rows' time from the source server's; `also` are names
    that rows' fields have had at the source and the entity has not; `computed` those of columns of which a
    change tells nothing, and a read of the table does.
    """

    def __init__(
        self,
        entity: SourceEntity,
        connection: DuckDBPyConnection,
        clock: SourceClock,
        also: Collection[str],
        computed: Collection[str],
    ) -> None:
        self._entity = entity
        self._connection = connection
        self._clock = clock
        self._also = also
        self._computed = computed
        self._columns = {column.name: column for column in entity.columns}
        self._by = entity.partition.by if entity.partition else None

    def parse(self, records: Iterable[pa.RecordBatch]) -> None:
        """Make `parsed` of the records: one row for each, without its bytes."""
        self._take(
            kafka_records.SCHEMA.empty_table(), f"create or replace temp table parsed as {self._query()}"
        )
        # Not as one stream: DuckDB would hide what the source said behind an error of its own.
        for portion in _portions(records):
            self._take(pa.Table.from_batches(portion), f"insert into parsed {self._query()}")

    def _take(self, records: pa.Table, query: str) -> None:
        self._connection.register("fresh", records)
        try:
            self._connection.execute(query).fetchall()
        finally:
            self._connection.unregister("fresh")

    def _query(self) -> str:
        envelope = changes.envelope(self._entity, self._also)
        key = text_literal(changes.message_key(self._entity))
        old, new = _header(OLD_KEY), _header(NEW_KEY)
        opened = (
            "select *, coalesce(e.op, w.payload.op) as _change, coalesce(e.after, w.payload.after) as after, "
            "coalesce(e.before, w.payload.before) as before, coalesce(e.source, w.payload.source) as source, "
            "coalesce(e.transaction, w.payload.transaction) as transaction, "
            "w.payload.op is not null as wrapped "
            f"from (select *, {changes.in_schema('decode(value)', 'e.op', envelope)} as w "
            f"from (select *, try(from_json(decode(value), {text_literal(envelope)})) as e, "
            f"try(from_json(decode(key), {key})) as k, try(from_json(decode({old}), {key})) as o, "
            f"try(from_json(decode({new}), {key})) as n, "
            f"{old} is not null as is_moved from fresh))"
        )
        is_stream = "coalesce(source.snapshot, 'false') = 'false'"
        committed = self._clock.sql("coalesce(source.ts_us, source.ts_ms * 1000)")
        keys = ", ".join(f"{quoted(name)} := {self._key(name)}" for name in self._entity.key)
        olds = ", ".join(f"{quoted(name)} := {self._told('o', name)}" for name in self._entity.key)
        news = ", ".join(f"{quoted(name)} := {self._told('n', name)}" for name in self._entity.key)
        befores = ", ".join(
            f"{quoted(name)} := {value(self._columns[name], f'before.{quoted(name)}')}"
            for name in self._entity.key
        )
        part = value(self._columns[self._by], f"after.{quoted(self._by)}") if self._by else "null"
        fields = "json_keys(decode(value), case when wrapped then '$.payload.after' else '$.after' end)"
        if self._computed:
            names = ", ".join(map(text_literal, sorted(self._computed)))
            fields = f"list_filter({fields}, lambda name: name not in ({names}))"
        return (
            "select kafka_offset, kafka_timestamp, "
            "before is not null as has_before, _change, after, is_moved, source.lsn as _lsn, "
            "try_cast(try(json_extract_string(source.sequence, '$[0]')) as bigint) "
            "as _commit_lsn, coalesce(try_cast(split_part(transaction.id, ':', 1) as bigint), source.txId) "
            "as _transaction, transaction.total_order as _total_order, "
            f"case when {is_stream} and _change <> 'r' "
            f"then try(make_timestamp({committed}))::timestamptz end as _changed_at, "
            "source.snapshot as _snapshot, "
            f"struct_pack({keys}) as _key, struct_pack({olds}) as _old, struct_pack({befores}) as _before, "
            f"case when n is not null then struct_pack({news}) end as _new, "
            f"{part} as _part, case when _change in {LIVE} then try({fields}) end as fields, "
            f"{self._first_problem()} as _problem, {self._first_ignored()} as _ignored, "
            f"null::varchar as _filled from ({opened})"
        )

    def _key(self, name: str) -> str:
        """The key of a delete is the record's: the row before is invented where the identity is the key."""
        given, row = self._given(name), quoted(name)
        text = (
            f"case when _change = 'd' then case when key is null then before.{row} else {given} end "
            f"else coalesce(after.{row}, {given}) end"
        )
        return value(self._columns[name], text)

    def _given(self, name: str) -> str:
        return f"coalesce(k.payload.{quoted(name)}, k.{quoted(name)})"

    def _told(self, key: str, name: str) -> str:
        """One column of a key that a header tells."""
        return value(self._columns[name], f"coalesce({key}.payload.{quoted(name)}, {key}.{quoted(name)})")

    def _first_problem(self) -> str:
        lacking = " or ".join(f"{self._key(name)} is null" for name in self._entity.key)
        # Under another key than the declared one nothing says which row it was that was changed.
        other = " or ".join(f"{self._given(name)} is null" for name in self._entity.key)
        return (
            "case when value is null then null when _change is null then 'it is no change event of Debezium' "
            "when _change not in ('c', 'r', 'u', 'd', 't', 'm') then 'its operation is unknown' "
            f"when _change in {LIVE} and after is null then 'there is no row in it' "
            f"when _change in {KEYED} and ({lacking}) then 'its key can''t be read' "
            f"when _change = 'u' and key is not null and before is null and ({other}) "
            "then 'its key is not the declared one' end"
        )

    def _first_ignored(self) -> str:
        return (
            "case when value is null then 'tombstone' when _change = 'm' then 'message' "
            "when _change = 't' then 'truncate' end"
        )


def _header(name: str) -> str:
    """SQL: the bytes of a record's header."""
    return f"list_filter(headers, lambda h: h.name = {text_literal(name)})[1].value"


def _portions(records: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """As many batches at once as are worth a statement, and have room."""
    portion: list[pa.RecordBatch] = []
    for batch in records:
        portion.append(batch)
        if sum(one.nbytes for one in portion) >= _PORTION_BYTES:
            yield portion
            portion = []
    if portion:
        yield portion
