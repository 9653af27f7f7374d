"""What stands in PostgreSQL of a published table, as far as a model says how it should be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import Connection

from flows.stores import apply, leaf_indexes
from transforms.contract import Table
from warehouse_ddl.migrate import ActualColumn, ActualTable
from warehouse_ddl.statements import ForeignKey, home

_TABLE = "to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))"


def standing(connection: Connection[Any], table: Table, sealed_leaves: Iterable[str]) -> ActualTable | None:
    """The table as it is; None where there is none. `sealed_leaves` should have all declared indexes."""
    sealed = list(sealed_leaves)

    def rows(query: str) -> list[tuple[Any, ...]]:
        names = {"schema": home(table), "name": table.name}
        return connection.execute(query.format(table=_TABLE).encode(), names).fetchall()

    columns = rows(
        "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, col_description(attrelid, attnum) "
        "FROM pg_attribute WHERE attrelid = {table} AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    if not columns:
        return None
    key = rows(
        "SELECT a.attname FROM pg_index i "
        "CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, place) "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
        "WHERE i.indrelid = {table} AND i.indisprimary ORDER BY k.place"
    )
    by = rows(
        "SELECT a.attname FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid "
        "AND a.attnum = p.partattrs[0] WHERE p.partrelid = {table}"
    )
    foreign_keys = rows(
        "SELECT conname, a.attname, n.nspname, c.relname, b.attname FROM pg_constraint f "
        "JOIN pg_class c ON c.oid = f.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1] "
        "JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = f.confkey[1] "
        "WHERE f.contype = 'f' AND f.conrelid = {table} AND cardinality(f.conkey) = 1"
    )
    ((comment,),) = rows("SELECT obj_description({table}, 'pg_class')")
    return ActualTable(
        tuple(ActualColumn(name, type_, nullable, comment) for name, type_, nullable, comment in columns),
        key=tuple(row[0] for row in key),
        partitioned_by=by[0][0] if by else None,
        leaves=tuple(sorted(apply.leaves(connection, table))),
        indexes=leaf_indexes.standing(connection, table, [table.name]).get(table.name, {}),
        foreign_keys=tuple(ForeignKey(*row) for row in foreign_keys),
        comment=comment,
        bare_leaves=leaf_indexes.missing(connection, table, sealed) if by else {},
        old_indexes=leaf_indexes.undeclared(connection, table, sealed) if by else {},
    )
