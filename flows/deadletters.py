"""The one store of records that could not be read: original bytes, where from, why.

A letter's id comes from the record's place in its source, so the same record is entered once, however often
it is met. The store is `ops.dead_letter`; who enters letters does it in the transaction that commits the
rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import duckdb
from psycopg import Connection
from psycopg.rows import class_row

from flows.errors import FlowsError
from flows.extract import DeadLetter
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile
from transforms import registry
from transforms.contract import Table

_SHOWN_BYTES = 64 << 10


class Unreadable(Protocol):
    """A row of a landing that a model could not read, and why."""

    @property
    def batch_id(self) -> str: ...

    @property
    def seq(self) -> int: ...

    @property
    def reason(self) -> str: ...


@dataclass(frozen=True)
class Stored:
    """One row of the store. `payload` is None in lists."""

    letter_id: str
    source: str
    entity: str
    topic: str | None
    kafka_partition: int | None
    kafka_offset: int | None
    batch_id: str | None
    seq: int | None
    reason: str
    payload: bytes | None
    received_at: datetime
    status: str

    @property
    def place(self) -> str:
        """Where the record stands, for people."""
        if self.topic is not None:
            return f"topic {self.topic}, partition {self.kafka_partition}, offset {self.kafka_offset}"
        if self.batch_id is not None:
            return f"batch {self.batch_id}, row {self.seq}"
        return f"{self.source}.{self.entity}"


def enter(connection: Connection[Any], letters: Iterable[DeadLetter]) -> int:
    """Enter letters in the caller's transaction; returns how many were not there yet."""
    rows = [
        (
            letter.letter_id,
            letter.source,
            letter.entity,
            letter.topic,
            letter.kafka_partition,
            letter.kafka_offset,
            letter.batch_id,
            letter.seq,
            letter.reason,
            letter.payload,
            letter.received_at,
        )
        for letter in letters
    ]
    if not rows:
        return 0
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into ops.dead_letter (letter_id, source, entity, topic, kafka_partition, kafka_offset, "
            "batch_id, "
            "seq, reason, payload, received_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
            "on conflict (letter_id) do nothing",
            rows,
        )
        return max(0, cursor.rowcount)


def enter_unreadable(
    connection: Connection[Any],
    ledger: Ledger,
    lake: Lake,
    table: Table,
    unreadable: Sequence[Unreadable],
    received_at: datetime,
) -> int:
    """Enter what the model of `table` could not read, with its bytes as they were landed; returns how many
    are new.

    Runs in the caller's transaction. Raises FlowsError when a row can't be found in raw again.
    """
    reasons = {(item.batch_id, item.seq): item.reason for item in unreadable}
    letters: list[DeadLetter] = []
    declared = {entity.table: entity for entity in registry.entities()}
    for name in table.upstreams:
        entity = declared.get(name)
        if entity is None or not reasons:
            continue
        for place, row in _landed_rows(lake, ledger.files(name), set(reasons)):
            letters.append(
                DeadLetter(
                    source=entity.source,
                    entity=entity.name,
                    reason=reasons.pop(place),
                    received_at=received_at,
                    batch_id=place[0],
                    seq=place[1],
                    **row,
                )
            )
    if reasons:
        batch, seq = next(iter(reasons))
        raise FlowsError(
            f"{table.name}: row {seq} of batch {batch} could not be read, and is not found in raw again. "
            f"Nothing was "
            "committed; see whether the model passes _batch_id and _seq through unchanged."
        )
    return enter(connection, letters)


def listed(connection: Connection[Any], entity: str | None = None, limit: int = 20) -> list[Stored]:
    """The newest letters without their bytes; `entity` as `events.clicks`, or its second half."""
    with connection.cursor(row_factory=class_row(Stored)) as cursor:
        return cursor.execute(
            "select letter_id, source, entity, topic, kafka_partition, kafka_offset, batch_id, seq, reason, "
            "null::bytea as payload, received_at, status from ops.dead_letter "
            "where %(entity)s::text is null or %(entity)s in (entity, source || '.' || entity) "
            "order by received_at desc, letter_id limit %(limit)s",
            {"entity": entity, "limit": limit},
        ).fetchall()


