"""Tables with personal data and the views that show them, masked to all who are no pii_reader.

The table stands in a schema that nobody but the pipeline may use; a view of its name in the published schema
is what people read. A view is read with its owner's rights, so readers need none on the table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from psycopg import Connection, errors, sql

from flows.failpoints import failpoint
from flows.stores import grants
from flows.stores.dependents import refuse_others, refuse_readers
from flows.stores.grants import Right
from flows.stores.warehouse import PUBLISHED
from transforms.contract import Table
from transforms.registry import Registry
from warehouse_ddl.statements import PERSONAL, home, masked_view_ddl


def hidden(connection: Connection[Any], table: Table) -> frozenset[str]:
    """The columns that the table's view masks as it stands; none where there is no such view."""
    row = connection.execute(
        "SELECT pg_get_viewdef(oid) FROM pg_class "
        "WHERE relnamespace = to_regnamespace(%s) AND relname = %s AND relkind = 'v'",
        (PUBLISHED, table.name),
    ).fetchone()
    return frozenset(re.findall(r'\bEND AS "?([^",\n]+)"?,?$', row[0], re.MULTILINE) if row else ())


def move_home(connection: Connection[Any], table: Table) -> bool:
    """Put a table with its leaves where its header now says that it stands, in the caller's transaction;
    whether it stood elsewhere.

    Rights that were given on the table itself end when it comes to hold personal data. Raises InTheWay when
    somebody's view reads it: that view would go on showing what is no longer for everybody.
    """
    elsewhere = PUBLISHED if table.personal else PERSONAL
    found = connection.execute(
        "SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relname = %s "
        "AND relkind IN ('r', 'p')",
        (elsewhere, table.name),
    ).fetchone()
    if found is None:
        return False
    refuse_readers(connection, elsewhere, table.name)
    _drop_view(connection, table)
    moved = connection.execute(
        "SELECT c.relname FROM pg_class c WHERE c.oid = %(table)s "
        "UNION ALL SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = %(table)s",
        {"table": found[0]},
    ).fetchall()
    for (name,) in moved:
        connection.execute(
            sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                sql.Identifier(elsewhere, name), sql.Identifier(home(table))
            )
        )
    if table.personal:
        _withdraw(connection, table)
    else:
        connection.execute(sql.SQL("GRANT SELECT ON {} TO reader").format(_at_home(table)))
    failpoint("masking.moved")
    return True


def take_off(connection: Connection[Any], table: Table) -> Sequence[Right]:
    """Drop the view of a table that is about to change; `show` makes it anew, and is given what this returns:
    who may read it. Raises InTheWay when somebody's own view reads it.
    """
    if not table.personal:
        return ()
    refuse_others(connection, PUBLISHED, table.name)
    rights = grants.held(connection, PUBLISHED, table.name)
    _drop_view(connection, table)
    return rights


def show(
    connection: Connection[Any],
    table: Table,
    registry: Registry | None = None,
    rights: Sequence[Right] = (),
) -> bool:
    """Make the view what the model says, in the caller's transaction; whether it was something else.

    `rights` on it are granted anew. Columns that came are added in place. Raises InTheWay when that is not
    enough and somebody's own view reads it.
    """
    if not table.personal:
        return False
    order = _in_their_order(connection, table)
    statements = masked_view_ddl(table, registry, order)
    fingerprint = hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16]
    there = connection.execute(
        "SELECT fingerprint FROM ops.view_definition WHERE view_name = %s "
        "AND to_regclass(format('%%I.%%I', %s::text, view_name)) IS NOT NULL",
        (table.name, PUBLISHED),
    ).fetchone()
    if there == (fingerprint,):
        return False
    try:
        with connection.transaction():
            connection.execute(statements[0].encode())
    except errors.InvalidTableDefinition:
        rights = take_off(connection, table)
        connection.execute(statements[0].encode())
    for statement in statements[1:]:
        connection.execute(statement.encode())
    grants.give(connection, PUBLISHED, table.name, rights)
    connection.execute(
        "INSERT INTO ops.view_definition VALUES (%s, %s) "
        "ON CONFLICT (view_name) DO UPDATE SET fingerprint = excluded.fingerprint",
        (table.name, fingerprint),
    )
    return True


def _in_their_order(connection: Connection[Any], table: Table) -> list[str]:
    """The declared columns as they stand in the table: what was added later stands last."""
    rows = connection.execute(
        "SELECT attname FROM pg_attribute "
        "WHERE attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND attnum > 0 "
        "AND NOT attisdropped AND attname = ANY(%s) ORDER BY attnum",
        (home(table), table.name, [column.name for column in table.columns]),
    ).fetchall()
    return [name for (name,) in rows]


def _withdraw(connection: Connection[Any], table: Table) -> None:
    """Take every right on the table from everybody but its owner."""
    rows = connection.execute(
        "SELECT DISTINCT r.rolname FROM pg_class c CROSS JOIN aclexplode(c.relacl) a "
        "LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee <> c.relowner "
        "AND c.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (home(table), table.name),
    ).fetchall()
    for (who,) in rows:
        whom = sql.SQL("PUBLIC") if who is None else sql.Identifier(who)
        connection.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(_at_home(table), whom))


def _drop_view(connection: Connection[Any], table: Table) -> None:
    there = connection.execute(
        "SELECT FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relname = %s AND relkind = 'v'",
        (PUBLISHED, table.name),
    ).fetchone()
    if there is not None:
        connection.execute(sql.SQL("DROP VIEW {}").format(sql.Identifier(PUBLISHED, table.name)))


def _at_home(table: Table) -> sql.Identifier:
    return sql.Identifier(home(table), table.name)
