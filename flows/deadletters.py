"""The one store of records that could not be read: original bytes, where from, why.

A letter's id comes from the record's place in its source, and from its time there if that is a topic: the
same record is entered once, however often it is met, and hides no other that came to its place. The store is
`ops.dead_letter`; who enters letters does it in the transaction that commits the rest. A letter waits until
its record was replayed (flows/redelivery.py); it waits again when a model rejects what was replayed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection, Cursor
from psycopg.rows import class_row

from flows.erasure.listed import people
from flows.erasure.ops import forget_letters
from flows.errors import FlowsError
from flows.extract import DeadLetter
from flows.landed import STREAMED
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile
from transforms import registry
from transforms.contract import Table

_COLUMNS = (
    "letter_id, source, entity, topic, kafka_partition, kafka_offset, batch_id, seq, reason, payload, "
    "received_at, status, replayed_at, replayed_as, replayed_sha256"
)
_OF_ENTITY = "(%(entity)s::text is null or %(entity)s in (entity, source || '.' || entity))"


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
    replayed_at: datetime | None = None
    replayed_as: str | None = None
    """Batch that landed the record again."""
    replayed_sha256: str | None = None
    """Of the bytes that were landed then."""

    @property
    def place(self) -> str:
        """Where the record stands, for people."""
        if self.topic is not None:
            return f"topic {self.topic}, partition {self.kafka_partition}, offset {self.kafka_offset}"
        if self.batch_id is not None:
            return f"batch {self.batch_id}, row {self.seq}"
        return f"{self.source}.{self.entity}"


def enter(connection: Connection[Any], letters: Collection[DeadLetter]) -> int:
    """Enter letters in the caller's transaction; returns how many were not there yet.

    A replayed letter stays replayed, however often its first bytes are met again. Only when the very row that
    was landed for it is rejected it waits anew, with that row's bytes: the first ones are still in raw. Of a
    letter about somebody who was erased only that it came is kept.
    """
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
        _identify(cursor, letters)
        cursor.executemany(
            "insert into ops.dead_letter as known (letter_id, source, entity, topic, kafka_partition, "
            "kafka_offset, batch_id, seq, reason, payload, received_at) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (letter_id) do update "
            "set (batch_id, seq, reason, payload, status) = "
            "(excluded.batch_id, excluded.seq, excluded.reason, excluded.payload, 'waiting') "
            "where known.status = 'replayed' and known.replayed_as = excluded.batch_id",
            rows,
        )
        entered = max(0, cursor.rowcount)
    if erased := people(connection):
        forget_letters(connection, erased, [letter for letter, *_ in rows])
    return entered


def _identify(cursor: Cursor[Any], letters: Iterable[DeadLetter]) -> None:
    """What was entered by its place alone is known by its id once the same row of raw, or bytes, are met."""
    timed = [letter for letter in letters if letter.letter_id != letter.place_id]
    places = [letter.place_id for letter in timed]
    query = "select letter_id from ops.dead_letter where letter_id = any(%s)"
    there = {place for (place,) in cursor.execute(query, (places,)).fetchall()}
    for letter in timed:
        if letter.place_id not in there:
            continue
        cursor.execute(
            "with identified as (update ops.dead_letter set letter_id = %(id)s where letter_id = %(place)s "
            "and (payload = %(bytes)s or (batch_id, seq) = (%(batch)s, %(seq)s) or replayed_as = %(batch)s) "
            "and not exists (select from ops.dead_letter where letter_id = %(id)s) returning letter_id) "
            "update ops.incomplete_transaction set letter_id = identified.letter_id from identified "
            "where incomplete_transaction.letter_id = %(place)s",
            {
                "id": letter.letter_id,
                "place": letter.place_id,
                "batch": letter.batch_id,
                "seq": letter.seq,
                "bytes": letter.payload,
            },
        )


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
        for place, row in _as_letters(lake, ledger.files(name), set(reasons)):
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


def listed(
    connection: Connection[Any], entity: str | None = None, limit: int = 20, *, replayed: bool = False
) -> list[Stored]:
    """The newest letters without their bytes; `entity` as `events.clicks`, or its second half. With
    `replayed` those too that are done.
    """
    columns = _COLUMNS.replace(" payload,", " null::bytea as payload,")
    with connection.cursor(row_factory=class_row(Stored)) as cursor:
        return cursor.execute(
            f"select {columns} from ops.dead_letter where {_OF_ENTITY} "
            "and (%(replayed)s or status <> 'replayed') order by received_at desc, letter_id limit %(limit)s",
            {"entity": entity, "limit": limit, "replayed": replayed},
        ).fetchall()


def counted(
    connection: Connection[Any], entity: str | None = None, *, replayed: bool = False
) -> list[tuple[str, str, str, int]]:
    """(entity, status, reason, letters), the most frequent first."""
    return connection.execute(
        f"select source || '.' || entity, status, reason, count(*) from ops.dead_letter where {_OF_ENTITY} "
        "and (%(replayed)s or status <> 'replayed') group by 1, 2, 3 order by 4 desc, 1, 2, 3",
        {"entity": entity, "replayed": replayed},
    ).fetchall()


def find(connection: Connection[Any], letter: str) -> Stored:
    """The letter whose id begins with `letter`. Raises FlowsError when there is none or more than one."""
    with connection.cursor(row_factory=class_row(Stored)) as cursor:
        found = cursor.execute(
            f"select {_COLUMNS} from ops.dead_letter where starts_with(letter_id, %s) limit 2", (letter,)
        ).fetchall()
    if not found:
        raise FlowsError(f"There is no dead letter {letter}. See the ids with: python -m flows dlq list")
    if len(found) > 1:
        raise FlowsError(f"More than one dead letter begins with {letter}. Write more of its id.")
    return found[0]


def waiting(connection: Connection[Any], entity: str | None = None) -> list[str]:
    """The ids of the letters that wait, the oldest first."""
    rows = connection.execute(
        f"select letter_id from ops.dead_letter where {_OF_ENTITY} and status = 'waiting' "
        "order by received_at, kafka_partition, kafka_offset, letter_id",
        {"entity": entity},
    ).fetchall()
    return [letter for (letter,) in rows]


def known_times(letters: Iterable[Stored]) -> dict[str, datetime]:
    """The time that all rows of a micro-batch carry, by batch: its letters have it too."""
    return {
        letter.batch_id: letter.received_at
        for letter in letters
        if letter.batch_id is not None and letter.batch_id.startswith(STREAMED)
    }


def load(connection: Connection[Any], letters: Sequence[str]) -> list[Stored]:
    """These letters as they are now, with their bytes."""
    with connection.cursor(row_factory=class_row(Stored)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from ops.dead_letter where letter_id = any(%s) "
            "order by received_at, kafka_partition, kafka_offset, letter_id",
            (list(letters),),
        ).fetchall()


def mark_replayed(
    connection: Connection[Any], hashes: Mapping[str, str], batch_id: str, replayed_at: datetime
) -> None:
    """Note, in the transaction of their landing, letters (id → SHA-256 of the bytes) as replayed."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "update ops.dead_letter set (status, replayed_at, replayed_as, replayed_sha256) = "
            "('replayed', %s, %s, %s) where letter_id = %s",
            [(replayed_at, batch_id, sha256, letter) for letter, sha256 in hashes.items()],
        )


