"""Taking a backup: a dump of the warehouse, what was in it, and the lake's manifests at the same moment."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from flows.doubted import doubt
from flows.erasure import listed
from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.prepare import schemas
from flows.progress import Progress
from flows.recovery import identity, notes, programs, raw_files
from flows.recovery.agreement import refuse_two_stories
from flows.recovery.kept import is_steady
from flows.recovery.making import MAKING, RAW_LIST, Making
from flows.recovery.programs import Program
from flows.recovery.seal import seal_of
from flows.recovery.vault import DUMP, MANIFESTS, ROLES, Backup, BackupError, Vault
from flows.services import Services
from flows.stores import manifest
from flows.stores.lake import SPILL
from flows.stores.ledger import Ledger
from flows.stores.ledger_rows import commit_of
from flows.stores.locks import DUMP_LOCK
from flows.stores.manifest import Commit, LakeFile, fold
from transforms.contract import Layer
from warehouse_ddl.statements import LASTING, SCHEMAS

UNSTEADY = (
    "The clock jumped while this backup was taken, so which of the others are old is not certain: none was "
    "let go of. See which time is right (`timedatectl`): the next backup, or `maintain`, goes by it."
)
_log = logging.getLogger("flows.backups")
JOBS = 2
"""Sessions that pg_dump and pg_restore work with at once."""
_SNAPSHOTS = 5
"""So many are taken until the stream leaves all files of its journal alone for as long as keeping them lasts:
it makes one of them each minute, and whenever a batch runs."""


@dataclass(frozen=True)
class Taken:
    """A backup that was completed, and what went for it."""

    backup: Backup
    raw_bytes: int
    """Bytes of raw files that were new to the pool."""
    seconds: float
    expired: tuple[str, ...] = ()
    raw_expired: int = 0
    others: tuple[str, ...] = ()
    """Schemas of somebody else in the same database, which hold something: no part of it."""


def open_vault(services: Services) -> Vault:
    """The folder of backups that the settings name. Raises SettingsError, SealError."""
    settings = services.settings
    key = settings.backup_key.get_secret_value() if settings.backup_key else None
    return Vault(settings.backups_root, seal_of(key))


def take(services: Services, progress: Progress) -> Taken:
    """Take one backup. Publishes, streams and readers go on; what would be swapped is written by difference
    meanwhile, or waits as pending.

    1. The dump lock: swaps under way end, none begins (`locks.refuse_while_dumped`).
    2. A snapshot is exported, and the raw files that the stream's journal names in it are kept. Where one was
       joined with others before that, another snapshot.
    3. pg_dump reads in it; meanwhile the same snapshot is counted, summed and hashed, and the ledger in it
       written as the lake's manifests. Then the lock is given back, and the raw files that the ledger names
       are kept; those that are there already once.
    4. What has to be is sealed; every file gets its sum and is on the disk.
    5. The folder gets its name: from here on there is a backup.
    6. `ops.backup` has its row, and what has expired goes.

    Where the clock has jumped meanwhile nothing goes: what is old is not certain. A crash before 5 leaves
    nothing that counts, and the next backup removes it. Raises BackupError for a full disk, and where
    somebody is erased meanwhile; ProgramError for what pg_dump says.
    """
    began = time.perf_counter()
    vault = open_vault(services)
    moment = services.settings.now()
    own = begin(services)
    with vault.making(moment, services.lake.root / SPILL) as making:
        identity.refuse_others(vault.home, own)
        files, raw = _dump(services, vault, making, moment, progress, own)
        progress.say("lake", f"{len(files):,} raw files, {raw:,} bytes of them new")
        name = making.folder.name.removeprefix(MAKING)
    backup = vault.find(name)
    taken = Taken(backup, raw, round(time.perf_counter() - began, 2))
    with services.warehouse.connect() as connection:
        _enter(connection, taken)
        others = _schemas_of_others(connection)
    listed.bring(services.lake.root, vault.root)
    if not is_steady(moment, services.settings.now(), time.perf_counter() - began):
        _log.warning(UNSTEADY)
        return replace(taken, others=others)
    expired, raw_expired = expire(services, vault)
    return Taken(backup, raw, taken.seconds, tuple(expired), raw_expired, others)


def begin(services: Services) -> str:
    """What a backup of either kind begins with; gives whose it will be (`identity.agree`). Files that it
    names, or has open in the lake's folder, stay while this process lives. Raises FlowsError where there is
    nothing to back up, TwoStories where it would be the backup of another warehouse: as the newest it would
    take the place of those of this one.
    """
    services.lake.begin_session()
    with services.ledger() as ledger:
        if not ledger.is_there():
            raise FlowsError(
                "The warehouse has no ledger yet, so there is nothing to back up: python -m flows"
            )
        refuse_two_stories(ledger, services.lake)
        if ledger.connection.execute("SELECT FROM ops.ledger LIMIT 1").fetchone() is None:
            raise FlowsError("Nothing was landed yet, so there is nothing to back up: python -m flows")
        schemas(ledger)
        return identity.agree(ledger.connection, services.lake)


def expire(services: Services, vault: Vault) -> tuple[list[str], int]:
    """Remove backups whose declared time has come, and the raw files that none names any more; nothing, with
    a warning, where the clock is in doubt.

    Raises BackupError while another backup is being taken: its raw files have no name in one yet; and where
    some are of another warehouse.
    """
    settings = services.settings
    if is_in_doubt(services):
        return [], 0
    with vault.alone():
        identity.refuse_others(vault.home, identity.of_lake(services.lake.root))
        gone = vault.expire(settings.now(), settings.backup_days, settings.backup_weeks)
        return gone, raw_files.expire(vault)


def is_in_doubt(services: Services) -> bool:
    """Whether nothing is to go for its age now (`doubt`), which is told by a warning."""
    with services.warehouse.connect() as connection:
        unsure = doubt(connection, services.settings.now())
    if unsure:
        _log.warning(unsure)
    return unsure is not None


def _dump(
    services: Services, vault: Vault, making: Making, moment: datetime, progress: Progress, own: str
) -> tuple[list[LakeFile], int]:
    """Steps 1 to 3: the raw files that count, and the bytes of them that were new to the pool."""
    with _snapshot(services, vault, making) as (connection, name, journaled, raw), vault.written(making.work):
        failpoint("backup.snapshot")
        place = programs.folder_for(connection)
        dsn = services.settings.require("warehouse_dsn")
        words = [f"--file={making.work / DUMP}", "--format=directory", f"--jobs={JOBS}", f"--snapshot={name}"]
        # What is not yet published belongs to runs that will not live on, other schemas to whoever made
        # them: a restore into a database that has them would end there. Our own sums come with an fsync.
        words += [*(f"--schema={name}" for name in LASTING), "--compress=gzip:1", "--no-sync"]
        dump = Program(place / "pg_dump", words, dsn)
        try:
            noted = notes.take(connection)
            progress.say("warehouse", f"{sum(n.rows for n in noted.values()):,} rows counted, summed, hashed")
            commits = _ledger(connection)
            _write_manifests(making, commits)
            listed.copy(connection, services.lake, making.work / MANIFESTS)
            owed = connection.execute("SELECT DISTINCT view_name FROM ops.refresh_owed ORDER BY 1").fetchall()
            sequence = connection.execute("SELECT coalesce(max(sequence), 0) FROM ops.ledger").fetchone()
            dump.wait()
        finally:
            dump.end()
        version = connection.info.server_version
    progress.say("warehouse", "dumped")
    failpoint("backup.dumped")
    roles = ["--roles-only", "--no-role-passwords", f"--file={making.work / ROLES}"]
    programs.run(place / "pg_dumpall", roles, dsn)
    programs.run(
        place / "pg_restore", ["--list", f"--file={making.work / 'contents.txt'}", making.work / DUMP]
    )
    landed = fold(commit for commit in commits if commit.layer == Layer.RAW)
    files = [*landed, *journaled]
    (making.folder / RAW_LIST).write_text("".join(f"{json.dumps(file.as_json())}\n" for file in files))
    making.note(
        {
            "taken_at": moment.astimezone(UTC).isoformat(),
            "sequence": sequence[0] if sequence else 0,
            "server_version": version,
            "sealed_for": making.seal.recipient if making.seal else None,
            "warehouse": own,
            "raw": services.settings.backup_raw,
            "owed_views": [view for (view,) in owed],
            "tables": {table: note.as_json() for table, note in noted.items()},
        }
    )
    return files, raw + _keep(services, vault, landed)


def _keep(services: Services, vault: Vault, landed: Sequence[LakeFile]) -> int:
    """Keep what landings brought. Nobody but an erasure takes such a file away while a process lives that may
    need it.
    """
    try:
        return raw_files.keep(vault, services.lake.root, landed, services.settings.backup_raw)
    except raw_files.Missing as missing:
        if _is_named(services, missing.path):
            raise
        raise BackupError(
            f"While this backup was taken somebody was erased, and {missing.path}, which named them, went at "
            "once. Nothing of this backup is left. Run `python -m flows backup` again when the erasure has "
            "ended; the nightly one is tried again by itself."
        ) from None


def _keep_journaled(
    services: Services, vault: Vault, making: Making, files: Sequence[LakeFile]
) -> int | None:
    """Keep what the stream has taken in; None where it has joined one of these files with others, which takes
    them away at once.
    """
    try:
        with vault.written(making.work):
            return raw_files.keep(vault, services.lake.root, files, services.settings.backup_raw)
    except raw_files.Missing as missing:
        if _is_named(services, missing.path):
            raise
        return None


def _is_named(services: Services, path: str) -> bool:
    with services.warehouse.connect() as connection:
        row = connection.execute(
            "SELECT 1 FROM ops.ledger, jsonb_array_elements(files) AS file "
            "WHERE file ->> 'path' = %(path)s "
            "UNION ALL SELECT 1 FROM ops.stream_batch WHERE file ->> 'path' = %(path)s LIMIT 1",
            {"path": path},
        ).fetchone()
    return row is not None


@contextmanager
def _snapshot(
    services: Services, vault: Vault, making: Making
) -> Iterator[tuple[Connection[Any], str, list[LakeFile], int]]:
    """A connection in a transaction whose snapshot others can read in, while nothing is swapped; the raw
    files that the stream's journal names in it, which are kept, and the bytes of them that were new to the
    pool.
    """
    with services.warehouse.connect() as connection, Ledger(connection).locked(*DUMP_LOCK):
        for _ in range(_SNAPSHOTS):
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                row = connection.execute("SELECT pg_export_snapshot()").fetchone()
                assert row is not None
                journaled = _journaled(connection)
                raw = _keep_journaled(services, vault, making, journaled)
                if raw is not None:
                    yield connection, str(row[0]), journaled, raw
                    return
    raise BackupError(
        f"The stream has joined its newest raw files {_SNAPSHOTS} times before they were kept. Nothing of "
        f"this backup is left. See whether the disk of {vault.root} is slow, and run this again."
    )


def _ledger(connection: Connection[Any]) -> list[Commit]:
    """The ledger's entries in their order."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute("SELECT * FROM ops.ledger ORDER BY sequence").fetchall()
    return [commit_of(row) for row in rows]


