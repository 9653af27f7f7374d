"""What a table is: the words every other file speaks.

A `Table` is a model (one file in staging, dimensions, facts or marts) or the raw landing place of a source
entity. Nothing here reads a file or opens a connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Literal

MAX_IDENTIFIER_BYTES = 63
"""PostgreSQL cuts longer identifiers without a word (NAMEDATALEN - 1)."""

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


class ContractError(ValueError):
    """A declaration contradicts itself; the message names the table and says what to write instead."""


class Layer(StrEnum):
    """Where a table stands; the folder of a model, the first folder of its files in the lake."""

    RAW = "raw"
    STAGING = "staging"
    DIMENSIONS = "dimensions"
    FACTS = "facts"
    MARTS = "marts"

    @property
    def is_published(self) -> bool:
        """Whether PostgreSQL serves the tables of this layer (raw and staging live in the lake alone)."""
        return self in {Layer.DIMENSIONS, Layer.FACTS, Layer.MARTS}


class Write(StrEnum):
    """How new content meets what is there."""

    REPLACE_PARTITION = "replace_partition"
    MERGE = "merge"
    APPEND = "append"


class RuleKind(StrEnum):
    """The five kinds of claim that are checked on every run."""

    COMPLETENESS = "completeness"
    ACCURACY = "accuracy"
    CONSISTENCY = "consistency"
    TIMELINESS = "timeliness"
    UNIQUENESS = "uniqueness"


Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True)
class Column:
    """One column: its DuckDB type as written in the cast, and what it means."""

    name: str
    type: str
    description: str = ""
    nullable: bool = True
    pii: bool = False
    max_length: int | None = None
    formerly: tuple[str, ...] = ()
    """Of a landed column: names that the source has had for it; what was landed under them is read under
    this one."""


VALID_FROM = "valid_from"
"""Column of a history: from when on a row holds, until the next one of the same subject."""
FIRST_INSTANT, LAST_INSTANT = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def moved(moment: datetime, by: timedelta) -> datetime:
    """An instant moved in time, within the years 1 to 9999: messages claim any time."""
    try:
        return moment + by
    except OverflowError:
        return LAST_INSTANT if by > timedelta(0) else FIRST_INSTANT


@lru_cache(maxsize=1 << 16)
def _bounds(every: str, key: str) -> tuple[datetime, datetime]:
    """See Partition.bounds. Kept: a plan asks for the same few thousand windows again and again."""
    try:
        if every == "day":
            start = datetime.strptime(key, "%Y-%m-%d").replace(tzinfo=UTC)
            return start, moved(start, timedelta(days=1))
        start = datetime.strptime(key, "%Y-%m").replace(tzinfo=UTC)
        end = moved(start, timedelta(days=32))
        return start, end if end == LAST_INSTANT else end.replace(day=1)
    except ValueError as error:
        form = "2025-10-07" if every == "day" else "2025-10"
        raise ContractError(f"'{key}' is no {every} partition; write it like {form}.") from error


@dataclass(frozen=True)
class Partition:
    """Half-open UTC windows over one column. The column never changes for a key."""

    by: str
    every: Literal["day", "month"]

    def __post_init__(self) -> None:
        if self.every not in ("day", "month"):
            raise ContractError(f"Partition by {self.by}: '{self.every}' is no window. Write day or month.")

    def key(self, moment: date | datetime) -> str:
        """The window that holds `moment`: `2025-10-07` for days, `2025-10` for months (UTC)."""
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            moment = moment.astimezone(UTC)
        # Not strftime: it writes year 1 as `1`.
        return moment.isoformat()[: 10 if self.every == "day" else 7]

    def bounds(self, key: str) -> tuple[datetime, datetime]:
        """The half-open range [start, end) of a window, in UTC. Raises ContractError for a malformed key.

        The last window of the year 9999 ends with the last instant that can be told.
        """
        return _bounds(self.every, key)

    def span(self, key: str) -> tuple[datetime, datetime]:
        """The same of a window of either kind: what has come to be partitioned otherwise has windows of
        before.
        """
        return _bounds("month" if len(key) == len("2025-10") else "day", key)

    def is_window(self, key: str) -> bool:
        """Whether `key` names a window, of either kind: not '', nor a time outside the years 1 to 9999 as
        DuckDB writes it (`-100-03-15`).
        """
        try:
            self.span(key)
        except ContractError:
            return False
        return True

    def suffix(self, key: str) -> str:
        """What a leaf table's name ends with: `2025_10_07`."""
        return key.replace("-", "_")


REVISION = "revision"
"""Column of a windowed table: how often its count has been published."""
IS_FINAL = "is_final"
"""Column of a windowed table: whether the stream has closed the window."""


@dataclass(frozen=True)
class Lookup:
    """How a row finds one of an upstream by another column than its key.

    `of` is the column of what the table follows that is looked up; it equals `by` there, SQL over one row;
    `found` is the table's own column, which holds the key of what was found.
    """

    found: str
    of: str
    by: str


