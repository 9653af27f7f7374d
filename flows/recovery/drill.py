"""The drill: the way back is gone, aside, and what stands at its end is compared with what is live."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from flows import prepare
from flows.erasure import again
from flows.errors import FlowsError
from flows.progress import Progress
from flows.recovery import identity, notes, raw_files
from flows.recovery.from_lake import recover
from flows.recovery.notes import Note, Shape
from flows.recovery.restoring import complete, notes_of, put_back, workplace
from flows.recovery.scratch import scratch
from flows.recovery.taking import open_vault
from flows.recovery.vault import Backup, BackupError, Vault
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.stores.locks import DRILL_LOCK
from flows.stores.manifest import Commit, LakeFile, fold
from flows.stores.recovery import histories_of
from flows.stores.upkeep import refresh
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError, scrub
from transforms import registry
from transforms.contract import Layer
from warehouse_ddl.statements import SERVED, home

_LINE_SECONDS = 1.0
_LINE_TRIES = 10


class DrillFailed(FlowsError):
    """The way back does not lead to what is live; the message says where, one line each."""

    exit_code = 1


@dataclass
class Drill:
    """What a rehearsal found. Seconds are of the machine's clock."""

    backup: Backup
    started_at: datetime
    rto_seconds: float | None = None
    """From an empty server to the content that is live."""
    rpo_seconds: float | None = None
    """How old the backup is: what would be lost if the lake were lost too."""
    seconds: float = 0.0
    compared: int = 0
    replayed: int = 0
    streamed: list[str] = field(default_factory=list)
    """Leaves that the stream writes into: they hold what no landing names yet, and are not compared."""
    unshared: list[str] = field(default_factory=list)
    """`schema.table.column` of what models of today have and live does not have yet, or the other way round:
    the next run makes that good, and it is not compared."""
    differences: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether the way back leads to what is live."""
        return not self.differences


@dataclass(frozen=True)
class _Live:
    """What is live at one moment."""

    notes: Mapping[str, Note]
    shape: Shape
    files: Mapping[str, frozenset[str]]
    """Table → the lake files that are its content."""
    tokens: frozenset[str]
    hot: frozenset[str]
    """`schema.leaf` of what the stream writes into."""
    is_view_owed: frozenset[str]


def drill(services: Services, name: str | None, progress: Progress) -> Drill:
    """Rehearse the restore of a backup (the newest without a name); nothing live is changed but `ops.drill`.

    1. Every file of the backup, and every raw file that it names, is held against its sum.
    2. It is restored into a server of its own; counts, sums and hashes are held against those noted when it
       was taken.
    3. It is brought to the models of today, and what came after is replayed from the lake, as `restore
       --into` does it. Whoever was erased since is erased in the lake; erasing again writes files, which a
       rehearsal must not.
    4. Every published table and leaf is held against the live one, at one moment of the ledger.

    It stands in `ops.drill` from its beginning, as one that has not led back: whatever ends it before its
    end, a kill too, leaves it so. Raises BackupError while another one is under way, and where there is no
    such backup; ProgramError, SealError and the like where it broke off.
    """
    began, started_at = time.perf_counter(), services.settings.now()
    vault = open_vault(services)
    backup = identity.find(vault, name, services)
    done = Drill(backup, started_at)
    with services.ledger() as ledger:
        # The session's, so that it ends with the process: the monitor tells by it who was killed.
        if not ledger.is_ours(*DRILL_LOCK):
            raise BackupError("Another drill is under way. Wait for it and run again.")
        try:
            prepare.schemas(ledger)
            stamp = _begin(ledger.connection, done)
            try:
                vault.opener(backup)
                services.lake.begin_session()
                done.differences += vault.problems(backup)
                done.differences += raw_files.problems(vault, backup)
                progress.say(backup.id, "sums of its files compared")
                if not done.differences:
                    _rehearse(services, vault, done, progress)
            except BaseException as error:
                done.differences.append(f"it broke off: {_reason(services, error)}")
                # PostgreSQL may be what it broke off by; the row says since its beginning what it has to.
                with suppress(WarehouseError):
                    _end(services, stamp, done, began)
                raise
            _end(services, stamp, done, began)
        finally:
            with suppress(psycopg.Error):  # a session that is gone holds nothing
                ledger.give_back(*DRILL_LOCK)
    return done


def _rehearse(services: Services, vault: Vault, done: Drill, progress: Progress) -> None:
    backup = done.backup
    with workplace(vault) as work, scratch(vault.root) as dsn:
        began = time.perf_counter()
        rights = put_back(vault, backup, dsn, work)
        restored = time.perf_counter() - began
        progress.say(backup.id, f"restored in {restored:.1f} s")
        there = notes_of(dsn)
        owed = {f"analytics.{view}" for view in backup.owed_views}
        noted = {table: note for table, note in backup.notes.items() if table not in owed}
        done.compared += len(noted)
        done.differences += [
            f"{table}: the restored backup has {what}, against what was noted when it was taken."
            for table, note in noted.items()
            if (what := note.differs(there[table]) if table in there else "no such table")
        ]
        began = time.perf_counter()
        scratched = _brought_to_today(services, dsn, rights, progress)
        restored += time.perf_counter() - began
        live, histories = _live(services, done, _shape(scratched))
        began = time.perf_counter()
        recovered = recover(
            scratched, services.lake, histories, registry.default(), services.settings.now(), progress.say
        )
        done.replayed = recovered.partitions
        again.in_warehouse(scratched, services.lake)
        refresh(scratched)
        done.rto_seconds = round(restored + time.perf_counter() - began, 2)
        progress.say("lake", f"{recovered.partitions} partitions replayed")
        _compare(live, notes_of(dsn, SERVED, live.shape), done)


def _brought_to_today(services: Services, dsn: str, rights: Sequence[str], progress: Progress) -> Warehouse:
    """What was put back, with the schemas and tables of today's models; the lake is only read."""
    complete(dsn, rights)
    there = Services(services.settings.model_copy(update={"warehouse_dsn": SecretStr(dsn)}))
    vars(there).update(lake=services.lake)
    prepare.tables(there, progress)
    return there.warehouse