def _journaled(connection: Connection[Any]) -> list[LakeFile]:
    """The raw files that the stream's journal names."""
    rows = connection.execute("SELECT file FROM ops.stream_batch ORDER BY sequence").fetchall()
    return [LakeFile.from_json(file) for (file,) in rows]


def _write_manifests(making: Making, commits: list[Commit]) -> None:
    """The ledger as the lake has it, table by table: what a restore without the warehouse begins with."""
    by_table: dict[tuple[str, str], list[Commit]] = {}
    for commit in commits:
        by_table.setdefault((commit.layer, commit.table), []).append(commit)
    for (layer, table), group in by_table.items():
        manifest.append(making.work / MANIFESTS / layer / table / manifest.MANIFEST, group)


def _schemas_of_others(connection: Connection[Any]) -> tuple[str, ...]:
    rows = connection.execute(
        """
        SELECT nspname FROM pg_namespace n
        WHERE nspname <> ALL(%s) AND nspname !~ '^(pg_|information_schema$)' AND EXISTS (
            SELECT FROM pg_class c
            WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT EXISTS (
                SELECT FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
            )
        ) ORDER BY 1
        """,
        (list(SCHEMAS),),
    ).fetchall()
    return tuple(name for (name,) in rows)


def _enter(connection: Connection[Any], taken: Taken) -> None:
    backup = taken.backup
    connection.execute(
        "INSERT INTO ops.backup (backup_id, folder, ledger_sequence, row_count, bytes, raw_bytes, is_sealed, "
        "seconds, taken_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            backup.id,
            str(backup.folder.parent),
            backup.sequence,
            backup.rows,
            backup.bytes,
            taken.raw_bytes,
            backup.recipient is not None,
            taken.seconds,
            backup.taken_at,
        ),
    )