@dataclass(frozen=True)
class Windowed:
    """Counts by windows of event time that a stream keeps up to date by adding to them.

    The partition column of such a table is the start of its windows. `adds` is added up, `end` is a window's
    end. Once the watermark has passed the end by `lateness` the window is final: what comes later is put
    right by the batch. Each revision goes to `topic`, keyed by the table's first key column.
    """

    adds: str
    end: str
    lateness: timedelta
    topic: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it speaks of or needs."""
        return (self.adds, self.end, REVISION, IS_FINAL)


@dataclass(frozen=True)
class Rule:
    """One claim about a table.

    `check` names the form: not_null, unique, between, accepted_values, references, matches or sql.
    `arguments` are that form's own words, as the header gives them. A `sql` rule selects the rows that
    break it.
    """

    name: str
    check: str
    kind: RuleKind
    arguments: Mapping[str, object] = field(default_factory=dict)
    severity: Severity = "critical"
    row_level: bool = True
    """Row-level rules judge a row by itself, so a micro-batch can be held to them; set-level ones need the
    partition."""


@dataclass(frozen=True)
class Table:
    """One table, whichever way it is made.

    `grain` is a sentence, `key` the columns that are unique together, `partition` the windows it is rebuilt
    by. `by_key` says of an upstream which of its columns are, in order, this table's key, or the beginning
    of it (write=merge): a row depends on the rows of the same key alone, so after a change only the keys of
    what is new are computed. `changed` lists those of them of which the news alone are read: the newest row
    of a key says all. `mentioned_by` says of an upstream which of its columns, the only one that the model
    reads, names this table's key: who was ever named has a row for good. `looks_up` says how a row finds
    one of an upstream that it is not keyed by: what changes there reaches the rows that find it. `as_of`
    names the histories whose rows are joined as they were at a time: history → column of that time.
    `passes` names the upstreams whose columns that nobody declared it has too, last, as they are
    (`Registry.with_found`). `retention` says how long a window is published, and built anew, behind its
    end; of raw how long it is kept. `lookback` widens the windows in which an appended key is looked for.
    `sensitivity` says how far from usual its figures must be before somebody is told
    (quality.monitors.sensitivity).
    """

    name: str
    layer: Layer
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    write: Write = Write.REPLACE_PARTITION
    partition: Partition | None = None
    owner: str = "data-team"
    description: str = ""
    expect: tuple[Rule, ...] = ()
    freshness: timedelta | None = None
    retention: timedelta | None = None
    sensitivity: str = "normal"
    upstreams: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    as_of: Mapping[str, str] = field(default_factory=dict)
    by_key: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mentioned_by: Mapping[str, str] = field(default_factory=dict)
    looks_up: Mapping[str, Lookup] = field(default_factory=dict)
    passes: tuple[str, ...] = ()
    lookback: timedelta = timedelta(0)
    tie_break: tuple[str, ...] = ()
    windowed: Windowed | None = None
    indexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Index name → its columns; a column may end in ' desc'."""
    foreign_keys: Mapping[str, str] = field(default_factory=dict)
    """Column → `table` or `table.column` it references; only tables that are changed by merge may have
    them."""
    path: Path | None = None
    """The model's file; None for raw tables."""

    def __post_init__(self) -> None:
        check_name(self.name)
        names = [column.name for column in self.columns]
        missing = [name for name in self.key if name not in names]
        if self.columns and missing:
            raise ContractError(
                f"{self.name}: key column {missing[0]} is not among its columns ({', '.join(names)})."
            )
        is_inside = self.layer is Layer.RAW  # the column of a raw table's windows can be inside its records
        if self.columns and self.partition and not is_inside and self.partition.by not in names:
            raise ContractError(
                f"{self.name}: it is partitioned by {self.partition.by}, which it does not select."
            )
        if self.windowed and not (self.partition and self.partition.by in self.key):
            raise ContractError(
                f"{self.name}: it is windowed, so the start of its windows is part of its key and what it is "
                "partitioned by."
            )
        if self.retention is not None and self.partition is None:
            raise ContractError(
                f"{self.name}: it has a retention and no windows of time that could pass it. Give it a "
                "partition, or take its retention out."
            )

    @property
    def is_history(self) -> bool:
        """Whether it holds versions, each from `valid_from` on until the next one of its subject."""
        return VALID_FROM in self.key

    @property
    def is_published(self) -> bool:
        """Whether PostgreSQL serves this table."""
        return self.layer.is_published

    @property
    def personal(self) -> tuple[str, ...]:
        """Names of the columns that hold personal data."""
        return tuple(column.name for column in self.columns if column.pii)

    @property
    def is_partitioned_in_postgres(self) -> bool:
        """A merged table is one table in PostgreSQL even where the lake keeps it in windows."""
        return self.is_published and self.partition is not None and self.write is not Write.MERGE

    @property
    def followed(self) -> frozenset[str]:
        """The upstreams whose news say which rows they reach."""
        return frozenset({*self.by_key, *self.mentioned_by, *self.looks_up})

    def is_past_retention(self, partition: str, now: datetime) -> bool:
        """Whether a window ended so long ago that its retention is over; what has no window ('') stays."""
        if self.retention is None or self.partition is None or not partition:
            return False
        return self.partition.span(partition)[1] <= moved(now, -self.retention)

    def column(self, name: str) -> Column:
        """The column of that name; raises ContractError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise ContractError(f"{self.name} has no column {name}.")

    def leaf(self, partition: str) -> str:
        """The name of a partition's own table in PostgreSQL, e.g. fct_events_2025_10_07."""
        if self.partition is None:
            return self.name
        return check_name(f"{self.name}_{self.partition.suffix(partition)}")


def check_name(name: str) -> str:
    """Return `name` if it can name a table or column everywhere; raises ContractError otherwise."""
    if not _NAME.match(name):
        raise ContractError(
            f"'{name}' can't be a name here: use lower-case letters, digits and _, a letter first."
        )
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise ContractError(
            f"'{name}' is longer than {MAX_IDENTIFIER_BYTES} bytes; PostgreSQL would cut it silently."
        )
    return name
