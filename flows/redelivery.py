"""Dead letters once more: repaired, or because a model reads them now, through the same staging models.

A letter whose record a staging model reads is landed as any other record is, so that the next batch builds
exactly the days it belongs to. It comes once, however often it is asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
from psycopg import Connection

from flows import deadletters
from flows.deadletters import Stored
from flows.erasure.listed import arriving
from flows.extract import repaired
from flows.extract.repaired import Unusable
from flows.judge import Judge, placed
from flows.landed import BY, BY_REPLAY, CLOCK, LANDED_ON, landing_time
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, LakeFile
from flows.streaming.journal import Journal
from flows.streaming.rollup import land_journal
from transforms import engine, registry
from transforms.contract import Layer
from transforms.entities import Kafka, Postgres, SourceEntity

_LETTERS_AT_ONCE = 500
_BYTES_AT_ONCE = 64 << 20
"""What one landing of replayed letters may hold: a letter can be as large as a message."""


@dataclass(frozen=True)
class Outcome:
    """What became of one letter, or would become of it: read into a table's window, or why not."""

    letter: Stored
    table: str = ""
    window: str = ""
    reason: str = ""
    """Why it can't be read; empty when it can."""
    was_done: bool = False
    """It was replayed before, with these very bytes: nothing is to be done."""


@dataclass(frozen=True)
class _Record:
    """A letter's record as it would be landed, without its place."""

    letter: Stored
    row: pa.RecordBatch
    window: str | None
    """None: the staging model says which."""
    sha256: str


def redeliver(
    services: Services,
    letters: Sequence[str],
    run_id: str,
    *,
    given: bytes | None = None,
    dry_run: bool = False,
) -> list[Outcome]:
    """Land the records of these letters (ids) again, as far as their staging models read them.

    `given` are the repaired bytes of the one letter; without them each is tried as it is. Per entity:

    1. Hold its landing lock; letters and position are read under it, so two replays don't meet.
    2. Make raw rows: a message keeps place, time, key and headers, only its value may be another one; of
       erased people they come without personal data, as every landing does.
    3. Run the staging model over them alone. What it rejects stays a letter, the others are written, behind
    what the stream has taken in of their topic.
    4. In one transaction: a landing of that file, whose position says what it said before, and the letters
    are marked as replayed. Then the manifest.

    A crash before 4 leaves a file that the next run sweeps, and letters that wait; after it everything is
    done. With `dry_run` steps 2 and 3 only, and nothing is written. Raises TwoStories where the lake is not
    the warehouse's.
    """
    outcomes: list[Outcome] = []
    with services.ledger() as ledger:
        refuse_two_stories(ledger, services.lake)
        for name, part in _portions(ledger.connection, letters):
            entity = next((e for e in registry.entities() if f"{e.source}.{e.name}" == name), None)
            if entity is None:
                stored = deadletters.load(ledger.connection, part)
                gone = f"{name} is not declared in transforms/sources any more"
                outcomes += [Outcome(letter, reason=gone) for letter in stored]
                continue
            run = _Redelivery(services, ledger, entity, run_id)
            with ledger.locked("land", entity.table):
                outcomes += run.judged(part, given)[0] if dry_run else run.landed(part, given)
    return outcomes


