"""A backup's dump, put back into a database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, errors, sql

from flows.failpoints import failpoint
from flows.recovery import contents, opened, programs
from flows.recovery.kept import K
from flows.recovery.notes import Note, Shape, take
from flows.recovery.taking import JOBS
from flows.recovery.vault import DUMP, Backup, BackupError, Shelf, Vault
from flows.stores import roles
from flows.stores.dependents import InTheWay, others_on
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import readable_errors
from quality import session_settings
from warehouse_ddl.files import bootstrap
from warehouse_ddl.statements import LASTING, PERSONAL, SCHEMAS

_OWNERS = ("mask_key", "access")
"""What of PERSONAL the bootstrap makes as owner; published tables are loader's."""
_LAID = re.compile(rf" TO (?:{'|'.join(roles.ROLES)});$")
_TAKEN = re.compile(r"REVOKE |ALTER DEFAULT PRIVILEGES .* REVOKE ")


@contextmanager
def workplace(vault: Shelf[K]) -> Iterator[Path]:
    """A folder for what a seal opens (`opened.folder`), of backups of either kind in the same place. Raises
    BackupError where what comes back can't be written, there or where the block puts it.
    """
    with opened.folder(vault.home) as work:
        try:
            yield work
        except OSError as error:
            reason = error.strerror or str(error)
            at = f" at {error.filename}" if error.filename else ""
            raise BackupError(
                f"What comes back can't be written or read{at}: {reason}. See what room there is in "
                f"{vault.home} and where it is to go, mend that, and run the same command again: the backup "
                "is as it was."
            ) from error


@contextmanager
def _login(dsn: str) -> Iterator[Connection[Any]]:
    """A connection in autocommit as who logs in: the loader may neither drop schemas nor make a role."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(session_settings.whole().encode())
        yield connection


def occupied(dsn: str) -> list[str]:
    """Our schemas that are in a database already."""
    with Warehouse(dsn).connect() as connection:
        rows = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s) ORDER BY 1", (list(SCHEMAS),)
        ).fetchall()
    return [name for (name,) in rows]


def clear(dsn: str) -> None:
    """Drop our schemas with all they hold. Raises as `refuse_to_clear` does; nothing was changed then."""
    with readable_errors(), _login(dsn) as connection, connection.transaction():
        _refuse_to_clear(connection)
        for name in SCHEMAS:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def refuse_to_clear(dsn: str) -> None:
    """Raise BackupError while somebody of ours is at work in a database, InTheWay where somebody else's views
    and the like would go with our schemas.
    """
    with readable_errors(), _login(dsn) as connection:
        _refuse_to_clear(connection)


def _refuse_to_clear(connection: Connection[Any]) -> None:
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
    if others := others_on(connection, SCHEMAS):
        raise InTheWay(
            "Something of others hangs on what would be replaced, would go with it, and no backup brings it "
            f"back: {_some(others)}. Keep how it is made (`pg_dump --schema-only`) and drop it, or "
            "restore into an empty database; nothing was changed."
        )


@dataclass(frozen=True)
class Left:
    """A right that could not be given back."""

    statement: str
    because: str
    """What PostgreSQL says."""


def put_back(
    vault: Vault, backup: Backup, dsn: str, work: Path, *, replaces: bool = False
) -> tuple[str, ...]:
    """Put what a backup holds of our schemas into a database that has none of them, or (`replaces`) in their
    place. Its owner is who restores it, and nobody else has a right on it before `complete`, which is given
    what this returns.

    Nothing is dropped before the backup is opened and read. Killed, it leaves a part: `restore --into …
    --yes` begins anew. Raises ProgramError with what pg_restore says, and as `refuse_to_clear` does.
    """
    dump = vault.open(backup, DUMP, work)
    failpoint("restore.opened")
    with readable_errors(), _login(dsn) as connection:
        version = connection.info.server_version
    # What reads a dump is as new as what wrote it.
    place = programs.folder(max(version, backup.server_version))
    found = contents.read(place, dump, work)
    if replaces:
        clear(dsn)
    words: list[str | Path] = ["--no-owner", "--no-acl", f"--use-list={found.entries}", dump]
    if version // 10_000 < programs.TIMES_TRANSACTIONS_SINCE:
        programs.run_as_script(place, words, dsn)
    else:
        programs.run(place / "pg_restore", [f"--jobs={JOBS}", "--exit-on-error", *words], dsn)
    return found.rights


def complete(dsn: str, rights: Sequence[str]) -> list[Left]:
    """Make what was put back a warehouse of today: roles, owners and rights as they have to be, then those
    that it had besides. Returns what could not be given back, mostly because the server lacks the role.
    """
    with readable_errors(), _login(dsn) as connection:
        for statement in bootstrap():
            # Roles belong to the server, not to the dump. The schemas are the dump's.
            if "create role" in statement:
                connection.execute(statement.encode())
        # Before `lay` gives what is nobody's to loader.
        connection.execute(f"ALTER SCHEMA {PERSONAL} OWNER TO owner".encode())
        for name in _OWNERS:
            connection.execute(f"ALTER TABLE IF EXISTS {PERSONAL}.{name} OWNER TO owner".encode())
    with Warehouse(dsn).connect() as connection:
        roles.lay(connection)
        roles.hand_over(connection)
    left = []
    with readable_errors(), _login(dsn) as connection:
        for statement in rights:
            try:
                connection.execute(statement.encode())
            except (errors.UndefinedObject, errors.InsufficientPrivilege) as error:
                # What our roles are to have was laid above; a right that nobody has need not be taken away.
                if not _LAID.search(statement) and not _TAKEN.match(statement):
                    left.append(Left(statement, str(error.diag.message_primary)))
    return left


def restore(vault: Vault, backup: Backup, dsn: str, work: Path, *, replaces: bool = False) -> list[Left]:
    """`put_back`, then `complete`."""
    return complete(dsn, put_back(vault, backup, dsn, work, replaces=replaces))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if names[10:] else ""
    return f"{', '.join(names[:10])}{more}"


def notes_of(dsn: str, schemas: tuple[str, ...] = LASTING, shared: Shape | None = None) -> dict[str, Note]:
    """What a database holds now (`notes.take`)."""
    with readable_errors(), _login(dsn) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return take(connection, schemas, shared)
