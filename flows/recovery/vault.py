"""The folder of the backups: each is there whole or not at all, checked by its sums, and goes in its time.

<backups>/20251103T120000Z/backup.json     what was noted of the moment
                           SHA256SUMS      `sha256sum -c SHA256SUMS` checks every file
                           dump/           `pg_restore -d … dump` restores the warehouse
                           roles.sql       the roles that its grants name
                           manifests/      the lake's manifests at that moment
                           raw.jsonl       the raw files that count at that moment
<backups>/lake/raw/…                       raw files, each once for all backups that name it
<backups>/_erasures.jsonl                  who was erased, also after the newest backup (erasure/listed.py)
<backups>/physical/20251103T120000Z/       a copy of the server's files, in the same way (physical/shelf.py)
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.recovery import opened
from flows.recovery.kept import K, Kept, Unreadable, by, staying
from flows.recovery.making import FORMAT, MAKING, NOTED, PLAIN, SUMS, Making
from flows.recovery.notes import Note
from flows.recovery.seal import SUFFIX, Seal, SealError
from flows.stores.durable import fsync_folder
from flows.stores.files import sync_and_hash

DUMP, ROLES, MANIFESTS, POOL = "dump", "roles.sql", "manifests", "lake"
_log = logging.getLogger("flows.backups")


class BackupError(FlowsError):
    """A backup can't be taken, found or trusted."""


@dataclass(frozen=True)
class Backup(Kept):
    """A dump with what goes with it. Its moment is that of its snapshot."""

    sequence: int
    """The ledger's last entry in it; 0 in one without."""
    raw: str
    """How raw files were kept: copy, link or none."""
    owed_views: tuple[str, ...]
    """Views that were owed a refresh: a restore makes them newer than they were."""
    notes: Mapping[str, Note]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(note.rows for note in self.notes.values())


