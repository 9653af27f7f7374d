"""The content of a table in the partitions that its header has come to name: the same rows in other files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from duckdb import DuckDBPyConnection
from psycopg import Connection

from flows.failpoints import failpoint
from flows.spans import partition_expression
from flows.stores.lake import Lake, partition_folder
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.ledger_rows import MOVED
from flows.stores.locks import forget
from flows.stores.manifest import Commit
from transforms.contract import Table
from transforms.engine import quoted, text_literal
from warehouse_ddl.statements import home

_WHOLE = ""
_PLACE = "_partition"


@dataclass(frozen=True)
class Layout:
    """Files that were written, and the entries that put them in the place of the old ones.

    `states` is the table's content from `enter` on. `homeless` are rows that have no value in the column by
    which the table is partitioned now: they are in none of the files. `left` are partitions that streams have
    noted, of which nothing is to remain.
    """

    table: Table
    states: tuple[PartitionState, ...]
    commits: tuple[tuple[Commit, int, bool], ...]
    homeless: int
    left: tuple[str, ...] = ()

    def enter(self, ledger: Ledger) -> None:
        """Make it true, in the caller's transaction; `finish` follows its commit. Raises Conflict."""
        for commit, version, is_published in self.commits:
            ledger.commit(commit, version=version, published=is_published)
        gone = [commit.partition for commit, *_ in self.commits if commit.fingerprint == MOVED]
        gone += self.left
        forget(ledger.connection, self.table.name, gone)
        for name in ("hot_partition", "partition_profile"):
            ledger.connection.execute(
                f"DELETE FROM ops.{name} WHERE table_name = %s AND partition = ANY(%s)".encode(),
                (self.table.name, gone),
            )

    def finish(self, ledger: Ledger, lake: Lake) -> None:
        """The manifest lines."""
        failpoint("layout.committed")
        ledger.finish(lake, [commit for commit, *_ in self.commits])


def is_other(connection: Connection[Any], table: Table) -> bool:
    """Whether files of a table stand in partitions by another column, or of another length, than are its own
    now; or streams have written into such that no run has built yet, of which the lake has no files.
    """
    folder = partition_folder(table)
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM ops.partition_state, jsonb_path_query(files, '$[0].path') AS path "
        "WHERE table_name = %s AND split_part(split_part(path #>> '{}', '/', 3), '=', 1) "
        "<> coalesce(%s, split_part(path #>> '{}', '/', 3)))",
        (table.name, folder),
    ).fetchone()
    return bool(row and row[0]) or bool(_left(connection, table))


def _left(connection: Connection[Any], table: Table) -> tuple[str, ...]:
    """The partitions that streams have noted and that are none of the table's now."""
    rows = connection.execute(
        "SELECT h.partition, a.attname::text FROM ops.hot_partition h LEFT JOIN pg_partitioned_table p "
        "ON p.partrelid = to_regclass(format('%%I.%%I', %s::text, h.table_name)) "
        "LEFT JOIN pg_attribute a ON (a.attrelid, a.attnum) = (p.partrelid, p.partattrs[0]) "
        "WHERE h.table_name = %s ORDER BY 1",
        (home(table), table.name),
    ).fetchall()
    own = table.partition
    if own is None:
        return tuple(key for key, _ in rows)
    windows = [(key, by) for key, by in rows if own.is_window(key)]
    return tuple(key for key, by in windows if by != own.by or own.key(own.span(key)[0]) != key)


