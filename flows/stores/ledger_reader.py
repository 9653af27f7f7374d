"""What the ledger tells: how far sources were landed, which files are the content of what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from flows.stores.ledger_rows import (
    MOVED,
    RETIRED,
    LandedWindow,
    PartitionState,
    Position,
    commit_of,
    state_of,
)
from flows.stores.manifest import Commit, LakeFile, fold

READERS_GRACE = timedelta(hours=1)
"""How long replaced files stay for those who opened the old list."""


def now_in(file: LakeFile, joined: Mapping[str, LakeFile]) -> LakeFile:
    """The file in which the rows of a landed one stand now."""
    while file.path in joined:
        file = joined[file.path]
    return file


class LedgerReader:
    """The questions that are asked of a ledger; none of them changes anything."""

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection

    def positions(self, entity: str) -> Position:
        """How far `entity` (the raw table's name) was landed."""
        rows = self._rows("SELECT positions, version, token FROM ops.position WHERE entity = %s", entity)
        return Position(rows[0]["positions"], rows[0]["version"], rows[0]["token"]) if rows else Position()

    def landed(self, entity: str, after: str = "") -> list[Commit]:
        """The landings of `entity` in their order; with `after`, those behind that token."""
        rows = self._rows(
            "SELECT * FROM ops.ledger WHERE table_name = %(table)s AND kind = 'land' AND sequence > "
            "coalesce((SELECT sequence FROM ops.ledger WHERE token = %(after)s), 0) ORDER BY sequence",
            {"table": entity, "after": after},
        )
        return [commit_of(row) for row in rows]

    def let_go(self, entity: str) -> set[str]:
        """Paths of the files of a raw table that went because their retention was over."""
        rows = self._rows(
            "SELECT removed FROM ops.ledger WHERE table_name = %(table)s AND kind = 'compact' "
            "AND control ? %(retired)s",
            {"table": entity, "retired": RETIRED},
        )
        return {path for row in rows for path in row["removed"]}

    def joined(self, entity: str) -> dict[str, LakeFile]:
        """Path of a file of a raw table that was joined with others → the one that has its rows since, which
        may have been joined itself (`now_in`).
        """
        rows = self._rows(
            "SELECT removed, files FROM ops.ledger WHERE table_name = %s AND kind = 'compact' "
            "AND jsonb_array_length(files) = 1",
            entity,
        )
        return {path: LakeFile.from_json(row["files"][0]) for row in rows for path in row["removed"]}

    def files(self, entity: str) -> list[LakeFile]:
        """The files that are the content of a raw table now (landings, compactions folded in)."""
        rows = self._rows("SELECT * FROM ops.ledger WHERE table_name = %s ORDER BY sequence", entity)
        return fold(commit_of(row) for row in rows)

    def states(
        self,
        tables: Iterable[str] | None = None,
        partitions: Iterable[str] | None = None,
        *,
        with_files: bool = True,
    ) -> dict[tuple[str, str], PartitionState]:
        """(table, partition) → its state, for some tables and partitions or for all.

        Without files it is what a plan compares: cheap for every partition there ever was. A partition that
        has MOVED is told where it is named, since its version goes on.
        """
        wanted = {
            "tables": None if tables is None else list(tables),
            "partitions": None if partitions is None else list(partitions),
            "moved": MOVED,
        }
        files = "s.files" if with_files else "'[]'::jsonb AS files"
        rows = self._rows(
            "SELECT s.table_name, s.partition, s.token, s.version, s.based_on, s.fingerprint, s.row_count, "
            f"s.published_at, {files}, coalesce(l.sequence, 0) AS sequence FROM ops.partition_state s "
            "LEFT JOIN ops.ledger l USING (token) "
            "WHERE (%(tables)s::text[] IS NULL OR s.table_name = ANY(%(tables)s)) "
            "AND CASE WHEN %(partitions)s::text[] IS NULL THEN s.fingerprint <> %(moved)s "
            "ELSE s.partition = ANY(%(partitions)s) END ORDER BY s.table_name, s.partition",
            wanted,
        )
        return {(row["table_name"], row["partition"]): state_of(row) for row in rows}

    def outlines(self, tables: Iterable[str] | None = None) -> list[tuple[str, str, str, int, str, Any, int]]:
        """(table, partition, token, sequence, fingerprint, based_on, rows) of what stands.

        What a plan compares; plain rows, because there is one for every partition there ever was.
        """
        with self.connection.cursor() as cursor:
            return cursor.execute(
                "SELECT s.table_name, s.partition, s.token, coalesce(l.sequence, 0), s.fingerprint, "
                "s.based_on, s.row_count FROM ops.partition_state s LEFT JOIN ops.ledger l USING (token) "
                "WHERE (%(tables)s::text[] IS NULL OR s.table_name = ANY(%(tables)s)) "
                "AND s.fingerprint <> %(moved)s",
                {"tables": None if tables is None else list(tables), "moved": MOVED},
            ).fetchall()

    def differing(self, table: str, key: str) -> list[tuple[str, str, int]]:
        """(day, token, sequence): of the commits that changed a table's content from that UTC day on, as
        their `control` says under `key`, the last one; '' for those that do not say.
        """
        with self.connection.cursor() as cursor:
            return cursor.execute(
                "SELECT DISTINCT ON (1) coalesce(left(control ->> %(key)s, 10), '') AS day, token, sequence "
                "FROM ops.ledger WHERE table_name = %(table)s AND kind IN ('build', 'publish') "
                "AND (files <> '[]' OR removed <> '[]') ORDER BY 1, 3 DESC",
                {"table": table, "key": key},
            ).fetchall()

    def row_counts(self) -> dict[str, int]:
        """Built table → its rows."""
        rows = self._rows("SELECT table_name, sum(row_count) AS rows FROM ops.partition_state GROUP BY 1")
        return {row["table_name"]: int(row["rows"]) for row in rows}

    def history(self, table: str, partition: str | None = None, after: str = "") -> list[Commit]:
        """The commits of one partition, or of all, in their order; with `after`, those behind that token."""
        rows = self._rows(
            "SELECT * FROM ops.ledger WHERE table_name = %(table)s "
            "AND (%(partition)s::text IS NULL OR partition = %(partition)s) AND sequence > "
            "coalesce((SELECT sequence FROM ops.ledger WHERE token = %(after)s), 0) ORDER BY sequence",
            {"table": table, "partition": partition, "after": after},
        )
        return [commit_of(row) for row in rows]

    def newest(self, tables: Iterable[str]) -> dict[str, str]:
        """Table → token of its newest entry, of those tables that have one."""
        rows = self._rows(
            "SELECT asked.table_name, entry.token FROM unnest(%s::text[]) AS asked (table_name) "
            "CROSS JOIN LATERAL (SELECT token FROM ops.ledger WHERE ledger.table_name = asked.table_name "
            "ORDER BY sequence DESC LIMIT 1) AS entry",
            list(tables),
        )
        return {row["table_name"]: row["token"] for row in rows}

    def sequence_of(self, token: str) -> int | None:
        """A commit's place in the ledger; None for a token it does not hold."""
        rows = self._rows("SELECT sequence FROM ops.ledger WHERE token = %s", token)
        return int(rows[0]["sequence"]) if rows else None

    def read_up_to(self, table: str, followers: Iterable[str]) -> tuple[str, int] | None:
        """Token and place of the entry of a table up to which each of its followers has read it at least;
        None where none of them notes one.
        """
        rows = self._rows(
            "SELECT l.token, l.sequence FROM ops.partition_state s "
            "JOIN ops.ledger l ON l.token = s.based_on ->> %(table)s "
            "WHERE s.table_name = ANY(%(followers)s) AND s.partition = '' ORDER BY l.sequence LIMIT 1",
            {"table": table, "followers": list(followers)},
        )
        return (rows[0]["token"], rows[0]["sequence"]) if rows else None

    def landed_windows(self, tables: Iterable[str] | None = None) -> dict[str, dict[str, LandedWindow]]:
        """Raw table → window → the landing that touched it last, and the rows all landings brought it."""
        found: dict[str, dict[str, LandedWindow]] = {}
        for row in self._rows(
            "SELECT * FROM ops.landed_window "
            "WHERE %(tables)s::text[] IS NULL OR table_name = ANY(%(tables)s) "
            "ORDER BY table_name, landed_window",
            {"tables": None if tables is None else list(tables)},
        ):
            window = LandedWindow(row["token"], row["sequence"], row["row_count"])
            found.setdefault(row["table_name"], {})[row["landed_window"]] = window
        return found

    def is_there(self) -> bool:
        """Whether this warehouse was ever prepared for a run."""
        return bool(self._rows("SELECT 1 WHERE to_regclass('ops.ledger') IS NOT NULL"))

    def committed(self, tokens: Iterable[str]) -> set[str]:
        """Which of these tokens the ledger holds: asked after an answer got lost, never assumed."""
        rows = self._rows("SELECT token FROM ops.ledger WHERE token = ANY(%s)", list(tokens))
        return {row["token"] for row in rows}

    def named_paths(self, since: datetime, grace: timedelta = READERS_GRACE) -> Collection[str]:
        """Lake paths that must stay: those in force, and those replaced after `since` or within the grace."""
        rows = self._rows(
            """
            SELECT file ->> 'path' AS path FROM ops.stream_batch
            UNION ALL
            SELECT file ->> 'path' AS path FROM ops.ledger, jsonb_array_elements(files) AS file
            EXCEPT
            SELECT path FROM ops.ledger, jsonb_array_elements_text(removed) AS path
            WHERE committed_at < least(%(since)s, clock_timestamp() - %(grace)s)
            """,
            {"since": since, "grace": grace},
        )
        return {row["path"] for row in rows}

    def _rows(self, query: str, parameters: Any = None) -> list[dict[str, Any]]:
        if parameters is not None and not isinstance(parameters, dict):
            parameters = (parameters,)
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters).fetchall()
