"""The statements of a publishing transaction: leaves that come and go, rows that are written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection, errors, sql

from flows.stores.locks import refuse_while_dumped
from flows.stores.publication import Streamed
from flows.stores.warehouse import UNPUBLISHED, PostgresColumn
from flows.stores.warehouse_errors import WarehouseError
from transforms.contract import Table, Write
from warehouse_ddl.statements import bounds, home

_GONE_SECONDS = 30.0
_NOTHING = Streamed()


@dataclass
class Changes:
    """Rows to be written to one table, and the unpublished tables that hold them ('' for none)."""

    new_rows: int = 0
    changed_rows: int = 0
    gone_rows: int = 0
    new: str = ""
    changed: str = ""
    gone: str = ""


@dataclass(frozen=True)
class Written:
    """Rows that were written."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.inserted + self.updated + self.deleted


def leaves(connection: Connection[Any], table: Table) -> set[str]:
    """The names of the partitions attached to a published table."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (home(table), table.name),
    ).fetchall()
    return {row[0] for row in rows}


def takes_streams(table: Table) -> bool:
    """Whether streams may add rows to a published table, beside what publishes it."""
    return table.write is Write.APPEND and table.is_partitioned_in_postgres


def hot_partitions(connection: Connection[Any], name: str) -> set[str]:
    """The partitions of a table into which the stream has written since they were sealed."""
    rows = connection.execute(
        "SELECT partition FROM ops.hot_partition WHERE table_name = %s AND sealed_at IS NULL", (name,)
    ).fetchall()
    return {row[0] for row in rows}


def streamed_partitions(connection: Connection[Any], name: str) -> set[str]:
    """The partitions of a table into which the stream ever wrote, sealed or not."""
    rows = connection.execute(
        "SELECT partition FROM ops.hot_partition WHERE table_name = %s AND since IS NOT NULL", (name,)
    ).fetchall()
    return {row[0] for row in rows}


def counted_partitions(connection: Connection[Any], table: Table) -> set[str]:
    """The partitions of a windowed table that the stream ever counted: only its keeper writes into them."""
    return streamed_partitions(connection, table.name) if table.windowed is not None else set()


def reopen(connection: Connection[Any], table: Table, partition: str) -> None:
    """The lake's content of a counted partition is another now: it is to be compared, and corrected."""
    connection.execute(
        "UPDATE ops.hot_partition SET sealed_at = NULL WHERE (table_name, partition) = (%s, %s)",
        (table.name, partition),
    )


def note_written(connection: Connection[Any], table: Table, partitions: Iterable[str], by: str) -> None:
    """Others than a stream wrote rows into these partitions: streams that know what stood there, or that
    nothing did, ask again (`flows.streaming.others`). A partition does not become the stream's by that.

    To be called last in the transaction that writes: a stream that commits waits for what is noted.
    """
    if not takes_streams(table):
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO ops.hot_partition (table_name, partition, since, sealed_at, last_batch) "
            "VALUES (%s, %s, NULL, clock_timestamp(), %s) "
            "ON CONFLICT (table_name, partition) DO UPDATE SET last_batch = excluded.last_batch",
            [(table.name, partition, by) for partition in sorted(partitions)],
        )


def forget_written(connection: Connection[Any], table: Table, partition: str) -> None:
    """There is no such leaf any more: whoever wrote it, nobody is to compare or seal it."""
    connection.execute(
        "DELETE FROM ops.hot_partition WHERE (table_name, partition) = (%s, %s)", (table.name, partition)
    )


def lock_for_swap(connection: Connection[Any], table: Table) -> None:
    """Take the lock a DETACH needs before anything else, so that nobody waits for half of a swap.

    Raises Blocked while a backup is being taken.
    """
    refuse_while_dumped(connection)
    connection.execute(
        sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(home(table), table.name))
    )


