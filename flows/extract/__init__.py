"""What every protocol gives back: rows as Arrow, and what is known once the last row was read.

One file per protocol, never per vendor: `postgres`, `kafka`, `rest`. An extract reads and never writes;
`flows.landing` turns it into files and a ledger entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from flows.errors import FlowsError


class SourceError(FlowsError):
    """A source can't be read: that entity stops, the others go on. Its message holds no secret, no row."""


class SourceAway(SourceError):
    """A source does not answer: it may be there again at the next try."""


class SourceRefused(SourceError):
    """A source gives the same answer however often it is asked: about a key, a right, a table that is not
    there, records that are gone. Somebody has to change something first.
    """


@dataclass(frozen=True)
class SchemaChange:
    """One column that a source has otherwise than it is declared, or than it was last seen.

    `change` is `missing` or `added` where the fields of a topic's records say so: `before` are the declared
    columns then, `after` the fields of the first such record, at this offset. Seen in the source's catalog it
    is a kind of `flows.extract.schema_contract`; `before` and `after` describe the column, `since` is when
    the catalog that it differs from was first seen.
    """

    table: str
    column: str
    change: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    contract: str
    found_at: datetime
    topic: str | None = None
    kafka_offset: int | None = None
    since: str = ""

    @property
    def change_id(self) -> str:
        """SHA-256 of what happened: found again, as by each run that it stops, it is the same."""
        seen = (*self.before, "\x1e", *self.after) if self.topic is None else ()
        place = (self.topic or self.since, str(self.kafka_offset or 0))
        text = "\x1f".join((self.table, self.column, self.change, self.contract, *place, *seen))
        return hashlib.sha256(text.encode()).hexdigest()


class SchemaChanged(SourceRefused):
    """A source's records have other fields than declared, and the declaration stops the entity then."""

    def __init__(self, message: str, changes: Sequence[SchemaChange]) -> None:
        super().__init__(message)
        self.changes = tuple(changes)


@dataclass(frozen=True)
class DeadLetter:
    """A record that can't be read: its bytes, where it came from, why. One record has one letter_id.

    `coordinates` says where the record stands in its source when that is neither a topic's offset nor a row
    of a landed batch (a primary key, an object id).
    """

    source: str
    entity: str
    reason: str
    payload: bytes
    received_at: datetime
    topic: str | None = None
    kafka_partition: int | None = None
    kafka_offset: int | None = None
    batch_id: str | None = None
    seq: int | None = None
    coordinates: str = ""
    kafka_timestamp: datetime | None = None
    """The broker's."""

    @property
    def letter_id(self) -> str:
        """SHA-256 of the source coordinates: a topic's offset and the broker's timestamp name a record,
        whichever batch landed it. The offsets of a topic that is made anew begin again: they alone do not.
        """
        if self.topic is None or self.kafka_timestamp is None:
            return self.place_id
        return self._hashed(*self._place(), self.kafka_timestamp.astimezone(UTC).isoformat())

    @property
    def place_id(self) -> str:
        """The same without the timestamp."""
        return self._hashed(*self._place())

    def _place(self) -> tuple[object, ...]:
        if self.topic is not None:
            return self.topic, self.kafka_partition, self.kafka_offset
        return self.batch_id or "", "" if self.seq is None else self.seq, self.coordinates

    def _hashed(self, *where: object) -> str:
        return hashlib.sha256("\x1f".join(map(str, (self.source, self.entity, *where))).encode()).hexdigest()


@dataclass(frozen=True)
class Incomplete:
    """A transaction of the source that did not arrive whole; `letter_id` names the dead letter it lacks."""

    transaction: int
    reason: str
    letter_id: str = ""


@dataclass(frozen=True)
class ControlTotal:
    """What the source itself counted for one UTC day and group, in the snapshot the rows were read in."""

    day: date | None
    group: str
    row_count: int
    amount: Decimal


@dataclass
class Extract:
    """The answer of a protocol.

    `batches` streams the rows in `schema` and is read once (the records of a change topic: as often as they
    are needed). Everything below is final only when it is exhausted without an error: until then nothing that
    was read may be committed. `positions` replaces the entity's position in the ledger and is JSON.
    `warnings` are sentences for the run's summary.
    """

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    positions: dict[str, Any] = field(default_factory=dict)
    control: list[ControlTotal] | None = None
    dead_letters: list[DeadLetter] = field(default_factory=list)
    incomplete: list[Incomplete] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    schema_changes: list[SchemaChange] = field(default_factory=list)
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of a topic: partition → offsets [first, after) that were read."""
    windows: dict[str, int] | None = None
    """Rows per touched window ('' the whole entity) where the protocol knows them; None: the landing
    counts.
    """
