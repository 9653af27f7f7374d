"""The copies of the server that there are, and which of them belong together.

<backups>/physical/20251103T120000Z/backup.json       what was noted of it, and which one it builds on
                                    SHA256SUMS        `sha256sum -c SHA256SUMS` checks every file
                                    data/             as pg_basebackup writes it and pg_combinebackup reads it
                                    backup_manifest   that of data/, never sealed: the next one asks for it
                                    manifests/        who was erased by then

A chain is a full copy with the increments on it, each of what has changed since the one before. Files stay
as they are, rather than in an archive: each has its sum, and pg_combinebackup needs no second copy of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.recovery.kept import Kept
from flows.recovery.seal import seal_of
from flows.recovery.vault import BackupError, Shelf
from flows.services import Services

FOLDER, DATA, LIST = "physical", "data", "backup_manifest"


@dataclass(frozen=True)
class Copy(Kept):
    """A copy of the server's files. Its moment is its beginning; it holds all that was committed up to its
    end.
    """

    system: str
    """The server's system identifier: a copy of it has the same, one that was initialized anew another."""
    timeline: int
    based_on: str | None
    """The copy that it is an increment on; None for a full one."""
    because: str | None
    """Why it is a full one."""
    folders: tuple[str, ...]
    """Folders in data/ without a file. PostgreSQL needs them, and a seal keeps files only."""


class Copies(Shelf[Copy]):
    """The folder of the copies."""

    takes = f"{Shelf.takes} --physical"

    @property
    def home(self) -> Path:
        """See `Shelf.home`."""
        return self.root.parent

    def read(self, folder: Path, noted: Mapping[str, Any]) -> Copy:
        """See `Shelf.read`."""
        return Copy(
            folder,
            datetime.fromisoformat(noted["taken_at"]),
            noted["server_version"],
            noted["sealed_for"],
            noted.get("warehouse"),
            noted["system"],
            noted["timeline"],
            noted["based_on"],
            noted["because"],
            tuple(noted["folders"]),
        )

    def belongs(self, there: Sequence[Copy]) -> Mapping[str, str]:
        """A chain goes as a whole: what an increment builds on is needed as long as it."""
        known = {copy.id: copy for copy in there}
        return {copy.id: _line(copy, known)[-1] for copy in there}

    def chain(self, copy: Copy) -> list[Copy]:
        """The copies that one is put together from, the full one first. Raises BackupError where one is
        gone or can't be read.
        """
        there, unreadable = self.look()
        known = {one.id: one for one in there}
        line = _line(copy, known)
        for one in unreadable:
            if one.id in line:
                raise BackupError(f"{copy.id} is an increment on {one.id}, and {one.problem}")
        if gone := [name for name in line if name not in known]:
            raise BackupError(
                f"{copy.id} is an increment, and {gone[0]}, which it builds on, is not in {self.root}: bring "
                "it back there, or take another one (`python -m flows backup list`)."
            )
        return [known[name] for name in reversed(line)]

    def broken(self) -> dict[str, str]:
        """The copies that can't be put together any more, by their names, and why."""
        found = {}
        for copy in self.backups():
            try:
                self.chain(copy)
            except BackupError as error:
                found[copy.id] = str(error)
        return found


def open_copies(services: Services) -> Copies:
    """The folder of copies that the settings name. Raises SettingsError, SealError."""
    settings = services.settings
    key = settings.backup_key.get_secret_value() if settings.backup_key else None
    return Copies(settings.backups_root / FOLDER, seal_of(key))


def _line(copy: Copy, known: Mapping[str, Copy]) -> list[str]:
    """The names from a copy down to its full one, or to the one that is gone."""
    line = [copy.id]
    while (below := known.get(line[-1])) and below.based_on and below.based_on not in line:
        line.append(below.based_on)
    return line