def detach(connection: Connection[Any], table: Table, partition: str, away: str) -> None:
    """Take a leaf out of the published table and put it among the unpublished ones under another name."""
    leaf = table.leaf(partition)
    published = sql.Identifier(home(table), leaf)
    connection.execute(
        sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(
            sql.Identifier(home(table), table.name), published
        )
    )
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(published, sql.Identifier(away)))
    connection.execute(
        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
            sql.Identifier(home(table), away), sql.Identifier(UNPUBLISHED)
        )
    )


def attach(connection: Connection[Any], table: Table, partition: str, standing: str) -> None:
    """Make an unpublished table a leaf. Looks at no row: its CHECK proves the bounds, indexes are there."""
    leaf = table.leaf(partition)
    published = sql.Identifier(home(table), leaf)
    connection.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            sql.Identifier(UNPUBLISHED, standing), sql.Identifier(leaf)
        )
    )
    connection.execute(
        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
            sql.Identifier(UNPUBLISHED, leaf), sql.Identifier(home(table))
        )
    )
    low, high = map(sql.Literal, bounds(table, partition))
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            sql.Identifier(home(table), table.name), published, low, high
        )
    )
    connection.execute(sql.SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(published))


def write(
    connection: Connection[Any],
    table: Table,
    target: str,
    columns: Sequence[PostgresColumn],
    changes: Changes,
    *,
    partition: str = "",
) -> Written:
    """Delete, update and insert exactly these rows.

    Raises WarehouseError when the target holds other rows than the lake says were published; the transaction
    must be given up then. Into a hot `partition` the stream may have written the same rows before: there only
    what is missing is inserted, and what is gone already is no surprise. It may have become hot since the
    transaction began.
    """
    names = [column.name for column in columns]
    others = [name for name in names if name not in table.key]
    into = sql.Identifier(home(table), target)
    same_key = _joined(
        " AND ", (sql.SQL("t.{n} = u.{n}").format(n=sql.Identifier(name)) for name in table.key)
    )
    listed = _joined(", ", map(sql.Identifier, names))
    deleted = updated = inserted = 0
    if changes.gone:
        deleted = connection.execute(
            sql.SQL("DELETE FROM {} t USING {} u WHERE {}").format(into, _source(changes.gone), same_key)
        ).rowcount
    if changes.changed:
        updated = connection.execute(
            sql.SQL("UPDATE {} t SET {} FROM {} u WHERE {}").format(
                into,
                _joined(", ", (sql.SQL("{n} = u.{n}").format(n=sql.Identifier(name)) for name in others)),
                _source(changes.changed),
                same_key,
            )
        ).rowcount
    if changes.new:
        try:
            inserted = connection.execute(
                sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}{}").format(
                    into,
                    listed,
                    listed,
                    _source(changes.new),
                    sql.SQL(" ON CONFLICT DO NOTHING" if takes_streams(table) else ""),
                )
            ).rowcount
        except errors.UniqueViolation:
            # Its own words quote the key.
            there = f"of {changes.new_rows} rows to insert, some were there already"
            raise _is_another(table, target, there) from None
    is_exact = (deleted, updated, inserted) == (changes.gone_rows, changes.changed_rows, changes.new_rows)
    if not is_exact and partition not in hot_partitions(connection, table.name):
        raise _is_another(
            table,
            target,
            f"of {changes.gone_rows} rows to delete and {changes.changed_rows} to update, {deleted} and "
            f"{updated} were there; of {changes.new_rows} to insert, {changes.new_rows - inserted} were "
            "there already",
        )
    return Written(inserted, updated, deleted)


def _is_another(table: Table, target: str, how: str) -> WarehouseError:
    return WarehouseError(
        f"{home(table)}.{target} is not what the lake says was published: {how}. Nothing was changed. "
        f"Make it equal again with `python -m flows rebuild {table.name}`."
    )


