"""What change records do to rows, found in DuckDB, which spills to disk when there are many.

Each record is given what it does not say itself: the values that were not sent (TOAST), the window of a
deleted row, the keys that a truncate empties. So whoever reads raw needs no other record to read one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from flows.extract import kafka_records
from flows.extract.change_records import Opening
from flows.extract.half_moves import Awaited
from flows.extract.postgres_types import SourceColumn, arrow_type, declared_type
from flows.extract.record_rows import RecordRows
from flows.extract.row_lives import LIVE, Lives, applied
from flows.extract.source_clock import SourceClock
from flows.extract.told_texts import spelled
from transforms import changes
from transforms.change_values import WHOLE, is_unavailable, problem
from transforms.contract import Column
from transforms.engine import quoted, text_literal
from transforms.entities import SourceEntity

_ROWS = 100_000


@dataclass(frozen=True)
class Shape:
    """The fields that some records have, and the first of them."""

    fields: tuple[str, ...]
    offset: int
    records: int


def schema(entity: SourceEntity) -> pa.Schema:
    """A change record as it is landed: the record, what was found out about it, its key and window column,
    `_op`."""
    found = [pa.field(name, arrow_type(kind)) for name, kind in changes.FOUND.items()]
    placed = [
        pa.field(column.name, arrow_type(declared_type(column.type))) for column in changes.placed(entity)
    ]
    return pa.schema([*kafka_records.SCHEMA, *found, *placed, pa.field("_op", pa.string())])


class ChangeLog:
    """The records of one landing. `connection` serves it alone; its temporary tables end with it.

    `landed` names a relation of that connection over what was landed before, with the columns `present`;
    None when there is nothing. `clock` tells the rows' time from the source server's; `also` are names that
    rows' fields have had at the source and the entity has not.
    """

    def __init__(
        self,
        entity: SourceEntity,
        connection: DuckDBPyConnection,
        landed: str | None = None,
        present: Collection[str] = (),
        clock: SourceClock | None = None,
        also: Collection[str] = (),
    ) -> None:
        self._entity = entity
        self._connection = connection
        self._landed = landed
        self._present = present
        self._clock = clock or SourceClock()
        self._also = also
        self._records: Iterable[pa.RecordBatch] = ()
        self.shapes: list[Shape] = []
        """The sets of fields that the records' rows have."""
        self._served: dict[str, list[tuple[str, ...]]] = {}
        self._spelled: set[str] = set()
        self._columns = {column.name: column for column in entity.columns}
        self._by = entity.partition.by if entity.partition else None
        self._part = self._by if self._by not in entity.key else None
        """The window column, where the key does not hold it."""
        self._lives = Lives(entity, connection, landed, present)

    # ---------------------------------------------------------------------------------------------- records

    def take(self, records: Iterable[pa.RecordBatch], computed: Collection[str] = ()) -> int:
        """Read all records, and what can be told from each alone; returns their number. They are asked for
        again when they are written. `computed`: fields that are not counted among a row's.
        """
        self._records = records
        Opening(self._entity, self._connection, self._clock, self._also, computed).parse(records)
        self.shapes = self._found_shapes()
        (count,) = self._one("select count(*) from parsed")
        return int(count)

    def _found_shapes(self) -> list[Shape]:
        found = self._connection.execute(
            f"select fields, min(kafka_offset), count(*) from parsed where _change in {LIVE} "
            "and _problem is null group by fields order by 2"
        ).fetchall()
        return [Shape(tuple(fields or ()), int(offset), int(count)) for fields, offset, count in found]

    def is_readable(self) -> bool:
        """Whether every record can be read, as far as each tells it alone; of values only numbers are asked,
        which a wider type could hold.
        """
        kinds = {column: declared_type(column.type) for column in self._entity.columns}
        numbers = [c for c, kind in kinds.items() if kind in WHOLE or kind.startswith("DECIMAL")]
        wrong = [f"({problem(column, f'after.{quoted(column.name)}')}) is not null" for column in numbers]
        unheld = f" or (_change in {LIVE} and ({' or '.join(wrong)}))" if wrong else ""
        found = self._connection.execute(f"from parsed where _problem is not null{unheld} limit 1")
        return not found.fetchall()

    def refuse(self, shape: Shape, reason: str) -> None:
        """Make records of this shape unreadable."""
        self._run(
            f"update parsed set _problem = ? where _problem is null and _change in {LIVE} and fields = ?",
            [reason, list(shape.fields)],
        )

    def refuse_values(self, column: str, allowed: Sequence[str] | None, reason: str) -> None:
        """Make records unreadable whose column has none of these values, or is null where None are given."""
        text = f"after.{quoted(column)}"
        listed = ", ".join(text_literal(one) for one in allowed or ())
        is_wrong = f"{text} not in ({listed})" if allowed is not None else f"{text} is null"
        self._run(
            f"update parsed set _problem = ? where {applied()} and _change in {LIVE} and {is_wrong}", [reason]
        )

    def serve(self, shape: Shape, served: Mapping[str, str]) -> None:
        """Let fields of this shape stand for columns: column → its name in these records."""
        for name in served:
            self._served.setdefault(name, []).append(shape.fields)
        sent = self._packed({name: f"after.{quoted(other)}" for name, other in served.items()})
        self._run(
            f"update parsed set after = {sent} where _change in {LIVE} and fields = ?", [list(shape.fields)]
        )

    def spell(self, sources: Mapping[str, SourceColumn]) -> None:
        """Write the values that are landed as text as a read of the source gives them; `sources` are their
        columns there. A record with one that Debezium has not told exactly is unreadable.
        """
        own, wrong = {}, []
        for name, source in sources.items():
            text = f"after.{quoted(name)}"
            if (written := spelled(source.pg_type, text, is_enum=bool(source.labels))) != text:
                own[name] = written
                what = text_literal(f"{name} can't be told exactly by Debezium")
                wrong.append(f"case when {text} is not null and ({written}) is null then {what} end")
        if own:
            self._spelled = set(own)
            self._run(
                f"update parsed set after = {self._packed(own)}, "
                f"_problem = coalesce(_problem, {', '.join(wrong)}) where _change in {LIVE}"
            )

    def _packed(self, given: Mapping[str, str]) -> str:
        """SQL: the row after a change, some of its fields `given` otherwise."""
        names = dict.fromkeys((*self._columns, *self._also))
        fields = [f"{quoted(name)} := {given.get(name, f'after.{quoted(name)}')}" for name in names]
        return f"struct_pack({', '.join(fields)})"

    # --------------------------------------------------------------------------------------------- resolving

    def resolve(self, seen: Sequence[int | None], awaited: Iterable[str] = ()) -> None:
        """Find out what records do not say themselves. `seen`: the highest [commit LSN, LSN] landed;
        `awaited`: the keys of rows that are read again.
        """
        self._ignore_duplicates(seen)
        self.awaited = Awaited(self._connection, awaited)
        toasted = self._not_sent()
        self._lives.remember(toasted)
        if toasted:
            self._lives.fill(toasted)
        self._judge(toasted)
        self._lives.empty_truncated()
        if self._part is not None:
            self._lives.place_deletes()
        self._lives.leave_old_keys()

    def lose_what_is_gone(self, keys: str) -> None:
        """Add a delete for each row that is there, and whose key is not in the table `keys`."""
        self._lives.lose_what_is_gone(keys)

    def highest(self) -> list[int] | None:
        """The highest [commit LSN, LSN] of the records."""
        (found,) = self._one(
            "select max([_commit_lsn, _lsn]) from parsed where _commit_lsn is not null and _lsn is not null"
        )
        return None if found is None else list(found)

    def reading(self) -> int | None:
        """The place in the source's log of the newest first read of all tables that records are of."""
        (found,) = self._one("select max(_lsn) from parsed where _snapshot not in ('false', 'incremental')")
        return None if found is None else int(found)

    def _ignore_duplicates(self, seen: Sequence[int | None]) -> None:
        """A connector that was killed sends again what it could not note: the same change at the same LSN."""
        same = "_commit_lsn, _lsn, _transaction, _change, _key"
        is_one = (
            "_changed_at is not null and _lsn is not null and _problem is null "
            "and (_ignored is null or _change = 't')"
        )
        again = (
            f"select kafka_offset from parsed where {is_one} "
            f"qualify row_number() over (partition by {same} order by kafka_offset) > 1"
        )
        if self._is_sent_again(is_one, seen):
            keys = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in self._entity.key)
            again += (
                f" union all select kafka_offset from parsed semi join (select _commit_lsn, _lsn, "
                f"_transaction, _change, struct_pack({keys}) as _key from {self._landed} "
                f"where _changed_at is not null and value is not null) as known using ({same}) "
                f"where {is_one} and row(_commit_lsn, _lsn) <= row({int(seen[0] or 0)}, {int(seen[1] or 0)})"
            )
        self._run(f"update parsed set _ignored = 'duplicate' where kafka_offset in ({again})")

    def _is_sent_again(self, is_one: str, seen: Sequence[int | None]) -> bool:
        """Whether a record can be among those that were landed."""
        if not (self._landed and changes.is_of_changes(self._present) and seen and seen[0] is not None):
            return False
        before = f"row(_commit_lsn, _lsn) <= row({int(seen[0])}, {int(seen[1] or 0)})"
        return bool(self._connection.execute(f"from parsed where {is_one} and {before} limit 1").fetchall())

    def _not_sent(self) -> list[Column]:
        """The columns whose value some record leaves out."""
        if not self._entity.columns:
            return []
        wanted = ", ".join(
            f"bool_or({is_unavailable(f'after.{quoted(column.name)}')})" for column in self._entity.columns
        )
        found = self._one(f"select {wanted} from parsed where {applied()} and _change in {LIVE}")
        return [column for column, is_missing in zip(self._entity.columns, found, strict=True) if is_missing]

    def _judge(self, toasted: Sequence[Column]) -> None:
        """Say of each live record whether its values can be held; note the values that were filled in."""
        names = {column.name for column in toasted}
        parts, fills, unknown, lacking = [], [], [], []
        for column in self._entity.columns:
            name, text = quoted(column.name), f"after.{quoted(column.name)}"
            otherwise = [f"fields = {_list(shape)}" for shape in self._served.get(column.name, ())]
            if column.name in self._spelled:
                otherwise.append(f"{text} is not null")
            held = " or ".join(otherwise)
            if held and column.name not in names:
                lacking.append(held)
                fills.append(f"{name} := case when {held} then {text} end")
            if column.name in names:
                lacks = is_unavailable(text)
                lacking.append(f"{lacks} or {held}" if held else lacks)
                own = f" when {held} then {text}" if held else ""
                fills.append(f"{name} := case when {lacks} then known.{name}{own} end")
                unknown.append(
                    f"case when {lacks} and not coalesce(is_known.{name}, false) then "
                    f"{text_literal(f'{column.name} was not sent, and no earlier value of it is known')} end"
                )
                text = f"case when {lacks} then known.{name} else {text} end"
            parts.append(problem(column, text))
        source = "parsed left join filled on filled.ord = parsed.kafka_offset" if toasted else "parsed"
        why = f"nullif(concat_ws('; ', {', '.join([*parts, *unknown])}), '')"
        missing = " or ".join(lacking)
        fill = (
            f"case when {missing} then to_json(struct_pack({', '.join(fills)}))::varchar end"
            if fills
            else "null"
        )
        self._run(
            "create or replace temp table judged as from (select kafka_offset, "
            f"{why} as why, {fill} as fill, coalesce({', '.join([*unknown, 'null'])}) is not null as lacks "
            f"from {source} where {applied()} and _change in {LIVE}) "
            "where why is not null or fill is not null"
        )
        self.awaited.leave_out()
        self._run(
            "update parsed set _problem = why, _filled = fill from judged "
            "where judged.kafka_offset = parsed.kafka_offset"
        )

    # ------------------------------------------------------------------------------------------------ results

    def unreadable(self) -> list[tuple[str, int, int, datetime | None, bytes | None, str, int | None]]:
        """(topic, partition, offset, timestamp, value, reason, transaction) of what can't be read."""
        found = self._connection.execute(
            "select kafka_offset, _problem, _transaction from parsed "
            "where _problem is not null order by kafka_offset"
        ).fetchall()
        return RecordRows(self._records).with_bytes(found)

    def rows(
        self, registered_at: str | None = None, earlier: Sequence[tuple[int, str | None]] = ()
    ) -> Iterator[pa.RecordBatch]:
        """All records in their order, and the deletes of many rows behind the record that caused them.

        `registered_at`: when the registration that told them began to land; None where that is not known.
        `earlier`: before which offset the records are of a registration before it, and when that began, the
        oldest first.
        """
        marks = changes.marks_deleted(self._entity)
        if marks:
            self._lives.keep_last_values()
        wanted = schema(self._entity)
        names = [name for name in wanted.names if name not in kafka_records.SCHEMA.names]
        placed = {column.name for column in changes.placed(self._entity)}

        def selected(given: dict[str, str]) -> str:
            return ", ".join(f"{given.get(name, 'null')} as {quoted(name)}" for name in names)

        own = {name: f"_key.{quoted(name)}" for name in self._entity.key}
        if self._by and self._by in placed and self._by not in own:
            own[self._by] = "_part"
        itself = {name: quoted(name) for name in names if name not in placed and name != "_registered_at"}
        itself["_op"] = f"case when _change = 'd' then 'd' when _change in {LIVE} then 'r' end"
        unsaid = {"_registered_at", "_ignored", "_problem", "_filled"}
        caused = {name: f"cause.{quoted(name)}" for name in changes.FOUND if name not in unsaid}
        if registered_at is not None:
            itself["_registered_at"] = _begun("parsed.kafka_offset", registered_at, earlier)
            caused["_registered_at"] = _begun("cause.kafka_offset", registered_at, earlier)
        if marks:
            caused["_filled"] = "emptied._filled"
        caused |= {"_op": text_literal("d"), **_of("emptied", own)}
        query = (
            f"select {selected({**itself, **own})}, kafka_offset, kafka_timestamp, kafka_offset as ord, "
            f"0 as sub from parsed union all select {selected(caused)}, "
            "cause.kafka_offset, cause.kafka_timestamp, "
            "coalesce(emptied.kafka_offset, 9223372036854775807), emptied.sub "
            "from emptied left join parsed as cause on cause.kafka_offset = emptied.kafka_offset"
        )
        found = self._connection.sql(f"select * exclude (ord) from ({query}) order by ord, sub")
        return RecordRows(self._records).joined(found.to_arrow_reader(_ROWS), wanted)

    def _run(self, query: str, values: Sequence[Any] = ()) -> None:
        self._connection.execute(query, list(values)).fetchall()

    def _one(self, query: str) -> tuple[Any, ...]:
        (row,) = self._connection.execute(query).fetchall()
        return tuple(row)


def _begun(offset: str, newest: str, earlier: Sequence[tuple[int, str | None]]) -> str:
    """SQL: when the registration that sent the record at this offset began to land."""
    cases = [(f"< {end}", at) for end, at in earlier] + [("is not null", newest)]
    times = [(where, f"timestamptz {text_literal(at)}" if at else "null") for where, at in cases]
    return f"case {' '.join(f'when {offset} {where} then {time}' for where, time in times)} end"


def _list(items: Sequence[str]) -> str:
    return f"[{', '.join(text_literal(item) for item in items)}]"


def _of(table: str, expressions: dict[str, str]) -> dict[str, str]:
    return {name: f"{table}.{expression}" for name, expression in expressions.items()}
