"""Who the pipeline is in PostgreSQL: roles that somebody made who may, and a session that acts as loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Connection, errors, sql

from flows.errors import FlowsError
from flows.stores.rights import to_do
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
            f"The login {connection.info.user} may not make the warehouse's schemas and roles "
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


def try_to_begin(connection: Connection[Any]) -> None:
    """Raise RolesError where this login could not begin a run. What is not there is made and taken back;
    where a warehouse stands nothing is made: somebody may be at work there.

    To be called under the bootstrap lock.
    """
    with connection.transaction(force_rollback=True):
        if not _is_laid(connection):
            lay(connection)
        elif not _may(connection):
            _compare(connection, bootstrap_fingerprint())


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
            f"The login {connection.info.user} may not give tables to loader ({error.diag.message_primary}). "
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
        "FROM pg_roles WHERE rolname = session_user"
    ).fetchone()
    return bool(row and row[0]) or not _is_laid(connection)


def _is_laid(connection: Connection[Any]) -> bool:
    """Whether the ledger is there; to_regclass is refused to who may not look into its schema."""
    row = connection.execute(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'ops' AND c.relname = 'ledger'"
    ).fetchone()
    return bool(row and row[0])


def _is_loader(connection: Connection[Any]) -> bool:
    row = connection.execute(
        "SELECT coalesce(pg_has_role(session_user, to_regrole('loader'), 'member'), false)"
    ).fetchone()
    return bool(row and row[0])


def _compare(connection: Connection[Any], fingerprint: str) -> None:
    try:
        with connection.transaction():
            row = connection.execute("SELECT fingerprint FROM ops.bootstrap").fetchone()
    except errors.UndefinedTable:
        row = None
    except errors.InsufficientPrivilege as error:
        login = connection.info.user
        if _is_loader(connection):
            said = error.diag.message_primary or ""
            raise RolesError(f"The warehouse's role loader lacks a right ({said}). {to_do(said)}") from None
        raise RolesError(
            f"The login {login} is no member of loader, so it may not run the pipeline. Let an administrator "
            f"run: grant loader to {login};"
        ) from None
    if row != (fingerprint,):
        raise RolesError(
            f"The warehouse's schemas and roles are not those of this version, and the login "
            f"{connection.info.user} may not change them. Let a member of owner (or a superuser) run "
            "`python -m flows roles`, then run again."
        )
