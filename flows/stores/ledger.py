"""The ledger: the point where landed files, built partitions and published rows become true.

Everything here runs in the caller's transaction unless a docstring says otherwise, so rows and their ledger
entry are committed together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.stores.lake import Lake
from flows.stores.ledger_reader import READERS_GRACE, LedgerReader
from flows.stores.ledger_rows import (
    LandedWindow,
    PartitionState,
    Position,
    commit_of,
    ledger_values,
    state_of,
)
from flows.stores.manifest import Commit

_OVERTAKEN = "was changed by somebody else in the meantime; this work on it was given up. Run again."

__all__ = ["READERS_GRACE", "Conflict", "LandedWindow", "Ledger", "PartitionState", "Position"]


class Conflict(FlowsError):
    """Somebody else moved this position or partition on since it was read: plan again and repeat."""


class Ledger(LedgerReader):
    """The ledger of one warehouse, seen through one psycopg connection (autocommit; transactions are
    blocks).
    """

    # ------------------------------------------------------------------------------------------ committing

    def commit(self, commit: Commit, *, version: int, published: bool = False) -> bool:
        """Enter one commit; False when its token is there already (nothing is changed then).

        `version` is the one read with the position (`land`) or the partition state (`build`, `publish`,
        `compact` of a built table); raises Conflict when it moved on, and the caller's transaction must be
        given up.
        """
        fresh = self.connection.execute(
            """
            INSERT INTO ops.ledger (token, kind, layer, table_name, partition, run_id, positions, based_on,
            windows, control, files, removed, fingerprint, manifest_hash, row_count, landed_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (token) DO NOTHING RETURNING token
            """,
            ledger_values(commit),
        ).fetchone()
        if fresh is None:
            return False
        failpoint("ledger.entered")
        if commit.kind == "land":
            self._advance_position(commit, version)
        elif commit.kind == "compact" and commit.layer == "raw":
            self._check_still_in_force(commit)
        else:
            self._advance_state(commit, version, published)
        return True

    def mark(self, partitions: Iterable[tuple[str, str]], fingerprint: str) -> int:
        """Give standing partitions (table, key) another fingerprint, so that the planner finds them due; how
        many.
        """
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE ops.partition_state SET fingerprint = %s, version = version + 1 "
                "WHERE (table_name, partition) = (%s, %s)",
                [(fingerprint, table, partition) for table, partition in partitions],
            )
            return cursor.rowcount

    def move_on(self, entity: str, positions: Mapping[str, Any], version: int) -> None:
        """Note a position of `entity` that brought no row: no landing, so nothing downstream is due.

        One that was never landed has none to move. Raises Conflict when somebody else moved it meanwhile.
        """
        if version == 0:
            return
        moved = self.connection.execute(
            "UPDATE ops.position SET (positions, version) = (%s, version + 1) "
            "WHERE entity = %s AND version = %s",
            (Jsonb(dict(positions)), entity, version),
        ).rowcount
        if moved != 1:
            raise Conflict(f"{entity} {_OVERTAKEN}")

    def record(
        self,
        lake: Lake,
        commit: Commit,
        *,
        version: int,
        within: Callable[[Connection[Any]], None] | None = None,
    ) -> bool:
        """Commit in a transaction of its own, then write the manifest line; False when the token was there.

        `within` writes what belongs to the same transaction (dead letters, control totals). For landings and
        for tables that live in the lake alone. Raises Conflict when somebody else was quicker; nothing is
        changed then.
        """
        with self.connection.transaction():
            fresh = self.commit(commit, version=version)
            if fresh and within is not None:
                within(self.connection)
            failpoint("ledger.before_commit")
        failpoint("ledger.committed")
        self.finish(lake, [commit])
        return fresh

    def finish(self, lake: Lake, commits: Sequence[Commit]) -> None:
        """After the commit: append the manifest lines and note that they are there.

        Lines of the same tables that a killed run left out come before, since what follows may replace files
        of theirs: a manifest is in the order of the commits.
        """
        rows = self._rows(
            "SELECT * FROM ops.ledger WHERE NOT in_manifest AND table_name = ANY(%s) ORDER BY sequence",
            sorted({commit.table for commit in commits}),
        )
        missing = [commit_of(row) for row in rows]
        if not missing:
            return
        lake.append_manifest(missing)
        with self.connection.transaction():
            self.connection.execute(
                "UPDATE ops.ledger SET in_manifest = true WHERE token = ANY(%s)",
                ([commit.token for commit in missing],),
            )

    def repair_manifest(self, lake: Lake) -> list[str]:
        """Write the manifest lines a crash left out; returns their tokens. Run it first in every run."""
        rows = self._rows("SELECT * FROM ops.ledger WHERE NOT in_manifest ORDER BY sequence")
        commits = [commit_of(row) for row in rows]
        if commits:
            self.finish(lake, commits)
        return [commit.token for commit in commits]

    # ------------------------------------------------------------------------------------------ locking

    @contextmanager
    def locked(self, purpose: str, name: str) -> Iterator[None]:
        """Hold the advisory lock of one thing (`publish`, `fct_events`) for a block; it is the session's."""
        key = f"{purpose}:{name}"
        self.connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (key,))
        try:
            yield
        finally:
            self.give_back(purpose, name)

    def is_ours(self, purpose: str, name: str) -> bool:
        """Take the same kind of lock if it is free, until the session ends; whether this session has it."""
        row = self.connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"{purpose}:{name}",)
        ).fetchone()
        return bool(row and row[0])

    def is_held(self, purpose: str, name: str) -> bool:
        """Whether another session has the lock that `is_ours` takes."""
        key = f"{purpose}:{name}"
        row = self.connection.execute(
            "SELECT pg_try_advisory_lock_shared(hashtextextended(%s, 0))", (key,)
        ).fetchone()
        if not (row and row[0]):
            return True
        self.connection.execute("SELECT pg_advisory_unlock_shared(hashtextextended(%s, 0))", (key,))
        return False

    def give_back(self, purpose: str, name: str) -> None:
        """Let go of a lock that `is_ours` took."""
        if not self.connection.broken and not self.connection.closed:
            self.connection.execute(
                "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (f"{purpose}:{name}",)
            )

    # ------------------------------------------------------------------------------------------ inside

    def _advance_position(self, commit: Commit, version: int) -> None:
        values = (commit.table, Jsonb(dict(commit.positions)), commit.token)
        moved = self.connection.execute(
            "INSERT INTO ops.position (entity, positions, token, version) VALUES (%s, %s, %s, 1) "
            "ON CONFLICT (entity) DO NOTHING"
            if version == 0
            else "UPDATE ops.position SET (entity, positions, token, version) = (%s, %s, %s, version + 1) "
            "WHERE entity = %s AND version = %s",
            values if version == 0 else (*values, commit.table, version),
        ).rowcount
        if moved != 1:
            raise Conflict(f"{commit.table} {_OVERTAKEN}")
        self.connection.execute(
            """
            INSERT INTO ops.landed_window AS there (table_name, landed_window, token, sequence, row_count)
            SELECT l.table_name, w.key, l.token, l.sequence, w.value::bigint
            FROM ops.ledger l, jsonb_each_text(l.windows) w WHERE l.token = %s
            ON CONFLICT (table_name, landed_window) DO UPDATE SET token = excluded.token,
                sequence = excluded.sequence, row_count = there.row_count + excluded.row_count
            """,
            (commit.token,),
        )

    def _advance_state(self, commit: Commit, version: int, published: bool) -> None:
        rows = self._rows(
            "SELECT * FROM ops.partition_state "
            "WHERE (table_name, partition) = (%(table)s, %(partition)s) FOR UPDATE",
            {"table": commit.table, "partition": commit.partition},
        )
        state = state_of(rows[0]) if rows else PartitionState(commit.table, commit.partition)
        where = f"{commit.table} {commit.partition}".strip()
        files = {file.path: file for file in state.files}
        gone = [path for path in commit.remove if path not in files]
        if state.version != version or gone:
            raise Conflict(f"{where} {_OVERTAKEN}")
        for path in commit.remove:
            del files[path]
        files.update({file.path: file for file in commit.add})
        is_compaction = commit.kind == "compact"
        is_marker = commit.partition == "" and not files
        is_same_content = is_compaction or (
            state.version > 0 and not is_marker and not commit.add and not commit.remove
        )
        moved = self.connection.execute(
            """
            INSERT INTO ops.partition_state AS state (table_name, partition, token, version, based_on,
                fingerprint, files, row_count, published_at)
            VALUES (%(table)s, %(partition)s, %(token)s, %(version)s + 1, %(based_on)s, %(fingerprint)s,
                %(files)s, %(row_count)s, CASE WHEN %(published)s THEN clock_timestamp() END)
            ON CONFLICT (table_name, partition) DO UPDATE SET (token, version, based_on, fingerprint, files,
                row_count, published_at) = (excluded.token, excluded.version, excluded.based_on,
                excluded.fingerprint, excluded.files, excluded.row_count, excluded.published_at)
            WHERE state.version = %(version)s
            """,
            {
                "table": commit.table,
                "partition": commit.partition,
                "token": state.token if is_same_content else commit.token,
                "version": version,
                "based_on": Jsonb(dict(state.based_on if is_compaction else commit.based_on)),
                "fingerprint": state.fingerprint if is_compaction else commit.fingerprint,
                "files": Jsonb([file.as_json() for file in files.values()]),
                "row_count": sum(file.rows for file in files.values()),
                "published": published or (is_compaction and state.published_at is not None),
            },
        ).rowcount
        if moved != 1:
            raise Conflict(f"{where} {_OVERTAKEN}")

    def _check_still_in_force(self, commit: Commit) -> None:
        self.connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"compact:{commit.table}",)
        )
        twice = self._rows(
            "SELECT 1 FROM ops.ledger WHERE table_name = %(table)s AND token <> %(token)s "
            "AND removed ?| %(paths)s::text[] LIMIT 1",
            {"table": commit.table, "token": commit.token, "paths": list(commit.remove)},
        )
        if twice:
            raise Conflict(f"Files of {commit.table} were compacted by somebody else; this one was given up.")
