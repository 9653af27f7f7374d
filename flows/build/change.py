"""A partition whose content becomes another, as a commit of the lake and as what is published of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flows.build.by_key import Followed
from flows.build.inputs import CAME
from flows.planner import REPLAYED, WHOLE, Work
from flows.stores.ledger import PartitionState
from flows.stores.ledger_rows import MOVED
from flows.stores.manifest import Commit, LakeFile, changes
from flows.stores.publication import BuiltPartition

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Change:
    """`files` is all the content from then on, `file` the one of them that was written, if any was.

    `is_added`: what stood stays among `files`, but for rows that no longer count.
    """

    state: PartitionState
    files: tuple[LakeFile, ...]
    file: LakeFile | None = None
    is_added: bool = False
    keys: pa.Table | None = None
    """The keys of the rows that no longer count, where they are known."""
    is_followed: bool = False
    """Whether `file` also names the keys that went."""
    noted: Mapping[str, Any] = field(default_factory=dict)
    """What else its commit says."""
    is_restored: bool = False
    """Whether the content is what stands, and PostgreSQL alone is made to hold it. A leaf may be there that
    does not: of a day that came back the stream has begun one with what it took in since."""

    @property
    def control(self) -> dict[str, Any]:
        """What its commit says: of the file that came, for those who follow the table, and what is noted."""
        came = {CAME: self.file.path if self.file is not None else ""} if self.is_followed else {}
        return {**came, **self.noted}

    def fingerprint(self, work: Work) -> str:
        """Of the model whose rows they are: what was added to does not make the rest of a window new."""
        stands = self.state.version and self.state.fingerprint != MOVED
        return self.state.fingerprint if self.is_added and stands else work.fingerprint

    def to_commit(
        self, work: Work, based_on: Mapping[str, Any], run_id: str
    ) -> tuple[Commit, PartitionState]:
        """What the lake is told of it, of a table that PostgreSQL does not serve."""
        return build_commit(
            work,
            self.state,
            based_on,
            run_id,
            self.files,
            fingerprint=self.fingerprint(work),
            control=self.control,
        )

    def to_publish(self, work: Work, based_on: Mapping[str, Any]) -> BuiltPartition:
        """What `publish` is given of it."""
        return BuiltPartition(
            table=work.table.name,
            partition=self.state.partition,
            files=self.files,
            added=self.file if self.is_added else None,
            based_on=dict(based_on),
            fingerprint=self.fingerprint(work),
            mode="append" if self.is_added else "replace",
            version=self.state.version,
            in_full=self.is_restored or (self.state.fingerprint == REPLAYED and not self.is_added),
            control=self.control,
            lost=self.keys,
        )


@dataclass(frozen=True)
class Placement:
    """How computed rows meet what stands in their partitions."""

    adds: bool = False
    """They join what stands, or what is `left` of it, but in `rewritten` partitions; otherwise they take its
    place."""
    left: Mapping[str, Sequence[LakeFile]] = field(default_factory=dict)
    rewritten: Collection[str] = ()
    followed: Followed | None = None
    """Where they are those of keys: the keys that went are written beside them."""

    def joins(self, window: str) -> bool:
        """Whether the rows of a partition join what stands there."""
        return self.adds and window not in self.rewritten

    def stays(self, state: PartitionState) -> tuple[LakeFile, ...]:
        """What of a partition's files its new rows join."""
        return tuple(self.left.get(state.partition, state.files)) if self.joins(state.partition) else ()

    def change(self, state: PartitionState, file: LakeFile | None, noted: Mapping[str, Any]) -> Change:
        """A partition in which `file`, if there are new rows, meets what stands."""
        followed = self.followed
        return Change(
            state,
            self.stays(state) if file is None else (*self.stays(state), file),
            file,
            self.joins(state.partition),
            followed.keys if followed is not None else None,
            followed is not None,
            followed.noted if followed is not None else noted,
        )


REPLACES = Placement()


@dataclass
class Written:
    """What the rows of a build make of its partitions."""

    changed: list[Change] = field(default_factory=list)
    restored: list[PartitionState] = field(default_factory=list)
    """What the lake holds is right, and PostgreSQL is made to hold it."""
    noted: list[tuple[Commit, PartitionState]] = field(default_factory=list)
    """The content stays, and what it is based on is noted."""


def build_commit(
    work: Work,
    state: PartitionState,
    based_on: Mapping[str, Any],
    run_id: str,
    files: Sequence[LakeFile] | None = None,
    *,
    fingerprint: str | None = None,
    control: Mapping[str, Any] = _NOTHING,
) -> tuple[Commit, PartitionState]:
    """`files` is the content from then on; None: it stays, only what it is based on is noted."""
    table = work.table
    add, remove = changes(state.files, state.files if files is None else files)
    commit = Commit(
        token=f"build-{table.name}-{state.partition}-{batch_id(work, state, {state.partition: based_on})}",
        kind="build",
        layer=table.layer.value,
        table=table.name,
        partition=state.partition,
        run_id=run_id,
        add=add,
        remove=remove,
        based_on=dict(based_on),
        fingerprint=work.fingerprint if fingerprint is None else fingerprint,
        control=control,
        row_count=sum(file.rows for file in add),
    )
    return commit, state


def batch_id(work: Work, state: PartitionState, based_on: Mapping[str, Mapping[str, Any]]) -> str:
    """The same inputs on the same state give the same name: a repeated build is the same commit."""
    inputs = [dict(based_on.get(state.partition, {})), dict(based_on.get(WHOLE, {}))]
    text = json.dumps([state.version, work.fingerprint, *inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
