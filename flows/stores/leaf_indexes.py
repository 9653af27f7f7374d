"""The declared indexes of a partitioned table: each leaf has its own, its parent only the key.

An index that stands on the parent comes with every leaf from its first row on. A leaf that the stream writes
into has its key alone, which is what a row costs there, and gets the others when it is sealed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import Connection, sql

from transforms.contract import MAX_IDENTIFIER_BYTES, Table
from warehouse_ddl.statements import home

_UNIQUE_BYTES = 6
_BUILD = "SET LOCAL maintenance_work_mem = '256MB'; SET LOCAL max_parallel_maintenance_workers = 1"


def build_statements(
    table: Table, schema: str, relation: str, indexes: Iterable[str] | None = None
) -> list[sql.Composed]:
    """CREATE INDEX for the declared indexes (or these of them) of one leaf, each under a name of its own."""
    return [
        sql.SQL("CREATE INDEX {} ON {} ({})").format(
            sql.Identifier(_stem(index) + secrets.token_hex(_UNIQUE_BYTES)),
            sql.Identifier(schema, relation),
            _columns(table.indexes[index]),
        )
        for index in (table.indexes if indexes is None else indexes)
    ]


def missing(connection: Connection[Any], table: Table, leaves: Iterable[str]) -> dict[str, list[str]]:
    """Published leaf → declared indexes that it has not; none for leaves that have all."""
    wanted = list(leaves)
    if not wanted or not table.indexes:
        return {}
    rows = connection.execute(
        "SELECT leaf.relname, array_remove(array_agg(index.relname), NULL) "
        "FROM pg_class leaf LEFT JOIN pg_index i ON i.indrelid = leaf.oid AND i.indisvalid "
        "LEFT JOIN pg_class index ON index.oid = i.indexrelid "
        "WHERE leaf.relnamespace = to_regnamespace(%s) AND leaf.relname = ANY(%s) GROUP BY 1 ORDER BY 1",
        (home(table), wanted),
    ).fetchall()
    lacking = {
        leaf: [index for index in table.indexes if not any(name.startswith(_stem(index)) for name in there)]
        for leaf, there in rows
    }
    return {leaf: indexes for leaf, indexes in lacking.items() if indexes}


def complete(connection: Connection[Any], table: Table, leaves: Iterable[str]) -> dict[str, list[str]]:
    """Build what published leaves lack, one leaf a transaction; returns what `missing` gave.

    Who reads a leaf does not wait, who writes into it waits for its build (about 1 s a million rows and
    index).
    """
    lacking = missing(connection, table, leaves)
    for leaf, indexes in lacking.items():
        with connection.transaction():
            connection.execute(_BUILD)
            for statement in build_statements(table, home(table), leaf, indexes):
                connection.execute(statement)
    return lacking


def _stem(index: str) -> str:
    """What the names of a declared index begin with on every leaf."""
    tail = "__leaf_"
    return (
        index.encode()[: MAX_IDENTIFIER_BYTES - len(tail) - 2 * _UNIQUE_BYTES].decode(errors="ignore") + tail
    )


def _columns(columns: Sequence[str]) -> sql.Composed:
    """The columns of an index, each with its ` desc` where it is declared so."""
    parts: list[sql.Composable] = []
    for column in columns:
        name, _, order = column.partition(" ")
        parts.append(sql.Identifier(name) + sql.SQL(" DESC" if order.strip() == "desc" else ""))
    return sql.SQL(", ").join(parts)