def make_equal(
    connection: Connection[Any],
    table: Table,
    columns: Sequence[PostgresColumn],
    standing: str,
    windows: Sequence[str],
    *,
    target: str = "",
    spared: Streamed = _NOTHING,
) -> Written:
    """Make a published table equal to an unpublished one whatever it holds, writing only rows that differ.

    `windows` limits this to rows of these windows; '' among them means all rows. `target` is the leaf that
    holds them, where there is one. What is `spared` is neither written nor removed.
    """
    names = [column.name for column in columns]
    into, source = sql.Identifier(home(table), target or table.name), _source(standing)
    spare = _Spare(spared, columns)
    same_key = _joined(
        " AND ", (sql.SQL("t.{n} = u.{n}").format(n=sql.Identifier(name)) for name in table.key)
    )
    listed = _joined(", ", map(sql.Identifier, names))
    deleted = connection.execute(
        sql.SQL("DELETE FROM {} t WHERE {} AND NOT EXISTS (SELECT FROM {} u WHERE {}){}").format(
            into, _scope(table, windows), source, same_key, spare.but_not("t")
        ),
        spare.values,
    ).rowcount
    others = [name for name in names if name not in table.key]
    updated = 0
    if others:
        ours = _joined(", ", (sql.SQL("t.{}").format(sql.Identifier(name)) for name in others))
        theirs = _joined(", ", (sql.SQL("u.{}").format(sql.Identifier(name)) for name in others))
        updated = connection.execute(
            sql.SQL("UPDATE {} t SET {} FROM {} u WHERE {} AND ROW({}) IS DISTINCT FROM ROW({}){}").format(
                into,
                _joined(", ", (sql.SQL("{n} = u.{n}").format(n=sql.Identifier(name)) for name in others)),
                source,
                same_key,
                ours,
                theirs,
                spare.but_not("t"),
            ),
            spare.values,
        ).rowcount
    inserted = connection.execute(
        sql.SQL(
            "INSERT INTO {} ({}) SELECT {} FROM {} u WHERE NOT EXISTS (SELECT FROM {} t WHERE {}){}"
        ).format(into, listed, listed, source, into, same_key, spare.but_not("u")),
        spare.values,
    ).rowcount
    return Written(inserted, updated, deleted)


class _Spare:
    """Records that are left alone, as a condition of a statement and its parameters."""

    def __init__(self, spared: Streamed, columns: Sequence[PostgresColumn]) -> None:
        types = {column.name: column.type for column in columns}
        self._names = spared.identity if spared.values else ()
        self._types = [types[name] for name in self._names]
        self.values = [list(column) for column in zip(*spared.values, strict=True)] or None

    def but_not(self, alias: str) -> sql.Composable:
        if not self._names:
            return sql.SQL("")
        arrays = _joined(", ", (sql.SQL("%s::{}[]").format(sql.Identifier(name)) for name in self._types))
        names = _joined(", ", map(sql.Identifier, self._names))
        same = _joined(
            " AND ",
            (
                sql.SQL("s.{n} = {a}.{n}").format(n=sql.Identifier(name), a=sql.Identifier(alias))
                for name in self._names
            ),
        )
        form = sql.SQL(" AND NOT EXISTS (SELECT FROM unnest({}) AS s({}) WHERE {})")
        return form.format(arrays, names, same)


def wait_until_gone(connection: Connection[Any], pid: int) -> None:
    """Wait until a session whose answer was lost has ended: only then is its commit sure, or its rollback."""
    until = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < until:
        row = connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
        if row is None:
            return
        time.sleep(0.05)
    raise WarehouseError(
        f"The connection was cut while publishing, and its session {pid} is still at work in the warehouse. "
        "Whether it commits is not known yet; run again in a minute: nothing is published twice."
    )


def _scope(table: Table, windows: Sequence[str]) -> sql.Composable:
    if table.partition is None or "" in windows:
        return sql.SQL("true")
    by = sql.Identifier(table.partition.by)
    ranges = []
    for window in windows:
        low, high = map(sql.Literal, bounds(table, window))
        ranges.append(sql.SQL("(t.{by} >= {low} AND t.{by} < {high})").format(by=by, low=low, high=high))
    return sql.SQL("(") + _joined(" OR ", ranges) + sql.SQL(")")


def _joined(separator: LiteralString, parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(separator).join(parts)


def _source(name: str) -> sql.Identifier:
    return sql.Identifier(UNPUBLISHED, name)