def counted(connection: Connection[Any], entity: str | None = None) -> list[tuple[str, str, str, int]]:
    """(entity, status, reason, letters), the most frequent first."""
    return connection.execute(
        "select source || '.' || entity, status, reason, count(*) from ops.dead_letter "
        "where %(entity)s::text is null or %(entity)s in (entity, source || '.' || entity) "
        "group by 1, 2, 3 order by 4 desc, 1, 2, 3",
        {"entity": entity},
    ).fetchall()


def find(connection: Connection[Any], letter: str) -> Stored:
    """The letter whose id begins with `letter`. Raises FlowsError when there is none or more than one."""
    with connection.cursor(row_factory=class_row(Stored)) as cursor:
        found = cursor.execute(
            "select letter_id, source, entity, topic, kafka_partition, kafka_offset, batch_id, seq, "
            "reason, payload, "
            "received_at, status from ops.dead_letter where starts_with(letter_id, %s) limit 2",
            (letter,),
        ).fetchall()
    if not found:
        raise FlowsError(f"There is no dead letter {letter}. See the ids with: python -m flows dlq list")
    if len(found) > 1:
        raise FlowsError(f"More than one dead letter begins with {letter}. Write more of its id.")
    return found[0]


def list_command(arguments: argparse.Namespace) -> int:
    """`python -m flows dlq list`."""
    from flows.services import open_services

    with open_services().warehouse.connect() as connection:
        counts = counted(connection, arguments.entity)
        letters = listed(connection, arguments.entity, arguments.limit)
    if not counts:
        print("No dead letters.")
        return 0
    for entity, status, reason, number in counts:
        print(f"{number:>8,}  {entity:<24} {status:<10} {reason}")
    print()
    for letter in letters:
        received = f"{letter.received_at:%Y-%m-%d %H:%M}"
        print(f"{letter.letter_id[:12]}  {received}  {letter.place}: {letter.reason}")
    print("\nOne of them with its bytes: python -m flows dlq show ID")
    return 0


def show_command(arguments: argparse.Namespace) -> int:
    """`python -m flows dlq show ID`."""
    from flows.services import open_services

    with open_services().warehouse.connect() as connection:
        letter = find(connection, arguments.letter)
    payload = letter.payload or b""
    print(f"id:       {letter.letter_id}")
    print(f"from:     {letter.source}.{letter.entity}, {letter.place}")
    print(f"received: {letter.received_at:%Y-%m-%d %H:%M:%S} UTC")
    print(f"status:   {letter.status}")
    print(f"reason:   {letter.reason}")
    is_cut = len(payload) > _SHOWN_BYTES
    print(f"bytes:    {len(payload):,}" + (f", the first {_SHOWN_BYTES:,}:" if is_cut else ":"))
    print(_readable(payload[:_SHOWN_BYTES]))
    return 0


def _readable(payload: bytes) -> str:
    """Bytes as text that can't command a terminal: what is not printable is escaped."""
    text = payload.decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def _landed_rows(
    lake: Lake, files: Sequence[LakeFile], wanted: set[tuple[str, int]]
) -> Iterable[tuple[tuple[str, int], dict[str, Any]]]:
    """The raw rows at these places, as arguments of a DeadLetter."""
    batches = sorted({batch for batch, _ in wanted})
    # A file is named after its batch; only a compaction hides where a batch went.
    named = [file for file in files if any(batch in file.path for batch in batches)] or list(files)
    if not named:
        return
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        raw = lake.read(connection, named)
        columns = set(raw.columns)
        if "kafka_offset" in columns:
            shown = "topic, kafka_partition, kafka_offset, coalesce(value, ''::blob)"
        else:
            content = "object" if "object" in columns else "to_json(raw)"
            shown = f"null, null, null, encode({content}::varchar)"
        connection.execute("create temp table wanted (batch varchar, seq bigint)")
        places = sorted(wanted)
        connection.execute(
            "insert into wanted select unnest(?), unnest(?)", [[b for b, _ in places], [s for _, s in places]]
        )
        connection.register("landed", raw)
        found = connection.execute(
            f"select _batch_id, _seq, {shown} from landed as raw semi join wanted on _batch_id = batch and "
            f"_seq = seq"
        ).fetchall()
    for batch, seq, topic, partition, offset, payload in found:
        yield (
            (str(batch), int(seq)),
            {
                "topic": topic,
                "kafka_partition": partition,
                "kafka_offset": offset,
                "payload": bytes(payload),
            },
        )
