"""Rows that a stream has shown, and that count less than what a batch publishes of the same record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection, sql

from flows.stores import apply
from flows.stores.warehouse import UNPUBLISHED
from transforms.contract import Table, moved
from warehouse_ddl.statements import home


@dataclass(frozen=True)
class Coming:
    """The unpublished tables with what is about to be shown in one partition ('' for none)."""

    new: Sequence[str]
    changed: str = ""
    """Rows of keys that are published: what stands there is updated, so it has to be there."""


def take_out(connection: Connection[Any], table: Table, coming: Mapping[str, Coming]) -> set[str]:
    """Delete such rows, in the caller's transaction; returns the partitions that had some.

    `coming` is by partition. Which copy counts the batch has computed; of the other one no content of the
    lake says that it has gone, since only the stream ever showed it. It stands in a hot partition, within the
    lookback. One that somebody else is taking out at this moment is left to them.
    """
    if not apply.takes_streams(table) or table.partition is None:
        return set()
    leaves = apply.leaves(connection, table)
    hot = [window for window in apply.hot_partitions(connection, table.name) if table.leaf(window) in leaves]
    found = set()
    for partition, rows in coming.items():
        start, end = table.partition.span(partition)
        low, high = moved(start, -table.lookback), moved(end, table.lookback)
        for window in sorted(hot):
            first, last = table.partition.span(window)
            if first < high and last > low:
                statements = _statements(table, window, rows)
                if sum(connection.execute(statement).rowcount for statement in statements):
                    found.add(window)
    return found


def _statements(table: Table, window: str, coming: Coming) -> Iterator[sql.Composed]:
    for name in coming.new:
        yield _statement(table, window, name, "true")
    if coming.changed:
        yield _statement(table, window, coming.changed, "coming.{by} <> shown.{by}")


def _statement(table: Table, window: str, name: str, where: LiteralString) -> sql.Composed:
    assert table.partition is not None
    by = sql.Identifier(table.partition.by)
    identity = [column for column in table.key if column != table.partition.by]

    def place(side: str) -> sql.Composed:
        columns = (sql.SQL("{}.{}").format(sql.Identifier(side), sql.Identifier(n)) for n in table.tie_break)
        return sql.SQL(", ").join(columns)

    return sql.SQL(
        "DELETE FROM {leaf} WHERE ctid = ANY (ARRAY(SELECT shown.ctid FROM {leaf} AS shown "
        "JOIN {coming} AS coming USING ({identity}) WHERE ROW({counts}) < ROW({shown}) "
        "AND abs((coming.{by} AT TIME ZONE 'UTC')::date - (shown.{by} AT TIME ZONE 'UTC')::date) <= {days} "
        "AND {where} "
        "FOR UPDATE OF shown SKIP LOCKED))"
    ).format(
        leaf=sql.Identifier(home(table), table.leaf(window)),
        coming=sql.Identifier(UNPUBLISHED, name),
        identity=sql.SQL(", ").join(map(sql.Identifier, identity)),
        counts=place("coming"),
        shown=place("shown"),
        by=by,
        days=table.lookback.days,
        where=sql.SQL(where).format(by=by),
    )
