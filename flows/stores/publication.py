"""What goes into a publish and what comes out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
from psycopg import Connection

from flows.stores.manifest import Commit, LakeFile, changes
from transforms.contract import Table

Way = Literal["attach", "diff", "swap", "merge", "load", "equal", "none"]
"""attach: a new leaf. diff: only differing rows of a leaf. swap: a leaf built anew beside the old one.
merge: only differing rows of an unpartitioned table. load: an unpartitioned table made equal to the lake,
whatever it holds. equal: the same for one leaf. none: PostgreSQL holds this content already, only the
ledger moves."""

Audit = Callable[[str, Mapping[str, str]], None]
"""Called with a schema and partition → table name of what is to be published; raises to forbid it."""


@dataclass(frozen=True)
class BuiltPartition:
    """One partition as it was built into the lake and is to be published.

    `files` is its whole content afterwards, `added` the one file that came where rows were appended
    (`mode='append'`): there what stood stays, but for rows that no longer count. `version` is that of the
    partition state the plan was made on; None takes the current one, which gives up finding out that somebody
    else was quicker.
    """

    table: str
    partition: str
    files: tuple[LakeFile, ...]
    added: LakeFile | None = None
    based_on: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    mode: Literal["append", "replace"] = "replace"
    version: int | None = None
    windows: Mapping[str, int] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    lost: pa.Table | None = None
    """The keys of the rows of this table, in whichever partition, that were taken away from what stood, where
    the builder knows them."""
    in_full: bool = False
    """What PostgreSQL holds is not believed: it is made equal, whatever that is."""

    def token(self, version: int) -> str:
        """The same inputs on the same state give the same token: whoever comes second finds it there."""
        text = json.dumps(
            [self.table, self.partition, version, dict(self.based_on), self.fingerprint],
            sort_keys=True,
            default=str,
        )
        return f"publish-{self.table}-{self.partition}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"

    def commit(self, table: Table, version: int, previous: tuple[LakeFile, ...], run_id: str) -> Commit:
        """The ledger entry of this partition, given the files it replaces."""
        add, remove = changes(previous, self.files)
        return Commit(
            token=self.token(version),
            kind="publish",
            layer=table.layer.value,
            table=self.table,
            partition=self.partition,
            run_id=run_id,
            add=add,
            remove=remove,
            based_on=self.based_on,
            windows=self.windows,
            control=self.control,
            fingerprint=self.fingerprint,
            row_count=sum(file.rows for file in self.files),
        )


@dataclass(frozen=True)
class Streamed:
    """Records that the stream has shown, or taken back, and that no built content can know yet."""

    identity: tuple[str, ...] = ()
    """The columns that tell one record from another."""
    values: Sequence[tuple[Any, ...]] = ()


AskStreamed = Callable[[Connection[Any], Sequence[BuiltPartition]], Streamed]
"""Called first in a publishing transaction for leaves that are made equal. Until that ends nothing more is
streamed. Raises Conflict when what was built is not the newest."""


@dataclass(frozen=True)
class Pending:
    """A partition that is built and checked and could not be shown, and whose lock is in the way."""

    partition: str
    blocked_by: str


@dataclass
class Publication:
    """What one publish did. Row counts are rows written to PostgreSQL; a loaded leaf counts as inserted."""

    table: str
    ways: dict[str, Way] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    """Partitions whose token was there: somebody published the same content on the same state."""
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    repaired: list[str] = field(default_factory=list)
    """Partitions of which PostgreSQL held something else than the lake said."""
    pending: tuple[Pending, ...] = ()
    seconds: float = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether somebody's lock kept this from being seen; the next run completes it."""
        return bool(self.pending)

    @property
    def rows_written(self) -> int:
        """Rows that PostgreSQL wrote or removed."""
        return self.inserted + self.updated + self.deleted

    def message(self) -> str:
        """One line for people."""
        if self.pending:
            names = ", ".join(item.partition or "all of it" for item in self.pending)
            return (
                f"{self.table} ({names}) stays as it was: {self.pending[0].blocked_by} is in the way. "
                "It is published by the next run; end that session if it should not wait."
            )
        ways = (
            ", ".join(f"{count} by {way}" for way, count in sorted(self._by_way().items())) or "nothing new"
        )
        return (
            f"{self.table}: {ways}; {self.inserted:,} rows inserted, {self.updated:,} updated, "
            f"{self.deleted:,} deleted in {self.seconds:.1f} s"
        )

    def _by_way(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for way in self.ways.values():
            counts[way] = counts.get(way, 0) + 1
        return counts