def arranged(ledger: Ledger, lake: Lake, table: Table) -> Layout:
    """Write the table's content as its partitions are now; nobody sees it yet, and who gives it up leaves
    files that the next run sweeps. To be called under the table's locks `build` and `publish`.

    What stands keeps the fingerprint that it had: the next build finds it due, and writes what differs. So a
    window that is past its retention, of which the source may be gone, keeps its rows.
    """
    folder = partition_folder(table)
    full = [state for state in ledger.states([table.name]).values() if state.files]
    others = [state for state in full if _folder(state) != folder]
    # Where some stand as they are to, they are the whole content: an older version left the others beside.
    states = [state for state in full if _folder(state) == folder]
    moving = others if not states else []
    found: dict[str, list[PartitionState]] = {}
    homeless = 0
    commits: list[tuple[Commit, int, bool]] = []
    with lake.duckdb() as session:
        for state in moving:
            for window, rows in _windows(session, lake, table, [state]).items():
                if window is None:
                    homeless += rows
                else:
                    found.setdefault(window, []).append(state)
        known = {window: state for (_, window), state in ledger.states([table.name], list(found)).items()}
        for window, parts in sorted(found.items()):
            before = known.get(window, PartitionState(table.name, window))
            placed = _placed(session, lake, table, parts)
            source = session.sql(
                f"select * exclude ({_PLACE}) from ({placed}) where {_PLACE} = {text_literal(window)} "
                f"order by {_order(session, placed, table)}"
            )
            name = _name(before, parts)
            by = table.partition.by if table.partition else None
            file = lake.write(table.layer, table.name, folder, window, name, source, measured=by)
            is_published = any(part.published_at is not None for part in parts)
            prints = {part.fingerprint for part in parts}
            commit = _commit(table, before, name, prints.pop() if len(prints) == 1 else "")
            commit = replace(commit, add=(file,), row_count=file.rows)
            commits.append((commit, before.version, is_published))
            at = max((part.published_at for part in parts if part.published_at), default=None)
            states.append(replace(before, files=(file,), row_count=file.rows, published_at=at))
        for state in others:
            if state.partition not in found:
                is_marker = state.partition == _WHOLE and table.partition is not None
                name = _name(state, full)
                commit = _commit(table, state, name, state.fingerprint if is_marker else MOVED)
                commits.append((commit, state.version, False))
    failpoint("layout.written")
    return Layout(table, tuple(states), tuple(commits), homeless, _left(ledger.connection, table))


def _folder(state: PartitionState) -> str | None:
    """The folder column of its files."""
    *_, folder, _ = state.files[0].path.split("/")
    return folder.partition("=")[0] if "=" in folder else None


def _commit(table: Table, state: PartitionState, name: str, fingerprint: str) -> Commit:
    """An entry that takes all files of a partition away."""
    return Commit(
        token=f"move-{table.name}-{state.partition}-{name}",
        kind="publish" if table.is_published else "build",
        layer=table.layer.value,
        table=table.name,
        partition=state.partition,
        remove=tuple(file.path for file in state.files),
        based_on={} if fingerprint == MOVED else state.based_on,
        fingerprint=fingerprint,
    )


def _name(state: PartitionState, parts: Sequence[PartitionState]) -> str:
    paths = sorted(file.path for part in parts for file in part.files)
    return hashlib.sha256(f"{state.version} {paths}".encode()).hexdigest()[:20]


def _windows(
    session: DuckDBPyConnection, lake: Lake, table: Table, parts: Sequence[PartitionState]
) -> dict[str | None, int]:
    """Window → rows of these partitions; None for rows that have no place."""
    query = f"select {_PLACE}, count(*) from ({_placed(session, lake, table, parts)}) group by all"
    return dict(session.execute(query).fetchall())


def _placed(session: DuckDBPyConnection, lake: Lake, table: Table, parts: Sequence[PartitionState]) -> str:
    """A query for the rows of these partitions as they are stored, each with the window it belongs into."""
    stored = f"select * from {lake.scan([file for part in parts for file in part.files])}"
    if table.partition is None:
        return f"select *, {text_literal(_WHOLE)} as {_PLACE} from ({stored})"
    by = table.partition.by
    if by not in session.sql(stored).columns:
        return f"select *, null::varchar as {_PLACE} from ({stored})"
    cast = f"try_cast({quoted(by)} as {table.column(by).type}) as {quoted(by)}"
    typed = f"select * replace ({cast}) from ({stored})"
    return f"select *, {partition_expression(table.partition)} as {_PLACE} from ({typed})"


def _order(session: DuckDBPyConnection, query: str, table: Table) -> str:
    """As files of this table are sorted, by those of the columns that are there."""
    names = [*([table.partition.by] if table.partition else []), *table.key]
    there = session.sql(query).columns
    return ", ".join(quoted(name) for name in names if name in there) or "all"
