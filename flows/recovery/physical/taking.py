"""Taking a copy of the server: pg_basebackup, full or what has changed since the newest one."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from flows.erasure import listed
from flows.failpoints import failpoint
from flows.progress import Progress
from flows.recovery import identity, programs
from flows.recovery.kept import by, is_steady
from flows.recovery.making import MAKING, Making
from flows.recovery.physical.shelf import DATA, LIST, Copies, Copy, open_copies
from flows.recovery.physical.verified import HASHED, verify
from flows.recovery.programs import COMBINES_SINCE, ProgramError
from flows.recovery.taking import UNSTEADY, begin, is_in_doubt
from flows.recovery.vault import MANIFESTS, BackupError
from flows.services import Services
from flows.stores.lake import SPILL

FULL_EVERY = timedelta(days=7)
"""How old a full copy gets before the next one is full again: a chain goes as a whole, and is lost as one."""
_log = logging.getLogger("flows.backups")
_NO_INCREMENT = re.compile(r"incremental|summar|manifest|timeline", re.IGNORECASE)
"""What PostgreSQL says when it can't tell what has changed, or does not know the copy before."""


@dataclass(frozen=True)
class TakenCopy:
    """A copy that was completed, and what went for it."""

    copy: Copy
    seconds: float
    expired: tuple[str, ...]


@dataclass(frozen=True)
class _Server:
    version: int
    system: str
    timeline: int
    summarizes: bool
    knows: frozenset[str]
    """The copies that it was there for. After a restore it goes on beside the later ones, in the same places
    of the log: an increment on those would be of two histories."""


def take(services: Services, progress: Progress, *, full: bool = False) -> TakenCopy:
    """Take a copy of the warehouse's whole server, while everybody goes on; an increment where that is
    possible and `full` is not asked for.

    1. The server is asked what it can, and the login whether it may.
    2. pg_basebackup copies, with the log that belongs to it; it is held against its manifest.
    3. What has to be is sealed; every file gets its sum and is on the disk.
    4. The folder gets its name: from here on there is a copy. `ops.physical_backup` has its row, and what has
       expired goes, each chain as a whole.

    A crash before 4 leaves nothing that counts, and the next one removes it. Raises BackupError for what the
    server or the disk does not allow, ProgramError for what PostgreSQL's programs say.
    """
    began = time.perf_counter()
    settings = services.settings
    copies, moment = open_copies(services), settings.now()
    own = begin(services)
    with services.warehouse.connect() as connection:
        server = _asked(connection)
    place = programs.folder_of(server.version)
    copies.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with copies.making(moment, services.lake.root / SPILL) as making:
        identity.refuse_others(copies.home, own)
        with services.warehouse.connect() as connection, copies.written(making.work):
            listed.copy(connection, services.lake, making.work / MANIFESTS)
        base, because = _base(copies, server, moment, full=full)
        if base is not None:
            progress.say("server", f"what has changed since {base.id}")
            because = _increment(place, making, base, settings.require("warehouse_dsn"))
        if because is not None:
            progress.say("server", f"a full copy: {because}")
            _copy(place, making, [], settings.require("warehouse_dsn"))
        failpoint("physical.copied")
        data = making.work / DATA
        verify(place, data)
        progress.say("server", "copied and verified")
        shutil.copyfile(data / LIST, making.folder / LIST)
        making.note(
            {
                "taken_at": moment.astimezone(UTC).isoformat(),
                "server_version": server.version,
                "sealed_for": making.seal.recipient if making.seal else None,
                "warehouse": own,
                "system": server.system,
                "timeline": server.timeline,
                "based_on": base.id if base is not None and because is None else None,
                "because": because,
                "folders": _without_files(data),
            }
        )
        name = making.folder.name.removeprefix(MAKING)
    taken = TakenCopy(copies.find(name), round(time.perf_counter() - began, 2), ())
    with services.warehouse.connect() as connection:
        _enter(connection, taken)
    if not is_steady(moment, settings.now(), time.perf_counter() - began):
        _log.warning(UNSTEADY)
        return taken
    return replace(taken, expired=tuple(expire(services, copies)))


def expire(services: Services, copies: Copies) -> list[str]:
    """Remove the chains whose declared time has come; none, with a warning, where the clock is in doubt.
    Raises BackupError while a copy is being taken, and where some are of another warehouse.
    """
    settings = services.settings
    if is_in_doubt(services):
        return []
    with copies.alone():
        identity.refuse_others(copies.home, identity.of_lake(services.lake.root))
        return copies.expire(settings.now(), settings.backup_days, settings.backup_weeks)


