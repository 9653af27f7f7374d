"""What a published table holds of streams while it is built anew: the lake does not know all of it yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection, sql

from flows.stores import apply
from flows.stores.warehouse import UNPUBLISHED, Warehouse
from transforms.contract import Table
from transforms.engine import quoted
from transforms.postgres_types import postgres_type
from warehouse_ddl.statements import home

_AS_THEY_ARE = {
    *("bool", "int2", "int4", "int8", "float4", "float8"),
    *("text", "varchar", "bytea", "date", "timestamp", "timestamptz"),
}
"""Types of PostgreSQL that DuckDB reads as what they are; the others come as texts."""


def lock(connection: Connection[Any], table: Table) -> None:
    """Let no (other) stream commit rows of the table before this transaction ends. To be called before
    anything else in it, or two could wait for each other.
    """
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('stream:rows:' || %s, 0))", (table.name,)
    )


def partitions(connection: Connection[Any], table: Table) -> set[str]:
    """Those of its leaves of which only PostgreSQL knows the content: rows that are not built yet, and of
    counts their revisions.
    """
    if table.windowed is not None:
        there = apply.counted_partitions(connection, table)
    else:
        there = apply.hot_partitions(connection, table.name) if apply.takes_streams(table) else set()
    leaves = apply.leaves(connection, table)
    return {partition for partition in there if table.leaf(partition) in leaves}


def unbuilt_rows(connection: Connection[Any], table: Table, built: Mapping[str, int]) -> int:
    """How many rows its leaves hold more than what was built; `built`: partition → rows."""
    count = sql.SQL("SELECT count(*) FROM {}")
    found = 0
    for partition in partitions(connection, table):
        leaf = sql.Identifier(home(table), table.leaf(partition))
        row = connection.execute(count.format(leaf)).fetchone()
        found += max(0, (row[0] if row else 0) - built.get(partition, 0))
    return found


def content(
    warehouse: Warehouse,
    connection: Connection[Any],
    session: DuckDBPyConnection,
    table: Table,
    partition: str,
) -> DuckDBPyRelation:
    """The rows of a leaf in the columns and types that the table declares now: a column that is not there yet
    is null, and so is a value that the type can't hold.
    """
    there = {column.name: column.type for column in warehouse.columns(connection, home(table), table.name)}
    listed = [
        quoted(name) if kind in _AS_THEY_ARE else f"{quoted(name)}::text as {quoted(name)}"
        for name, kind in there.items()
    ]
    stood = f"stood_{table.leaf(partition)}"
    query = f"select {', '.join(listed)} from {quoted(home(table))}.{quoted(table.leaf(partition))}"
    with warehouse.reading(query) as reader:
        session.from_arrow(reader).create(stood)
    casts = (
        f"try_cast({quoted(column.name) if column.name in there else 'null'} as {column.type}) "
        f"as {quoted(column.name)}"
        for column in table.columns
    )
    return session.table(stood).project(", ".join(casts))


def follow(
    connection: Connection[Any], table: Table, names: Iterable[str], standing: Mapping[str, str]
) -> None:
    """Bring what streams have changed since into the leaves that are to take the place of those they write
    into, in the caller's transaction and under `lock`. They add rows, take some out, and put copies that
    count in the place of others.

    `names` are the columns that both have; `standing`: partition → unpublished table.
    """
    if table.windowed is not None:  # its keeper waits for the lock `publish`, which the caller has
        return
    columns = [column for column in table.columns if column.name in {*names}]
    listed = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    cast = {
        column.name: sql.SQL("o.{}::{}").format(sql.Identifier(column.name), sql.SQL(postgres_type(column)))
        for column in columns
    }
    told_by = dict.fromkeys((*table.key, *(name for name in table.tie_break if name in cast)))
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = n.{}").format(cast[name], sql.Identifier(name)) for name in told_by
    )
    for partition in sorted(partitions(connection, table)):
        parts = {
            "new": sql.Identifier(UNPUBLISHED, standing[partition]),
            "old": sql.Identifier(home(table), table.leaf(partition)),
            "listed": listed,
            "cast": sql.SQL(", ").join(cast[column.name] for column in columns),
            "same": same,
        }
        for statement in (
            sql.SQL("DELETE FROM {new} n WHERE NOT EXISTS (SELECT FROM {old} o WHERE {same})"),
            sql.SQL(
                "INSERT INTO {new} ({listed}) SELECT {cast} FROM {old} o "
                "WHERE NOT EXISTS (SELECT FROM {new} n WHERE {same})"
            ),
        ):
            connection.execute(statement.format(**parts))
