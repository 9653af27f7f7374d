"""Tables of a PostgreSQL database by their changes: the records that Debezium writes, as they are landed.

A table's changes are in order in one partition; what follows from their order is found in
`flows/extract/change_log.py`, and what each record says is read in `transforms/changes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import sql

from flows.extract import (
    DeadLetter,
    Extract,
    Incomplete,
    SchemaChange,
    SchemaChanged,
    SourceError,
    postgres_marks,
)
from flows.extract.change_log import ChangeLog, Shape, schema
from flows.extract.debezium_guard import OFFSETS_LOST, REMEMBERED
from flows.extract.half_moves import Awaited, Reread
from flows.extract.postgres_changes import Changes
from flows.extract.postgres_session import Snapshot
from flows.extract.postgres_types import SourceColumn
from flows.extract.postgres_types import schema as row_schema
from flows.extract.schema_contract import CATALOG, Contract, Fit
from flows.extract.source_clock import SourceClock
from transforms.entities import Postgres, SourceEntity

CHANGES = "changes"
"""Key under which a table that is read otherwise now keeps the position of its change topic."""
COMPARE = "compare"
"""Key that says: rows were read before, so the source's keys have to be compared with them once."""
SEEN = "seen"
"""Key under which a position keeps the highest [commit LSN, LSN] that was landed."""
READING = "reading"
"""Key under which a position keeps the place in the source's log of the newest first read that was landed."""
REGISTERED_AT = "registered_at"
"""Key, beside what is remembered of the source, of the time at which its registration began to land."""
AWAITED = "awaited"
"""Key under which a position keeps the keys of rows that are read again and have not come."""
EARLIER = "registered_before"
"""Key beside it, of the same of the registrations before: [offset before which the topic's records are of it,
time or null where that is not known], the oldest first, as long as some of them are still to be landed."""
TRANSACTIONS = "transactions"
"""Key under which a position keeps the offset, in the topic of transactions' ends, of those landed whole."""
_OF_TOPIC = ("topic_id", "offsets", SEEN, READING, "undeclared", REMEMBERED, TRANSACTIONS)


@dataclass(frozen=True)
class Source:
    """Where the changes of one table come from: the records that were read of its topic, in their order.

    `dsn` is asked only when the way of reading has changed.
    """

    topic: str
    records: Extract
    dsn: Callable[[], str]
    clock_offset: timedelta = timedelta(0)
    """How far the rows' times are from the server's clock (only a sandbox has one)."""
    earlier_offsets: tuple[tuple[datetime, timedelta], ...] = ()
    """What that was before, each until a moment of the server's clock, the oldest first."""
    catalog: Callable[[], Sequence[SourceColumn]] = tuple
    """The table's columns as the source has them now; none where it can't be asked."""
    seen: Sequence[SourceColumn] = ()
    """The same as they were seen shortly before the records were read: enough where these fit them."""
    is_half: bool = False
    """Whether more is to come before any of it counts: the source's keys are compared in the end."""
    confirmed: int = 0
    """The place up to which the connector had noted, when the table was landed last, what it has read."""
    reread: Reread | None = None
    """None where no connector of ours tells the changes."""


def continued(mode: str, positions: Mapping[str, Any]) -> dict[str, Any]:
    """The position of a table from which this mode goes on, whichever mode wrote it.

    A change topic's position is kept while the table is read otherwise. A change of mode loses nothing: the
    first read in the new mode compares the source's keys with all that was landed, and finds what is gone.
    Meanwhile a registration may have taken the table out of the publication; the one that captures it again
    has its rows read anew, so its place in the publication before says nothing.
    """
    of_topic = {name: positions[name] for name in _OF_TOPIC if name in positions}
    catalog = {name: positions[name] for name in (CATALOG,) if name in positions}
    if mode == "cdc":
        if of_topic or not positions:
            return dict(positions)
        kept = dict(positions.get(CHANGES, {}))
        if REMEMBERED in kept:
            kept[REMEMBERED] = {**kept[REMEMBERED], "published": {}}
        return {**kept, **catalog, COMPARE: True}
    if not of_topic:
        return dict(positions)
    return {CHANGES: of_topic, **postgres_marks.anew(), **catalog}


def read(
    entity: SourceEntity,
    source: Source,
    positions: Mapping[str, Any],
    connection: DuckDBPyConnection,
    landed: Callable[[], DuckDBPyRelation | None],
    landed_at: datetime,
) -> Extract:
    """What the records of `source` say, `positions` being where the table stood before them.

    `landed` gives the raw rows that were landed before, as they are in the files; it and all that is found
    belong to `connection`. Raises SchemaChanged when the records' fields are not the declared ones and the
    declaration does not let them pass; then nothing may be committed.
    """
    if not isinstance(entity.read, Postgres):
        raise TypeError(f"{entity.table} is no table of a database")
    extract = Extract(schema(entity), iter(()), dict(positions))
    run = _Read(entity, entity.read, source, connection, landed, landed_at, extract)
    extract.batches = run.batches()
    return extract