def _enter(connection: Connection[Any], taken: TakenCopy) -> None:
    copy = taken.copy
    connection.execute(
        "INSERT INTO ops.physical_backup (backup_id, folder, based_on, bytes, is_sealed, seconds, taken_at) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            copy.id,
            str(copy.folder.parent),
            copy.based_on,
            copy.bytes,
            copy.recipient is not None,
            taken.seconds,
            copy.taken_at,
        ),
    )


def _asked(connection: Connection[Any]) -> _Server:
    with connection.cursor(row_factory=dict_row) as cursor:
        said = cursor.execute(
            """
            SELECT r.rolsuper OR r.rolreplication AS may, session_user::text AS login,
                (SELECT system_identifier::text FROM pg_control_system()) AS system,
                (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
                coalesce(current_setting('summarize_wal', true), 'off') = 'on' AS summarizes,
                (SELECT string_agg(spcname, ', ' ORDER BY 1) FROM pg_tablespace
                    WHERE spcname NOT IN ('pg_default', 'pg_global')) AS elsewhere
            FROM pg_roles r WHERE r.rolname = session_user
            """
        ).fetchone()
    assert said is not None
    if not said["may"]:
        raise BackupError(
            f"The login {said['login']} may not copy the server: an administrator gives it that right with "
            f'`ALTER ROLE "{said["login"]}" REPLICATION` (docs/recovery.md). `python -m flows backup`, the '
            "dump, needs none."
        )
    if said["elsewhere"]:
        raise BackupError(
            f"The server has tablespaces of its own ({said['elsewhere']}), whose files lie outside its "
            "folder: a copy of it is not made. Use `python -m flows backup`, the dump."
        )
    rows = connection.execute("SELECT backup_id FROM ops.physical_backup").fetchall()
    return _Server(
        connection.info.server_version,
        said["system"],
        said["timeline"],
        said["summarizes"],
        frozenset(name for (name,) in rows),
    )


def _base(
    copies: Copies, server: _Server, moment: datetime, *, full: bool
) -> tuple[Copy, None] | tuple[None, str]:
    """The copy that the next one is an increment on; or why it has to be a full one."""
    newest = next(iter(by(copies.backups(), moment)), None)
    major = server.version // 10_000
    if full:
        return None, "it was asked for"
    if major < COMBINES_SINCE:
        return None, f"PostgreSQL {major} makes no increments, {COMBINES_SINCE} does"
    if not server.summarizes:
        return None, "the server does not note what changes (`ALTER SYSTEM SET summarize_wal = on`)"
    if newest is None:
        return None, "it is the first"
    if newest.recipient != (copies.seal.recipient if copies.seal else None):
        return None, f"{newest.id} is sealed for another key, or not at all"
    if newest.system != server.system:
        return None, f"{newest.id} is of another server"
    if newest.timeline != server.timeline:
        return None, f"the server went from timeline {newest.timeline} to {server.timeline}"
    if newest.id not in server.knows:
        return None, f"the server does not know {newest.id}: it came from an earlier copy, or from that one"
    try:
        first = copies.chain(newest)[0]
    except BackupError as error:
        return None, str(error)
    if moment - first.taken_at >= FULL_EVERY:
        return None, f"the last full one is {(moment - first.taken_at).days} days old"
    return newest, None


def _increment(place: Path, making: Making, base: Copy, dsn: str) -> str | None:
    """Copy what has changed since `base`; or say why that can't be, with nothing of it left."""
    try:
        _copy(place, making, [f"--incremental={base.folder / LIST}"], dsn)
    except ProgramError as error:
        if not _NO_INCREMENT.search(str(error)):
            raise
        shutil.rmtree(making.work / DATA, ignore_errors=True)
        return f"PostgreSQL makes no increment on {base.id} ({error.said})"
    return None


def _copy(place: Path, making: Making, words: list[str], dsn: str) -> None:
    # Our own sums come with an fsync.
    words = [*words, "--checkpoint=fast", "--wal-method=stream", "--no-sync", "--no-password", HASHED]
    try:
        programs.run(place / "pg_basebackup", [f"--pgdata={making.work / DATA}", *words], dsn)
    except ProgramError as error:
        if "no pg_hba.conf entry" not in error.said:
            raise
        raise BackupError(
            f"The server lets nobody copy it from here ({error.said}): add a line `host replication LOGIN "
            "ADDRESS scram-sha-256` to its pg_hba.conf, reload it, and run again (docs/recovery.md)."
        ) from error


def _without_files(data: Path) -> list[str]:
    return sorted(
        Path(folder).relative_to(data).as_posix()
        for folder, folders, names in os.walk(data)
        if not folders and not names
    )