def _shape(warehouse: Warehouse) -> Shape:
    with warehouse.connect() as connection:
        return notes.shape(connection, SERVED)


def _live(services: Services, done: Drill, there: Shape) -> tuple[_Live, list[list[Commit]]]:
    """What is live now, in the columns that are `there` too, and the lake's manifests up to that moment."""
    with services.ledger() as ledger:
        ledger.repair_manifest(services.lake)
        connection = ledger.connection
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            live = _Live(
                notes.take(connection, SERVED, there),
                notes.shape(connection, SERVED),
                {name: frozenset(file.path for file in files) for name, files in _contents(ledger).items()},
                frozenset(token for (token,) in connection.execute("SELECT token FROM ops.ledger")),
                frozenset(
                    f"{home(registry.table(table))}.{registry.table(table).leaf(partition)}"
                    for table, partition in connection.execute(
                        "SELECT table_name, partition FROM ops.hot_partition WHERE since IS NOT NULL"
                    )
                ),
                frozenset(
                    f"analytics.{view}"
                    for (view,) in connection.execute("SELECT view_name FROM ops.refresh_owed")
                ),
            )
    done.unshared = sorted(
        f"{table}.{column}"
        for table in live.shape.keys() & there.keys()
        for column in set(live.shape[table]) ^ set(there[table])
    )
    for _ in range(_LINE_TRIES):
        histories = [
            [commit for commit in history if commit.token in live.tokens]
            for history in histories_of(services.lake)
        ]
        problems = _lake_problems(live, histories)
        if not problems:
            return live, histories
        # A run that has committed just now appends its lines a moment later.
        time.sleep(_LINE_SECONDS)
    done.differences += problems
    return live, histories


def _contents(ledger: Ledger) -> dict[str, list[LakeFile]]:
    """Table → the files that the ledger says are its content."""
    found: dict[str, list[LakeFile]] = {}
    for (name, _), state in ledger.states().items():
        found.setdefault(name, []).extend(state.files)
    for table in registry.tables().values():
        if table.layer is Layer.RAW and (files := ledger.files(table.name)):
            found[table.name] = files
    return found


def _lake_problems(live: _Live, histories: Sequence[Sequence[Commit]]) -> list[str]:
    """Where the manifests tell another content than the ledger."""
    told = {history[0].table: {file.path for file in fold(history)} for history in histories if history}
    return [
        f"{table}: the lake's manifest and the ledger name different files "
        f"({len(files - told.get(table, set()))} only in the ledger, "
        f"{len(told.get(table, set()) - files)} only in the manifest)."
        for table, files in sorted(live.files.items())
        if files != told.get(table, set())
    ]


def _compare(live: _Live, there: Mapping[str, Note], done: Drill) -> None:
    done.streamed = sorted(name for name in live.hot if name in live.notes)
    left_out = live.hot | live.is_view_owed
    names = {name for name in (*live.notes, *there) if name not in left_out}
    done.compared += len(names)
    nothing = Note(0, "0", {})
    for name in sorted(names):
        if name not in live.notes or name not in there:
            # An empty leaf says nothing that no leaf does not.
            rows = live.notes.get(name, there.get(name, nothing)).rows
            if rows:
                where = "live" if name in live.notes else "restored"
                done.differences.append(f"{name}: its {rows:,} rows are {where} alone.")
            continue
        if what := there[name].differs(live.notes[name]):
            done.differences.append(
                f"{name}: live there is {what}, against the restored and replayed backup."
            )


def _begin(connection: Connection[Any], done: Drill) -> str:
    """Enter a rehearsal that has not come to its end; returns its id."""
    stamp = f"{done.started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    connection.execute(
        "INSERT INTO ops.drill (drill_id, backup_id, is_equal, seconds, compared, replayed, started_at) "
        "VALUES (%s, %s, false, 0, 0, 0, %s)",
        (stamp, done.backup.id, done.started_at),
    )
    return stamp


def _end(services: Services, stamp: str, done: Drill, began: float) -> None:
    """Enter how it ended, while its lock is still held."""
    done.seconds = round(time.perf_counter() - began, 2)
    done.rpo_seconds = round((done.started_at - done.backup.taken_at).total_seconds(), 1)
    with services.warehouse.connect() as connection:
        connection.execute(
            "UPDATE ops.drill SET (is_equal, rto_seconds, rpo_seconds, seconds, compared, replayed, "
            "differences) = (%s, %s, %s, %s, %s, %s, %s) WHERE drill_id = %s",
            (
                done.is_equal,
                done.rto_seconds,
                done.rpo_seconds,
                done.seconds,
                done.compared,
                done.replayed,
                Jsonb(done.differences),
                stamp,
            ),
        )


def _reason(services: Services, error: BaseException) -> str:
    """What broke it off, without secrets and, where it was not said by us, without values of rows."""
    if isinstance(error, FlowsError):
        return services.settings.scrub(str(error))
    said = f": {services.settings.scrub(scrub(str(error)))}" if str(error) else ""
    return f"{type(error).__name__}{said}"
