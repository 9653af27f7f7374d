"""The rows of the ledger's tables, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from flows.stores.manifest import Commit, LakeFile

RETIRED = "retired"
"""Key under which a commit says that something went because its retention was over: a leaf of PostgreSQL, or
the files of raw that it removes."""
MOVED = "moved"
"""Fingerprint of a partition whose rows stand in others, because its table is partitioned otherwise now
(flows.stores.layout): it is none of the table's any more."""


@dataclass(frozen=True)
class Position:
    """How far an entity was landed. `version` 0: never. Give `version` back with the next commit."""

    positions: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    token: str = ""


@dataclass(frozen=True)
class LandedWindow:
    """One window of a raw table: who touched it last, and how many rows were landed for it in all."""

    token: str
    sequence: int
    row_count: int


@dataclass(frozen=True)
class PartitionState:
    """What a partition of a built table is now. `published_at` is None while PostgreSQL does not serve it.

    `token` is the commit that changed its content last, `sequence` that commit's place in the ledger;
    `based_on` and `version` are of the last commit, whether it changed the content or not.
    """

    table: str
    partition: str
    token: str = ""
    sequence: int = 0
    version: int = 0
    based_on: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    files: tuple[LakeFile, ...] = ()
    row_count: int = 0
    published_at: datetime | None = None


def lets_go(commit: Commit) -> bool:
    """Whether a commit takes rows of raw away for good."""
    return commit.layer == "raw" and RETIRED in commit.control


def ledger_values(commit: Commit) -> tuple[Any, ...]:
    """The values of a row of ops.ledger, without those PostgreSQL gives."""
    return (
        commit.token,
        commit.kind,
        commit.layer,
        commit.table,
        commit.partition,
        commit.run_id,
        Jsonb(dict(commit.positions)),
        Jsonb(dict(commit.based_on)),
        Jsonb(dict(commit.windows)),
        Jsonb(dict(commit.control)),
        Jsonb([file.as_json() for file in commit.add]),
        Jsonb(list(commit.remove)),
        commit.fingerprint,
        commit.manifest_hash,
        commit.row_count,
        commit.landed_at,
    )


def commit_of(row: Mapping[str, Any]) -> Commit:
    """The commit in a row of ops.ledger."""
    return Commit(
        token=row["token"],
        kind=row["kind"],
        layer=row["layer"],
        table=row["table_name"],
        partition=row["partition"],
        run_id=row["run_id"],
        add=tuple(LakeFile.from_json(file) for file in row["files"]),
        remove=tuple(row["removed"]),
        positions=row["positions"],
        based_on=row["based_on"],
        windows=row["windows"],
        control=row["control"],
        fingerprint=row["fingerprint"],
        row_count=row["row_count"],
        landed_at=row["landed_at"],
    )


def state_of(row: Mapping[str, Any]) -> PartitionState:
    """The state in a row of ops.partition_state."""
    return PartitionState(
        table=row["table_name"],
        partition=row["partition"],
        token=row["token"],
        sequence=row.get("sequence", 0),
        version=row["version"],
        based_on=row["based_on"],
        fingerprint=row["fingerprint"],
        files=tuple(LakeFile.from_json(file) for file in row["files"]),
        row_count=row["row_count"],
        published_at=row["published_at"],
    )