class Shelf(ABC, Generic[K]):
    """One folder of backups of one kind."""

    takes = "python -m flows backup"
    """The command that takes one."""

    def __init__(self, root: Path, seal: Seal | None) -> None:
        self.root = root
        self.seal = seal

    @property
    def none(self) -> str:
        """That there is none, for people."""
        return (
            f"There is no backup in {self.root}: its disk is not mounted, ANALYTICS_BACKUPS names another "
            f"folder, or none was taken yet (`{self.takes}` does that)."
        )

    @property
    def home(self) -> Path:
        """The folder of all backups: who was erased is noted there."""
        return self.root

    @abstractmethod
    def read(self, folder: Path, noted: Mapping[str, Any]) -> K:
        """The backup in a folder, whose backup.json holds this. Raises KeyError or ValueError for less."""

    def belongs(self, there: Sequence[K]) -> Mapping[str, str]:
        """The name of each backup → of what it goes together with; by itself, if nothing else is said."""
        return {backup.id: backup.id for backup in there}

    # ----------------------------------------------------------------------------------------- making one

    @contextmanager
    def making(self, moment: datetime, private: Path) -> Iterator[Making]:
        """A place for a new backup, which takes its name when the block ends well; else nothing is left.

        `private`: where what is to be sealed may stand open meanwhile. Raises BackupError when another one
        is being taken, or a disk is full.
        """
        with self.written(private):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.alone():
                for left in self.root.glob(f"{MAKING}*"):
                    shutil.rmtree(left)
                name = self._free_name(moment)
                making = Making(self.root / f"{MAKING}{name}", self.seal, private / f"{MAKING}{name}")
                try:
                    making.folder.mkdir(mode=0o700)
                    making.work.mkdir(mode=0o700, parents=True, exist_ok=True)
                    yield making
                    making.finish()
                    failpoint("backup.before_rename")
                    making.folder.rename(self.root / name)
                    fsync_folder(self.root)
                finally:
                    shutil.rmtree(making.folder, ignore_errors=True)
                    shutil.rmtree(making.work, ignore_errors=True)

    @contextmanager
    def written(self, private: Path) -> Iterator[None]:
        """What of a backup is written in this block: raises BackupError with what its disk says. Needed anew
        within a session of the warehouse, which would take it for something that PostgreSQL has refused.
        `private` as in `making`.
        """
        try:
            yield
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                also = f", or that of {private}, where it stood open" if self.seal else ""
                raise BackupError(
                    f"The disk of the backups is full ({self.root}{also}). Nothing of this backup is left, "
                    "and the earlier ones are as they were. Free space, or keep fewer "
                    "(ANALYTICS_BACKUP_DAYS, ANALYTICS_BACKUP_WEEKS), and run again."
                ) from error
            raise BackupError(
                f"The backup can't be written in {self.root}: {error.strerror or error}. "
                "Nothing of it is left; mend that and run again."
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder's lock: nobody else takes a backup or removes one. Raises BackupError."""
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError(
                    f"Another backup is being taken or removed in {self.root}. Wait and run again."
                ) from None
            opened.remove_left(self.home)  # what a killed restore has left open
            yield
        finally:
            os.close(descriptor)

    def _free_name(self, moment: datetime) -> str:
        name = f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        taken = {path.name for path in self.root.iterdir()}
        return next(n for n in (name, *(f"{name}-{i}" for i in range(2, 1000))) if n not in taken)

    # ------------------------------------------------------------------------------------- those that are

    def look(self) -> tuple[list[K], list[Unreadable]]:
        """All whole backups and all that can't be read, each the newest first."""
        whole: list[K] = []
        unreadable: list[Unreadable] = []
        for folder in sorted(self.root.glob("[0-9]*"), reverse=True):
            found = self._read(folder) if folder.is_dir() else None
            if isinstance(found, Unreadable):
                unreadable.append(found)
            elif found is not None:
                whole.append(found)
        return sorted(whole, key=lambda backup: (backup.taken_at, backup.id), reverse=True), unreadable

    def backups(self) -> list[K]:
        """All whole backups, the newest first."""
        return self.look()[0]

    def find(self, name: str | None = None, now: datetime | None = None) -> K:
        """The backup of this name, or the newest that can be read, with a warning for each that can't. What
        was taken later than `now` is the newest only where there is no other. Raises BackupError.
        """
        there, unreadable = self.look()
        for one in unreadable:
            if one.id == name:
                raise BackupError(one.problem)
        if not there and not unreadable:
            raise BackupError(self.none)
        if not there:
            problems = [one.problem for one in unreadable]
            raise BackupError("\n".join([f"There is no backup in {self.root} that can be read.", *problems]))
        if name is None:
            _warn(unreadable)
            past = by(there, now) if now is not None else there
            for ahead in (backup for backup in there if backup not in past):
                _log.warning(
                    "Backup %s says that it was taken at %s, which is to come: the clock was ahead then, or "
                    "is behind now. It counts as the newest only where there is no other. See which time is "
                    "right; --backup %s uses it, and it may be removed by hand: %s.",
                    ahead.id,
                    f"{ahead.taken_at:%Y-%m-%d %H:%M} UTC",
                    ahead.id,
                    ahead.folder,
                )
            return (past or there)[0]
        for backup in there:
            if backup.id == name:
                return backup
        raise BackupError(
            f"There is no backup {name} in {self.root}; there is {', '.join(item.id for item in there[:5])}."
        )

    def problems(self, backup: K) -> list[str]:
        """Which of its files are not what was written, one sentence each."""
        sums = _sums(backup.folder)
        there = {
            path.relative_to(backup.folder).as_posix(): path
            for path in sorted(backup.folder.rglob("*"))
            if path.is_file() and path.name != SUMS
        }
        found = [
            f"{backup.id}: {name} is missing. Take another backup (`python -m flows backup list`)."
            for name in sums
            if name not in there
        ]
        for name, path in there.items():
            if name not in sums or sync_and_hash(path)[1] != sums[name]:
                found.append(
                    f"{backup.id}: {name} is not the file that was written (SHA-256). "
                    "Take another backup (`python -m flows backup list`)."
                )
        return found

    def opener(self, backup: K) -> Seal | None:
        """The seal that opens a backup; None where none is needed. Raises SealError when the key is another
        one, or only closes.
        """
        if backup.recipient is None:
            return None
        if self.seal is None or self.seal.recipient != backup.recipient or not self.seal.opens:
            raise SealError(
                f"Backup {backup.id} is sealed for {backup.recipient}: set ANALYTICS_BACKUP_KEY to the "
                "AGE-SECRET-KEY-1… that belongs to it."
            )
        return self.seal

    def open(self, backup: K, name: str, target: Path) -> Path:
        """A file or folder of a backup, readable: itself, or opened into `target`. Raises SealError."""
        if backup.recipient is None or name in PLAIN:
            return backup.folder / name
        seal = self.opener(backup)
        assert seal is not None
        source = backup.folder / name
        sealed = (
            [backup.folder / f"{name}{SUFFIX}"] if not source.is_dir() else sorted(source.rglob(f"*{SUFFIX}"))
        )
        for path in sealed:
            opened = target / path.relative_to(backup.folder).as_posix().removesuffix(SUFFIX)
            opened.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            seal.open(path, opened)
        return target / name

    # ------------------------------------------------------------------------------------------- expiring

    def expire(self, now: datetime, days: int, weeks: int) -> list[str]:
        """Remove the backups whose time has come; returns their names.

        The newest of each day stays for `days`, the newest of each week (ISO) for `weeks`, and the newest of
        all as long as it is that; with each, all that it belongs with. One that can't be read stays, is told
        by a warning, and keeps the one before it: it may be an increment on that, and else that stands in.
        One of a time to come stays until then, and stands in for none.
        """
        there, unreadable = self.look()
        _warn(unreadable)
        belongs = self.belongs(there)
        kept = {belongs[backup.id] for backup in staying(there, now, days, weeks)}
        for one in unreadable:
            kept |= {belongs[name] for name in [backup.id for backup in there if backup.id < one.id][:1]}
        gone = [backup for backup in there if belongs[backup.id] not in kept]
        for backup in gone:
            # Without its name it is none any more, however far the removal comes.
            away = self.root / f"{MAKING}gone-{backup.id}"
            backup.folder.rename(away)
            shutil.rmtree(away)
        return [backup.id for backup in gone]

    def _read(self, folder: Path) -> K | Unreadable | None:
        """What is in a folder; None where it has gone meanwhile."""
        path = folder / NOTED
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["format"] > FORMAT:
                return Unreadable(folder, f"{path} was written by a later version of this program: use that.")
            backup = self.read(folder, value)
            if backup.taken_at.tzinfo is None:
                raise ValueError("a moment without its zone")
        except OSError as error:
            if not folder.exists():
                return None
            reason = f"{path} can't be read ({error.strerror or error})"
        except (ValueError, KeyError, TypeError, AttributeError):
            reason = f"{path} is damaged"
        else:
            return backup
        return Unreadable(
            folder,
            f"{reason}, so what that backup holds is not certain: it is left alone, and nothing that it may "
            f"need expires. Restore it from a copy, or move {folder} away.",
        )


class Vault(Shelf[Backup]):
    """The folder of the dumps."""

    def read(self, folder: Path, noted: Mapping[str, Any]) -> Backup:
        """See `Shelf.read`."""
        return Backup(
            folder,
            datetime.fromisoformat(noted["taken_at"]),
            noted["server_version"],
            noted["sealed_for"],
            noted.get("warehouse"),
            noted["sequence"],
            noted["raw"],
            tuple(noted["owed_views"]),
            {name: Note.from_json(note) for name, note in noted["tables"].items()},
        )


def _warn(unreadable: Sequence[Unreadable]) -> None:
    for one in unreadable:
        _log.warning("%s", one.problem)


def _sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        lines = []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