@dataclass
class _Read:
    entity: SourceEntity
    how: Postgres
    source: Source
    connection: DuckDBPyConnection
    landed: Callable[[], DuckDBPyRelation | None]
    landed_at: datetime
    extract: Extract

    @property
    def name(self) -> str:
        return f"{self.entity.source}.{self.entity.name}"

    def batches(self) -> Iterator[pa.RecordBatch]:
        before, records = self.extract.positions, self.source.records
        # Seen a while ago, it may not know of what the records show; asked behind the last of them, it must.
        seen = self.source.seen if self.how.on_change == "evolve" else ()
        contract, log, count = self._opened(seen or self.source.catalog())
        if seen and not (log.is_readable() and all(contract.is_of_now(shape.fields) for shape in log.shapes)):
            contract, log, count = self._opened(self.source.catalog())
        contract.hold(self.extract, by_record=True)
        self.extract.schema = schema(contract.entity)
        undeclared = self._hold_to_declaration(log, contract, before.get("undeclared", []))
        log.spell(contract.texts())
        log.resolve(before.get(SEEN) or [], before.get(AWAITED) or [])
        reading = self._reading(log, before)
        is_owed = bool(before.get(COMPARE)) and self.source.is_half
        gone = bool(before.get(COMPARE)) and not is_owed and self._lose_what_is_gone(log)
        self._keep_dead_letters(log)
        self._complete_moves(log.awaited)
        # What the source counted before says nothing of what changes have made of the rows since.
        self.extract.control = [] if count or gone else None
        self.extract.offsets = records.offsets
        self.extract.positions = {
            **{name: value for name, value in before.items() if name in _OF_TOPIC},
            **records.positions,
            SEEN: max(before.get(SEEN) or [0, 0], log.highest() or [0, 0]),
            **reading,
            "undeclared": undeclared,
            **contract.stored(),
            **({AWAITED: lacking} if (lacking := log.awaited.left()) else {}),
            **({COMPARE: True} if is_owed else {}),
        }
        if count or gone:
            remembered = self.extract.positions.get(REMEMBERED, {})
            yield from log.rows(remembered.get(REGISTERED_AT), remembered.get(EARLIER, ()))

    def _opened(self, columns: Sequence[SourceColumn]) -> tuple[Contract, ChangeLog, int]:
        """The records as a table with these columns at the source tells them, and their number."""
        before = self.extract.positions
        contract = Contract(self.entity, columns, before.get(CATALOG), self.landed_at)
        log = self._log(contract)
        return contract, log, log.take(self.source.records.batches, contract.computed)

    def _log(self, contract: Contract) -> ChangeLog:
        relation = self.landed()
        clock = SourceClock(self.source.clock_offset, self.source.earlier_offsets)
        if relation is None:
            return ChangeLog(contract.entity, self.connection, clock=clock, also=contract.names)
        relation.create_view("landed_before", replace=True)
        present = set(relation.columns)
        return ChangeLog(
            contract.entity, self.connection, "landed_before", present, clock, also=contract.names
        )

    # ----------------------------------------------------------------------------------------------- contract

    def _hold_to_declaration(self, log: ChangeLog, contract: Contract, known: list[str]) -> list[str]:
        """What the declaration's `on_change` says of records whose fields are not the declared columns;
        returns the undeclared fields that have been told of.
        """
        told = set(known)
        for shape in log.shapes:
            fit = contract.fit(shape.fields)
            is_evolving = self.how.on_change == "evolve"
            if (is_evolving and (fit.missing or fit.problem)) or not (is_evolving or contract.fits(fit)):
                found = self._changes(shape, fit)
                if self.how.on_change != "quarantine":
                    raise SchemaChanged(self._stopped(shape, fit), found)
                log.refuse(shape, _sentence(fit))
                self.extract.schema_changes += found
                continue
            added = [name for name in fit.added if name not in told]
            if is_evolving and added and not contract.told(added):
                fit = replace(fit, added=tuple(added))
                self.extract.schema_changes += self._changes(shape, fit)
                self.extract.warnings.append(
                    f"{self.name}: {_sentence(fit)}, from offset {shape.offset} of topic "
                    f"{self.source.topic} on. Raw keeps what it holds; declare it in "
                    f"transforms/sources/{self.entity.source}.py to see it, in past changes too."
                )
            told.update(added)
            if fit.served:
                log.serve(shape, fit.served)
        for column, allowed, reason in contract.refusals():
            log.refuse_values(column, allowed, reason)
        for column in self.entity.required:
            if column not in self.entity.key:  # that of a record stands beside its row
                log.refuse_values(column, None, f"{column} is null")
        return sorted(told)

    def _stopped(self, shape: Shape, fit: Fit) -> str:
        where = f"from offset {shape.offset} of topic {self.source.topic} on; nothing was landed"
        if fit.problem or fit.is_old or fit.is_of_before:
            again = (
                "Run again; if that says the same, it was altered back: read" if fit.is_of_before else "Read"
            )
            return (
                f'{self.name}: {_sentence(fit)}, {where}. {again} it once with on_change="quarantine": such '
                "records become dead letters; then python -m flows cdc resnapshot "
                f"{self.how.table} brings their rows."
            )
        return (
            f"{self.name}: {_sentence(fit)}, {where}. Bring "
            f"transforms/sources/{self.entity.source}.py in line with the table, or the table with "
            "it, then run again: the changes wait in the topic."
        )

    def _changes(self, shape: Shape, fit: Fit) -> list[SchemaChange]:
        def change(column: str, kind: str) -> SchemaChange:
            return SchemaChange(
                table=self.entity.table,
                column=column,
                change=kind,
                before=tuple(sorted(column.name for column in self.entity.columns)),
                after=shape.fields,
                contract=self.how.on_change,
                found_at=self.landed_at,
                topic=self.source.topic,
                kafka_offset=shape.offset,
            )

        return [
            *(change(name, "added") for name in fit.added),
            *(change(name, "missing") for name in fit.missing),
            *(change(name, "renamed") for name in fit.served),
        ]

    # --------------------------------------------------------------------------------------------------- gone

    def _reading(self, log: ChangeLog, before: dict[str, Any]) -> dict[str, int]:
        """What the position keeps of first reads. One that nobody asked for does not tell what was deleted
        before: where the connector was ended before it had noted the first, the source's keys are compared.
        Raises SourceError where it had noted that.
        """
        known, found = before.get(READING), log.reading()
        if found is None:
            return {}
        if known is not None and found > known:
            if self.source.confirmed > known:
                raise SourceError(f"{self.name} is halted: {OFFSETS_LOST}.")
            before[COMPARE] = True
        return {READING: max(found, known or 0)}

    def _lose_what_is_gone(self, log: ChangeLog) -> bool:
        """Rows that were read before the changes began and are gone since: no change tells of them."""
        table = sql.Identifier(self.how.schema, self.how.table)
        with Snapshot(self.source.dsn(), self.name, table) as snapshot, snapshot.errors_told():
            wanted = [column for column in snapshot.columns() if column.name in self.entity.key]
            columns = [
                sql.SQL("{} as {}").format(column.expression, sql.Identifier(column.name))
                for column in wanted
            ]
            query = sql.SQL("select {}, false as is_below from {}").format(sql.SQL(", ").join(columns), table)
            there = Changes(self.entity, row_schema(self.entity), self.connection)
            there.keep_keys(snapshot.stream(query))
        log.lose_what_is_gone("source_keys")
        return True

    def _complete_moves(self, awaited: Awaited) -> None:
        """Rows that did not come under their new key are read again: that is asked for before anything is
        committed, so that whoever dies in between asks again. Raises SourceError where nobody can be asked.
        """
        if (keys := awaited.new()) and self.source.reread is not None:
            self.source.reread(keys)
        for half in awaited.halves:
            what = (
                f"{self.name}: a row got another key, and the connector was stopped before it had sent the "
                f"row itself (behind offset {half.offset} of topic {self.source.topic})"
            )
            if self.source.reread is not None:
                what += "; it is read again beside the changes"
            self.extract.warnings.append(f"{what}.")
            if half.transaction is not None:
                self.extract.incomplete.append(Incomplete(half.transaction, what))

    # ------------------------------------------------------------------------------------------- dead letters

    def _keep_dead_letters(self, log: ChangeLog) -> None:
        """A transaction with a record that can't be read is not whole."""
        for topic, partition, offset, timestamp, payload, reason, transaction in log.unreadable():
            letter = DeadLetter(
                source=self.entity.source,
                entity=self.entity.name,
                reason=reason,
                payload=payload or b"",
                received_at=self.landed_at.astimezone(UTC),
                topic=topic,
                kafka_partition=partition,
                kafka_offset=offset,
                kafka_timestamp=timestamp,
            )
            self.extract.dead_letters.append(letter)
            if transaction is not None:
                self.extract.incomplete.append(
                    Incomplete(transaction, f"{self.name}: {reason}", letter.letter_id)
                )


_GONE = "the database has no column {} any more"


def _sentence(fit: Fit) -> str:
    parts = [f"the database has a column {name} that nobody declared" for name in fit.added]
    lacks = "a record has no column {}, and the database does" if fit.is_of_before else _GONE
    parts += [lacks.format(name) for name in fit.missing]
    parts += [f"the database calls column {name} {other}" for name, other in fit.served.items()]
    return " and ".join([*parts, *([f"of a record {fit.problem}"] if fit.problem else [])])
