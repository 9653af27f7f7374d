"""What others were granted on a relation that is made anew under its name: they keep it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql


@dataclass(frozen=True)
class Right:
    """One privilege on a relation, or on one of its columns; `who` is '' for everybody."""

    who: str
    privilege: str
    is_grantable: bool
    column: str | None = None


def held(connection: Connection[Any], schema: str, name: str) -> list[Right]:
    """The rights of all but its owner on a relation; none where there is no such relation."""
    rows = connection.execute(
        "SELECT coalesce(r.rolname, ''), a.privilege_type, a.is_grantable, given.attname FROM pg_class c "
        "CROSS JOIN LATERAL (SELECT NULL AS attname, c.relacl AS acl UNION ALL SELECT attname, attacl "
        "FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL AND NOT attisdropped) AS given "
        "CROSS JOIN LATERAL aclexplode(given.acl) AS a LEFT JOIN pg_roles r ON r.oid = a.grantee "
        "WHERE c.oid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND a.grantee <> c.relowner",
        (schema, name),
    ).fetchall()
    return [Right(*row) for row in rows]


def give(connection: Connection[Any], schema: str, name: str, rights: Iterable[Right]) -> None:
    """Grant them on what has that name now, in the caller's transaction; of a column that is gone nothing."""
    columns = {
        column
        for (column,) in connection.execute(
            "SELECT attname FROM pg_attribute WHERE NOT attisdropped "
            "AND attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
            (schema, name),
        ).fetchall()
    }
    for right in rights:
        if right.column is not None and right.column not in columns:
            continue
        connection.execute(
            sql.SQL("GRANT {}{} ON {} TO {}{}").format(
                sql.SQL(right.privilege),
                sql.SQL(" ({})").format(sql.Identifier(right.column)) if right.column else sql.SQL(""),
                sql.Identifier(schema, name),
                sql.Identifier(right.who) if right.who else sql.SQL("PUBLIC"),
                sql.SQL(" WITH GRANT OPTION" if right.is_grantable else ""),
            )
        )
