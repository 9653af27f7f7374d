"""Change events written by hand, as Debezium writes them, and landings of them without a broker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.extract import kafka_records
from flows.extract.change_log import ChangeLog
from flows.landed import landed_schema, with_place
from transforms import changes, engine
from transforms.change_values import UNAVAILABLE
from transforms.contract import Column, Partition
from transforms.entities import Postgres, SourceEntity

NOON = datetime(2025, 10, 7, 12, tzinfo=UTC)
PRODUCTS = SourceEntity(
    source="app",
    name="products",
    read=Postgres("products", mode="cdc"),
    key=("id",),
    grain="one row per change of a product",
    columns=(
        Column("id", "bigint"),
        Column("name", "varchar"),
        Column("price", "decimal(12, 2)"),
        Column("tags", "varchar[]"),
        Column("image", "blob"),
        Column("attributes", "json"),
        Column("created_at", "timestamptz"),
        Column("updated_at", "timestamptz"),
    ),
    partition=Partition("created_at", "month"),
)
Event = dict[str, Any]


def row(key: int | str, **values: Any) -> dict[str, Any]:
    """A whole row of PRODUCTS as Debezium writes it."""
    return {
        "id": key,
        "name": f"product {key}",
        "price": "1.50",
        "tags": ["a", None],
        "image": "AP8=",
        "attributes": '{"a": 1}',
        "created_at": "2025-10-07T00:00:00Z",
        "updated_at": "2025-10-07T00:00:00Z",
        **values,
    }


def created(after: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> Event:
    """A create; with `old` the second half of a key change."""
    event: Event = {"key": {"id": after["id"]}, "op": "c", "before": None, "after": dict(after)}
    return event | ({"headers": {"__debezium.oldkey": dict(old)}} if old else {})


def updated(after: Mapping[str, Any]) -> Event:
    """An update whose row before is not told."""
    return {"key": {"id": after["id"]}, "op": "u", "before": None, "after": dict(after)}


def deleted(key: int | str, new: int | None = None) -> Event:
    """A delete with an invented row before; with `new` the first half of a key change."""
    invented = row(key, name="", price="0.00", created_at="1970-01-01T00:00:00Z")
    event: Event = {"key": {"id": key}, "op": "d", "before": invented, "after": None}
    return event | ({"headers": {"__debezium.newkey": {"id": new}}} if new else {})


def moved(key: int, after: Mapping[str, Any]) -> list[Event]:
    """A key change: delete, tombstone, create."""
    return [deleted(key, after["id"]), tombstone(key), created(after, {"id": key})]


def tombstone(key: int) -> Event:
    """What follows a delete."""
    return {"key": {"id": key}, "tombstone": True}


def truncated() -> Event:
    """The whole table emptied."""
    return {"key": None, "op": "t", "before": None, "after": None}


def unsent(after: Mapping[str, Any], *columns: str) -> dict[str, Any]:
    """The row with placeholders in the place of these columns."""
    forms = {"tags": [UNAVAILABLE], "image": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="}
    return {**after, **{name: forms.get(name, UNAVAILABLE) for name in columns}}


@dataclass
class Topic:
    """A change topic and what was landed of it. Each event is a transaction of its own, a second long, but
    for those that have a place: `at`, the commit before theirs, their LSN and their transaction.
    """

    entity: SourceEntity = PRODUCTS
    with_schemas: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)
    landed: list[pa.Table] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    shapes: list[tuple[str, ...]] = field(default_factory=list)
    """The fields that rows of the last landing had."""
    lsn: int = 1000
    awaited: list[str] = field(default_factory=list)
    reread: list[dict[str, Any]] = field(default_factory=list)
    """The keys of rows that were to be read again."""
    reading: int = 1010
    """The LSN of the rows that a connector reads of whole tables, one for all of a reading."""

    def send(self, *events: Event | bytes | None) -> None:
        """Append events, raw bytes, or nothing with a null value."""
        for event in events:
            self.lsn += 10
            self.records.append(self._record(event))

    def send_again(self, first: int) -> None:
        """What a connector does that was killed: everything from a record on once more."""
        for old in self.records[first:]:
            self.records.append({**old, "kafka_offset": len(self.records)})

    def _record(self, event: Event | bytes | None) -> dict[str, Any]:
        moment = NOON + timedelta(seconds=len(self.records))
        value: bytes | None
        key: Any = None
        headers: Mapping[str, Any] = {}
        if isinstance(event, dict):
            key, headers = event["key"], event.get("headers", {})
            value = None if event.get("tombstone") else self._value(event, moment)
        else:
            value = event
        return {
            "topic": "app.public.products",
            "kafka_partition": 0,
            "kafka_offset": len(self.records),
            "kafka_timestamp": moment,
            "key": None if key is None else self._json(key),
            "headers": [{"name": name, "value": json.dumps(held).encode()} for name, held in headers.items()],
            "value": value,
        }

    def _value(self, event: Event, moment: datetime) -> bytes:
        micros = round(moment.timestamp() * 1_000_000) + event.get("micros", 0)
        is_read = event["op"] == "r"
        committed, lsn, transaction = event.get("at", (self.lsn - 5, self.lsn, self.lsn))
        return self._json(
            {
                "before": event["before"],
                "after": event["after"],
                "source": {
                    "lsn": self.reading if is_read else lsn,
                    "txId": transaction,
                    "sequence": json.dumps([None if is_read else str(committed), str(lsn)]),
                    "snapshot": event.get("snapshot", "true" if is_read else "false"),
                    "ts_us": micros,
                    "ts_ms": micros // 1000,
                },
                "transaction": None if is_read else {"id": f"{transaction}:{lsn}", "total_order": 1},
                "op": event["op"],
            }
        )

    def _json(self, value: Any) -> bytes:
        return json.dumps({"schema": {}, "payload": value} if self.with_schemas else value).encode()

    def land(self, first: int | None = None) -> None:
        """Land what was sent since the last landing (or from `first` on), a minute after it."""
        done = sum(table.num_rows for table in self._of_records())
        new = self.records[done if first is None else first :]
        connection = engine.connect(threads=1)
        try:
            present: Sequence[str] = ()
            if self.landed:
                before = pa.concat_tables(self.landed, promote_options="default")
                connection.register("before", before)
                present = before.column_names
            log = ChangeLog(self.entity, connection, "before" if self.landed else None, present)
            log.take(pa.Table.from_pylist(new, kafka_records.SCHEMA).to_batches())
            self.shapes = [shape.fields for shape in log.shapes]
            log.resolve(self.seen, self.awaited)
            self.awaited, self.reread = log.awaited.left(), self.reread + log.awaited.new()
            self.problems += [(offset, reason) for _, _, offset, _, _, reason, _ in log.unreadable()]
            self.seen = max(self.seen or [0, 0], log.highest() or [0, 0])
            rows = list(log.rows())
        finally:
            connection.close()
        self._keep(rows)

    def read(self, *rows: Mapping[str, Any], op: str = "r") -> None:
        """Land rows as an incremental read does."""
        from flows.extract.postgres_types import schema

        wanted = schema(self.entity)
        given = [dict.fromkeys(wanted.names) | dict(one) | {"_op": op} for one in rows]
        self._keep(pa.Table.from_pylist(given, wanted).to_batches())

    def _keep(self, batches: Sequence[pa.RecordBatch]) -> None:
        number, at = len(self.landed), NOON + timedelta(minutes=len(self.landed) + 1)
        placed, first = [], 0
        for batch in batches:
            placed.append(with_place(batch, f"batch-{number}", at, first))
            first += batch.num_rows
        if placed:
            self.landed.append(pa.Table.from_batches(placed, landed_schema(batches[0].schema)))

    def _of_records(self) -> list[pa.Table]:
        return [_own(table) for table in self.landed if "_change" in table.column_names]

    def rows(self, query: str = "select * from raw") -> list[tuple[Any, ...]]:
        """Ask what a model sees as `raw`."""
        connection = engine.connect(threads=1)
        try:
            everything = pa.concat_tables(self.landed, promote_options="default")
            connection.register("files", everything)
            text = changes.typed(self.entity, "from files", everything.column_names)
            return connection.execute(f"with raw as ({text}) {query}").fetchall()
        finally:
            connection.close()

    def live(self, columns: str = "id, name") -> list[tuple[Any, ...]]:
        """The newest version of each key that is there: what staging sees."""
        keys = ", ".join(self.entity.key)
        return self.rows(
            f"select {columns} from (select * from raw qualify row_number() over (partition by {keys} "
            "order by _landed_at desc, _seq desc) = 1) where _op <> 'd' order by all"
        )

    def in_windows(self) -> list[tuple[str, int]]:
        """(month, key) of each row, where the months are built one by one: what each says of its keys."""
        return self.rows(
            "select month, id from (select *, strftime(created_at, '%Y-%m') as month from raw qualify "
            "row_number() over (partition by id, month order by _landed_at desc, _seq desc) = 1) "
            "where _op <> 'd' order by all"
        )


def _own(table: pa.Table) -> pa.Table:
    """Without the deletes that no record of their own told."""
    is_caused = pc.and_(pc.is_null(table["value"]), pc.equal(table["_op"], "d"))
    return table.filter(pc.invert(pc.fill_null(is_caused, False)))
