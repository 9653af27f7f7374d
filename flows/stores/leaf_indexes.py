"""The declared indexes of a partitioned table: each leaf has its own, its parent only the key.

An index that stands on the parent comes with every leaf from its first row on. A leaf that the stream writes
into has its key alone, which is what a row costs there, and gets the others when it is sealed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from psycopg import Connection, sql

from flows.stores.warehouse import Warehouse
from transforms.contract import MAX_IDENTIFIER_BYTES, Table
from warehouse_ddl.statements import home

_UNIQUE_BYTES = 6
_TAIL = "__leaf_"
"""What tells, in the name of an index, that it is ours and belongs to one leaf."""
_LARGE_BYTES = 8 << 20
"""From here on an index is built in parallel (`min_parallel_table_scan_size`)."""


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
    lacking = {
        leaf: [index for index in table.indexes if not any(_is(table, index, *one) for one in there.items())]
        for leaf, there in standing(connection, table, leaves).items()
    }
    return {leaf: indexes for leaf, indexes in lacking.items() if indexes}


def undeclared(connection: Connection[Any], table: Table, leaves: Iterable[str]) -> dict[str, list[str]]:
    """Published leaf → the names of those of our indexes on it that are declared no more, or otherwise."""
    old = {
        leaf: [
            name
            for name, columns in there.items()
            if _TAIL in name and not any(_is(table, index, name, columns) for index in table.indexes)
        ]
        for leaf, there in standing(connection, table, leaves).items()
    }
    return {leaf: names for leaf, names in old.items() if names}


def standing(
    connection: Connection[Any], table: Table, relations: Iterable[str]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Relation → index → its columns, as a header spells them; the primary key is none of these."""
    there: dict[str, dict[str, tuple[str, ...]]] = {relation: {} for relation in relations}
    rows = connection.execute(
        "SELECT r.relname, x.relname, array_agg(a.attname || "
        "CASE WHEN i.indoption[k.place - 1] & 1 = 1 THEN ' desc' ELSE '' END ORDER BY k.place) "
        "FROM pg_class r JOIN pg_index i ON i.indrelid = r.oid AND i.indisvalid AND NOT i.indisprimary "
        "JOIN pg_class x ON x.oid = i.indexrelid "
        "CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, place) "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
        "WHERE r.relnamespace = to_regnamespace(%s) AND r.relname = ANY(%s) GROUP BY 1, 2",
        (home(table), list(there)),
    ).fetchall()
    for relation, index, columns in rows:
        there[relation][index] = tuple(columns)
    return there


def build(
    warehouse: Warehouse, connection: Connection[Any], statements: Sequence[sql.Composed], *, is_large: bool
) -> None:
    """Run CREATE INDEX statements of one relation: two at a time on connections of their own where it is so
    large that this pays. Each is whole by itself.
    """
    if not is_large:
        for statement in statements:
            connection.execute(statement)
        return

    def beside(statement: sql.Composed) -> None:
        with warehouse.connect() as other:
            other.execute("SET maintenance_work_mem = '256MB'; SET max_parallel_maintenance_workers = 1")
            other.execute(statement)

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(beside, statements))


def complete(
    warehouse: Warehouse, connection: Connection[Any], table: Table, leaves: Iterable[str]
) -> dict[str, list[str]]:
    """Build what published leaves lack; returns what `missing` gave. Not to be called in a transaction.

    Who reads a leaf does not wait, who writes into it waits for the builds (about 1 s a million rows and
    index).
    """
    lacking = missing(connection, table, leaves)
    for leaf, indexes in lacking.items():
        size = connection.execute(
            "SELECT pg_relation_size(format('%%I.%%I', %s::text, %s::text)::regclass)", (home(table), leaf)
        ).fetchone()
        statements = build_statements(table, home(table), leaf, indexes)
        build(warehouse, connection, statements, is_large=bool(size and size[0] >= _LARGE_BYTES))
    return lacking


def drop(connection: Connection[Any], table: Table, indexes: Iterable[str]) -> None:
    """Drop indexes of leaves, in the caller's transaction: whoever reads one of them waits for its end."""
    for index in indexes:
        connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(home(table), index)))


def _is(table: Table, index: str, name: str, columns: tuple[str, ...]) -> bool:
    """Whether an index of a leaf is this declared one."""
    return name.startswith(_stem(index)) and columns == tuple(table.indexes[index])


def _stem(index: str) -> str:
    """What the names of a declared index begin with on every leaf."""
    length = MAX_IDENTIFIER_BYTES - len(_TAIL) - 2 * _UNIQUE_BYTES
    return index.encode()[:length].decode(errors="ignore") + _TAIL


def _columns(columns: Sequence[str]) -> sql.Composed:
    """The columns of an index, each with its ` desc` where it is declared so."""
    parts: list[sql.Composable] = []
    for column in columns:
        name, _, order = column.partition(" ")
        parts.append(sql.Identifier(name) + sql.SQL(" DESC" if order.strip() == "desc" else ""))
    return sql.SQL(", ").join(parts)
