"""Who the pipeline is in PostgreSQL: roles that somebody made who may, and a session that acts as loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Connection, errors, sql

from flows.errors import FlowsError
from warehouse_ddl.files import bootstrap, bootstrap_fingerprint
from warehouse_ddl.statements import SERVED, UNPUBLISHED

ROLES = ("owner", "loader", "pii_reader", "reader")
"""The strongest first."""


class RolesError(FlowsError):
    """The login may not do what a run needs; the message says who has to give it that."""


@dataclass(frozen=True)
class Member:
    """A login and the strongest of the roles that it is a member of."""

    login: str
    role: str


def act(connection: Connection[Any]) -> None:
    """Act as loader from now on if this login is a member of it: what it makes belongs to loader then, and
    another login can go on with it tomorrow. A superuser stays who it is (as in the sandbox).
    """
    row = connection.execute(
        "SELECT NOT rolsuper AND pg_has_role(oid, to_regrole('loader'), 'member') FROM pg_roles "
        "WHERE rolname = session_user"
    ).fetchone()
    if row and row[0]:
        connection.execute("SET ROLE loader")


def lay(connection: Connection[Any]) -> bool:
    """Make schemas, roles and ops tables, or complete them; whether this login may. One that is a loader only
    finds them made, and as they have to be, or is told who must make them (RolesError).

    To be called under the bootstrap lock.
    """
    fingerprint = bootstrap_fingerprint()
    if not _may(connection):
        _compare(connection, fingerprint)
        return False
    connection.execute("RESET ROLE")
    try:
        for statement in bootstrap():
            connection.execute(statement.encode())
    except errors.InsufficientPrivilege as error:
        raise RolesError(
            f"The login {_login(connection)} may not make the warehouse's schemas and roles "
            f"({error.diag.message_primary}). Let an administrator run `python -m flows roles` once, with "
            "ANALYTICS_WAREHOUSE_DSN naming a superuser, then `grant loader to` this login."
        ) from None
    connection.execute(
        "INSERT INTO ops.bootstrap AS b (fingerprint) VALUES (%s) ON CONFLICT (is_only) DO UPDATE "
        "SET fingerprint = excluded.fingerprint, run_at = clock_timestamp() "
        "WHERE b.fingerprint <> excluded.fingerprint",
        (fingerprint,),
    )
    act(connection)
    return True


def hand_over(connection: Connection[Any]) -> list[str]:
    """Give loader what stands published or unpublished and belongs to somebody else: what a superuser made.
    Returns what changed hands. Raises RolesError for a login that may not.

    Takes a table's lock for a moment; not to be called while a run publishes.
    """
    connection.execute("RESET ROLE")
    found = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm') "
        "AND c.relowner NOT IN (to_regrole('owner'), to_regrole('loader')) ORDER BY 1, 2",
        ([*SERVED, UNPUBLISHED],),
    ).fetchall()
    try:
        with connection.transaction():
            for schema, name in found:
                connection.execute(
                    sql.SQL("ALTER TABLE {} OWNER TO loader").format(sql.Identifier(schema, name))
                )
    except errors.InsufficientPrivilege as error:
        raise RolesError(
            f"The login {_login(connection)} may not give tables to loader ({error.diag.message_primary}). "
            "Run `python -m flows roles` with ANALYTICS_WAREHOUSE_DSN naming a superuser."
        ) from None
    act(connection)
    return [f"{schema}.{name}" for schema, name in found]


def members(connection: Connection[Any]) -> list[Member]:
    """Every login that is a member of one of the roles, superusers left out, by role and name."""
    rows = connection.execute(
        "SELECT l.rolname, (SELECT w.role FROM unnest(%s::text[]) WITH ORDINALITY AS w (role, place) "
        "WHERE pg_has_role(l.oid, to_regrole(w.role), 'member') ORDER BY place LIMIT 1) AS role "
        "FROM pg_roles l WHERE l.rolcanlogin AND NOT l.rolsuper ORDER BY 2, 1",
        ([*ROLES],),
    ).fetchall()
    return [Member(login, role) for login, role in rows if role is not None]


def _may(connection: Connection[Any]) -> bool:
    """Whether the login is a superuser, a member of owner, or the first who comes."""
    row = connection.execute(
        "SELECT rolsuper OR coalesce(pg_has_role(oid, to_regrole('owner'), 'member'), true) "
        "OR to_regclass('ops.ledger') IS NULL FROM pg_roles WHERE rolname = session_user"
    ).fetchone()
    return bool(row and row[0])


def _compare(connection: Connection[Any], fingerprint: str) -> None:
    try:
        row = connection.execute("SELECT fingerprint FROM ops.bootstrap").fetchone()
    except (errors.UndefinedTable, errors.InsufficientPrivilege):
        row = None
    if row != (fingerprint,):
        raise RolesError(
            f"The warehouse's schemas and roles are not those of this version, and the login "
            f"{_login(connection)} may not change them. Let a member of owner (or a superuser) run "
            "`python -m flows roles`, then run again."
        )


def _login(connection: Connection[Any]) -> str:
    row = connection.execute("SELECT session_user").fetchone()
    return str(row[0]) if row else "?"
