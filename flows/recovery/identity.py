"""Which warehouse this is. It, its lake and each of its backups say so. A folder of backups is of one alone:
what expires, the pool of raw files and the list of the erased are of all that is in it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import Connection

from flows.errors import FlowsError
from flows.recovery.kept import K, Kept
from flows.recovery.physical.shelf import FOLDER, Copies
from flows.recovery.vault import BackupError, Shelf, Vault
from flows.services import Services
from flows.settings import Settings, SettingsError
from flows.stores.durable import written_whole
from flows.stores.files import written
from flows.stores.lake import Lake

FILE = "_warehouse"


class OthersLake(FlowsError):
    """Another warehouse has begun in this lake."""


def agree(connection: Connection[Any], lake: Lake) -> str:
    """The warehouse's name, which its lake has from now on, too. To be called once the two are known to be of
    one story: a warehouse that was made anew from the lake goes on as the one that it was.

    Raises OthersLake where another warehouse has begun in the lake and no manifest tells a story yet;
    LakeError for what the lake's disk says.
    """
    row = connection.execute("SELECT warehouse::text FROM ops.identity").fetchone()
    assert row is not None
    noted = of_lake(lake.root) or _noted(lake.root, row[0])
    if noted != row[0] and not lake.manifests():
        raise OthersLake(
            f"The lake {lake.root} is of another warehouse ({noted}; this one is {row[0]}), which has "
            "begun in it: the files of the two would mix. Nothing was changed there. Set ANALYTICS_LAKE "
            "to a folder of this warehouse's own; where the other one is no more, remove "
            f"{lake.root / FILE}, and run again."
        )
    connection.execute("UPDATE ops.identity SET warehouse = %s WHERE warehouse <> %s", (noted, noted))
    return noted


def _noted(root: Path, own: str) -> str:
    """Write whose the lake is. Returns whose it is: another's, who has done so at the same moment."""
    said = f"{own}\n".encode()
    with written(root):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with written_whole(root / FILE, is_first=True) as handle:
                handle.write(said)
        except FileExistsError:
            if (other := of_lake(root)) is not None:
                return other
            with written_whole(root / FILE) as handle:  # what stood there named nobody
                handle.write(said)
    return own


def of_lake(root: Path) -> str | None:
    """The name of the warehouse that a lake is of; None where it does not say that."""
    try:
        return str(UUID((root / FILE).read_text(encoding="utf-8").strip()))
    except (OSError, ValueError):
        return None


def of_settings(settings: Settings) -> str | None:
    """The same of the lake that the settings name, if they name one."""
    with suppress(SettingsError):
        return of_lake(settings.lake_root)
    return None


def is_others(backup: Kept, own: str | None) -> bool:
    """Whether a backup is known to be of another warehouse than `own`."""
    return own is not None and backup.warehouse is not None and backup.warehouse != own


class OthersBackups(BackupError):
    """A folder of backups has some of another warehouse."""


def refuse_others(home: Path, own: str | None) -> None:
    """Raise OthersBackups where a folder of backups has one of another warehouse."""
    there: list[Kept] = [*Vault(home, None).backups(), *Copies(home / FOLDER, None).backups()]
    if other := next((one for one in there if is_others(one, own)), None):
        raise OthersBackups(
            f"{home} has backups of another warehouse ({other.id} is of {other.warehouse}, this one is "
            f"{own}): each would let go of what the other needs. Nothing was changed there. Set "
            "ANALYTICS_BACKUPS to a folder of this warehouse's own; where the other one is no more, move "
            "that folder away."
        )


def find(shelf: Shelf[K], name: str | None, services: Services) -> K:
    """The backup that is to come back: of this name, or the newest (`Shelf.find`). Raises BackupError for one
    of another warehouse than the lake's, and where there is no lake to say whose it is to be.
    """
    backup, own = shelf.find(name, services.settings.now()), of_settings(services.settings)
    if is_others(backup, own):
        raise BackupError(
            f"Backup {backup.id} is of another warehouse ({backup.warehouse}; the lake "
            f"{services.settings.lake_root} is of {own}). Nothing was changed. `python -m flows backup list` "
            "says whose each is: take one with --backup, or set ANALYTICS_LAKE to the lake of that one."
        )
    if own is None and name is None and len({one.warehouse for one in shelf.backups()} - {None}) > 1:
        raise BackupError(
            f"{shelf.root} has backups of several warehouses, and no lake says which is to come back. "
            "`python -m flows backup list` says whose each is: name one with --backup."
        )
    return backup