def landed_rows(
    connection: DuckDBPyConnection,
    lake: Lake,
    files: Sequence[LakeFile],
    wanted: Iterable[tuple[str, int]],
    received: Mapping[str, datetime] | None = None,
) -> DuckDBPyRelation | None:
    """The raw rows at these places (batch, row); None when there is no file they could be in.

    `received`: of batches whose rows all carry one known time, that time: it spares reading all history.
    """
    places = sorted(wanted)
    named = {
        file.path: file
        for batch in {batch for batch, _ in places}
        for file in _files_of(batch, files, (received or {}).get(batch))
    }
    if not named:
        return None
    connection.execute("create or replace temp table wanted (batch varchar, seq bigint)")
    connection.execute(
        "insert into wanted select unnest(?), unnest(?)", [[b for b, _ in places], [s for _, s in places]]
    )
    connection.register("landed", lake.read(connection, named.values()))
    return connection.sql(
        "select raw.* from landed as raw semi join wanted on _batch_id = batch and _seq = seq"
    )


def _files_of(batch: str, files: Sequence[LakeFile], received_at: datetime | None) -> Sequence[LakeFile]:
    """A file is named after its batch; only a roll-up and a compaction hide where a batch went."""
    if named := [file for file in files if batch in file.path]:
        return named
    if received_at is None:
        return files
    return [
        file
        for file in files
        if file.min is None
        or file.max is None
        or datetime.fromisoformat(file.min) <= received_at <= datetime.fromisoformat(file.max)
    ]


def _as_letters(
    lake: Lake, files: Sequence[LakeFile], wanted: Iterable[tuple[str, int]]
) -> Iterable[tuple[tuple[str, int], dict[str, Any]]]:
    """The raw rows at these places, as arguments of a DeadLetter."""
    with lake.duckdb() as connection:
        raw = landed_rows(connection, lake, files, wanted)
        if raw is None:
            return
        if "kafka_offset" in raw.columns:
            place = "topic, kafka_partition, kafka_offset, kafka_timestamp"
            shown = f"{place}, coalesce(value, ''::blob)"
            if "_change" in raw.columns:
                # Rows that were read stand beside change records.
                payload = "case when topic is null then encode(to_json(raw)::varchar) else value end"
                shown = f"{place}, {payload}"
        else:
            content = "object" if "object" in raw.columns else "to_json(raw)"
            shown = f"null, null, null, null, encode({content}::varchar)"
        found = raw.set_alias("raw").project(f"_batch_id, _seq, {shown}").fetchall()
    for batch, seq, topic, partition, offset, timestamp, payload in found:
        yield (
            (str(batch), int(seq)),
            {
                "topic": topic,
                "kafka_partition": partition,
                "kafka_offset": offset,
                "kafka_timestamp": timestamp,
                "payload": bytes(payload),
            },
        )
