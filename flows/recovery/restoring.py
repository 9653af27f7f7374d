"""A backup's dump, put back into a database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from flows.recovery import programs
from flows.recovery.notes import Note, take
from flows.recovery.taking import JOBS
from flows.recovery.vault import DUMP, Backup, BackupError, K, Shelf, Vault
from flows.stores import roles
from flows.stores.warehouse import Warehouse, readable_errors
from warehouse_ddl.files import bootstrap
from warehouse_ddl.statements import LASTING, SCHEMAS


@contextmanager
def workplace(vault: Shelf[K]) -> Iterator[Path]:
    """A folder for what a seal opens, closed to others (as temporary folders are) and removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".opened-", dir=vault.root) as folder:
        yield Path(folder)


def occupied(dsn: str) -> list[str]:
    """Our schemas that are in a database already."""
    with Warehouse(dsn).connect() as connection:
        rows = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s) ORDER BY 1", (list(SCHEMAS),)
        ).fetchall()
    return [name for (name,) in rows]


def clear(dsn: str) -> None:
    """Drop our schemas with all they hold. Raises BackupError while somebody of ours is at work there."""
    with readable_errors(), psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND starts_with(application_name, 'user-analytics')"
        ).fetchall()
        if rows:
            sessions = ", ".join(str(pid) for (pid,) in rows)
            raise BackupError(
                f"Runs or streams are at work in the target (sessions {sessions}). Stop them, then run "
                "again; nothing was changed."
            )
        with connection.transaction():
            for name in SCHEMAS:
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def restore(vault: Vault, backup: Backup, dsn: str, work: Path) -> None:
    """Put a backup into a database that has none of our schemas. Its owner is who restores it.

    Killed, it leaves a part: `restore --into … --yes` begins anew. Raises ProgramError with what pg_restore
    says.
    """
    dump = vault.open(backup, DUMP, work)
    # As who logs in: the loader may make no role.
    with readable_errors(), psycopg.connect(dsn, autocommit=True) as connection:
        place = programs.folder_for(connection)
        for statement in bootstrap():
            # Roles belong to the server, not to the dump. The schemas are the dump's.
            if "create role" in statement:
                connection.execute(statement.encode())
    words: list[str | Path] = ["--format=directory", f"--jobs={JOBS}", "--no-owner", "--exit-on-error", dump]
    programs.run(place / "pg_restore", words, dsn)
    with Warehouse(dsn).connect() as connection:
        roles.lay(connection)
        roles.hand_over(connection)


def notes_of(dsn: str, schemas: tuple[str, ...] = LASTING) -> dict[str, Note]:
    """What a database holds now."""
    with readable_errors(), psycopg.connect(dsn) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return take(connection, schemas)