class _Redelivery:
    """The letters of one entity."""

    def __init__(self, services: Services, ledger: Ledger, entity: SourceEntity, run_id: str) -> None:
        self._services = services
        self._ledger = ledger
        self._entity = entity
        self._run_id = run_id
        self._judge = Judge(services, entity)

    def landed(self, letters: Sequence[str], given: bytes | None) -> list[Outcome]:
        """Steps 2 to 4; to be called under the landing lock."""
        outcomes, records = self.judged(letters, given)
        if not records:
            return outcomes
        if isinstance(self._entity.read, Kafka):
            # A run that builds the record has to build what the stream showed of the same event.
            now = self._services.settings.now()
            land_journal(self._services.lake, self._ledger, self._entity, now, self._run_id)
        position = self._ledger.positions(self._entity.table)
        landed_at = landing_time(self._services.settings.now(), position)
        # What was replayed before, and then rejected, is another landing though its bytes may be the same.
        parts = sorted((r.letter.letter_id, r.sha256, r.letter.replayed_as or "") for r in records)
        batch_id = f"replay-{hashlib.sha256(repr(parts).encode()).hexdigest()[:20]}"
        windows = {outcome.letter.letter_id: outcome.window for outcome in outcomes}
        file = self._services.lake.write(
            Layer.RAW.value,
            self._entity.table,
            LANDED_ON,
            f"{landed_at:%Y-%m-%d}",
            batch_id,
            placed([record.row for record in records], batch_id, landed_at),
            measured="_landed_at",
        )
        commit = Commit(
            token=batch_id,
            kind="land",
            layer=Layer.RAW.value,
            table=self._entity.table,
            run_id=self._run_id,
            add=(file,),
            positions={**position.positions, CLOCK: landed_at.isoformat()},
            windows=dict(
                Counter(
                    record.window if record.window is not None else windows[record.letter.letter_id]
                    for record in records
                )
            ),
            control={BY: BY_REPLAY},
            row_count=file.rows,
            landed_at=landed_at,
        )
        self._ledger.record(
            self._services.lake,
            commit,
            version=position.version,
            within=partial(_mark, {r.letter.letter_id: r.sha256 for r in records}, batch_id, landed_at),
        )
        return outcomes

    def judged(self, letters: Sequence[str], given: bytes | None) -> tuple[list[Outcome], list[_Record]]:
        """Steps 2 and 3: every letter's outcome, and the records that are to be landed."""
        outcomes: list[Outcome] = []
        records: list[_Record] = []
        stored = deadletters.load(self._ledger.connection, letters)
        landed = self._landed(stored)
        lands = arriving(self._ledger.connection, self._entity)
        for letter in stored:
            if letter.status == "replayed":
                outcomes.append(_known(letter, given))
                continue
            try:
                record = self._record(letter, landed.get(letter.letter_id), given)
                records.append(replace(record, row=lands(record.row)))
            except Unusable as error:
                outcomes.append(Outcome(letter, reason=str(error)))
        verdicts = self._judge.verdicts([record.row for record in records])
        told = list(zip(records, verdicts, strict=True))
        name = self._judge.table.name
        outcomes += [Outcome(record.letter, name, verdict.window, verdict.reason) for record, verdict in told]
        return outcomes, [record for record, verdict in told if not verdict.reason]

    # ------------------------------------------------------------------------------------------ the raw rows

    def _landed(self, letters: Sequence[Stored]) -> dict[str, pa.Table]:
        """The raw rows of those letters whose record was landed whole, by id."""
        places = {
            (letter.batch_id, letter.seq): letter.letter_id
            for letter in letters
            if letter.batch_id is not None and letter.seq is not None
        }
        if not isinstance(self._entity.read, Kafka) or not places:
            return {}
        with self._services.lake.duckdb() as connection:
            times = deadletters.known_times(letters)
            rows = deadletters.landed_rows(connection, self._services.lake, self._raw_files(), places, times)
            if rows is None:
                return {}
            table = rows.to_arrow_table()
        return {
            places[batch, seq]: table.slice(number, 1)
            for number, (batch, seq) in enumerate(
                zip(table["_batch_id"].to_pylist(), table["_seq"].to_pylist(), strict=True)
            )
        }

    def _raw_files(self) -> list[LakeFile]:
        """What is landed, and what the stream took in and no landing names yet."""
        waiting = Journal(self._ledger.connection).unlanded(self._entity.table)
        return [*self._ledger.files(self._entity.table), *(batch.file for batch in waiting)]

    def _record(self, letter: Stored, landed: pa.Table | None, given: bytes | None) -> _Record:
        """Step 2 for one letter. Raises Unusable."""
        value = letter.payload if given is None else given
        window: str | None = None
        if isinstance(self._entity.read, Kafka):
            if landed is None:
                raise Unusable("its record is not in the raw layer any more")
            # A message without a value is no message with an empty one.
            (own,) = landed["value"].to_pylist()
            value = own if given is None else given
            row = repaired.of_topic(landed, value)
        elif isinstance(self._entity.read, Postgres):
            if letter.topic is not None:
                raise Unusable(
                    "its table is told by its changes, in order: mend the row in the application's database"
                )
            if self._entity.read.mode == "snapshot":
                raise Unusable(
                    "its table is read whole, so the next read would take it away again: mend the row in the "
                    "application's database"
                )
            row, window = repaired.of_database(self._entity, value or b"")
        else:
            row, window = repaired.of_api(self._entity, value or b"", letter.received_at)
        if self._is_overtaken(row, letter.received_at):
            raise Unusable("its source has sent the record again since, and what it sent counts")
        return _Record(letter, row, window, hashlib.sha256(value or b"").hexdigest())

    def _is_overtaken(self, row: pa.RecordBatch, since: datetime) -> bool:
        """Whether a later version of the record was landed: the one that is landed last counts."""
        if isinstance(self._entity.read, Kafka):
            return False
        files = [
            file
            for file in self._ledger.files(self._entity.table)
            if file.max is None or datetime.fromisoformat(file.max) > since
        ]
        if not files:
            return False
        same = " and ".join(
            f"raw.{engine.quoted(name)} = mine.{engine.quoted(name)}" for name in self._entity.key
        )
        with self._services.lake.duckdb() as connection:
            connection.register("raw", self._services.lake.read(connection, files))
            connection.register("mine", pa.Table.from_batches([row]))
            query = f"select 1 from raw join mine on {same} where raw._landed_at > ? limit 1"
            return bool(connection.execute(query, [since]).fetchall())


def _known(letter: Stored, given: bytes | None) -> Outcome:
    """A letter that is replayed: a record comes once."""
    if given is None or hashlib.sha256(given).hexdigest() == letter.replayed_sha256:
        return Outcome(letter, was_done=True)
    return Outcome(
        letter,
        reason=f"it was replayed at {letter.replayed_at:%Y-%m-%d %H:%M} UTC with other bytes, and a record "
        "comes once",
    )


def _mark(hashes: dict[str, str], batch_id: str, at: datetime, connection: Connection[Any]) -> None:
    deadletters.mark_replayed(connection, hashes, batch_id, at)


def _portions(connection: Connection[Any], letters: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(`source.entity`, ids): letters of one entity, as many as one landing may hold."""
    sizes = connection.execute(
        "select source || '.' || entity, letter_id, coalesce(length(payload), 0) from ops.dead_letter "
        "where letter_id = any(%s) order by 1, received_at, kafka_partition, kafka_offset, letter_id",
        (list(letters),),
    ).fetchall()
    part: list[str] = []
    name, size = "", 0
    for entity, letter, length in sizes:
        if part and (entity != name or len(part) >= _LETTERS_AT_ONCE or size + length > _BYTES_AT_ONCE):
            yield name, part
            part, size = [], 0
        name, size = entity, size + length
        part.append(letter)
    if part:
        yield name, part
