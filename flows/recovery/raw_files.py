"""The lake's raw files beside the backups: immutable, so each is kept once however many backups name it.

Everything else in the lake is made of them. What a backup lists is what counted in its snapshot.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from flows.erasure import listed as erased
from flows.failpoints import failpoint
from flows.progress import Progress
from flows.recovery.kept import K
from flows.recovery.making import RAW_LIST
from flows.recovery.seal import SUFFIX, Seal, SealError
from flows.recovery.vault import MANIFESTS, POOL, Backup, BackupError, Shelf, Vault
from flows.stores.durable import fsync_folder
from flows.stores.files import sync_and_hash
from flows.stores.manifest import MANIFEST, LakeFile

How = Literal["copy", "link", "none"]
_log = logging.getLogger("flows.backups")


class Missing(BackupError):
    """A file that the snapshot names is not in the lake; `path` within it."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def keep(vault: Vault, lake: Path, files: Iterable[LakeFile], how: How) -> int:
    """Keep these files of the lake in the pool; returns the bytes that were new to it.

    A link costs no space and survives a deletion, not a disk; a copy survives both. A file is there whole or
    not at all. Raises Missing for one that is not in the lake, BackupError for one that is not what was
    written.
    """
    new = 0
    if how == "none":
        return new
    for file in files:
        target = _pooled(vault, file, vault.seal.recipient if vault.seal else None)
        if target.exists():
            continue
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source = lake / file.path
        temporary = target.with_name(f".tmp-{secrets.token_hex(4)}")
        try:
            _take(vault.seal, source, temporary, file, how)
            failpoint("backup.raw_written")
            temporary.rename(target)
            fsync_folder(target.parent)
        except FileNotFoundError:
            raise Missing(
                f"{source} is missing in the lake, though the ledger names it. `python -m flows doctor` and "
                "docs/recovery.md tell how it comes back; then take the backup again.",
                file.path,
            ) from None
        finally:
            temporary.unlink(missing_ok=True)
        new += file.bytes
    return new


def listed(backup: Backup) -> list[LakeFile]:
    """The raw files that counted in a backup's snapshot. Raises BackupError where it does not say them."""
    path = backup.folder / RAW_LIST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [LakeFile.from_json(json.loads(line)) for line in lines]
    except OSError as error:
        raise _unlisted(backup, f"{path} can't be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unlisted(backup, f"{path} is damaged") from error


def problems(vault: Vault, backup: Backup) -> Iterator[str]:
    """Which raw files of a backup are missing or damaged, one sentence each."""
    if backup.raw == "none":
        return
    for file in listed(backup):
        path = _pooled(vault, file, backup.recipient)
        if not path.exists():
            yield f"{backup.id}: the raw file {file.path} is missing in {vault.root / POOL}."
        elif _digest(vault, path) != file.sha256:
            yield f"{backup.id}: the raw file {file.path} in {vault.root / POOL} is not what was written."


def give_back(vault: Vault, backup: Backup, lake: Path, work: Path, progress: Progress) -> int:
    """Fill an empty lake with a backup's raw files and their manifests; returns the number of files.

    Raises BackupError where the lake is not empty, or the backup has no raw files; SealError for another key.
    """
    if backup.raw == "none":
        raise BackupError(
            f"Backup {backup.id} was taken without raw files (ANALYTICS_BACKUP_RAW=none): the lake has to "
            "come back from a copy of its own."
        )
    if next(lake.glob(f"*/*/{MANIFEST}"), None) is not None:
        raise BackupError(f"The lake {lake} is not empty: name an empty folder, or move what it holds away.")
    seal, files = vault.opener(backup), listed(backup)
    bring_list(vault, backup, lake, work)
    progress.expect(len(files))
    for file in files:
        target = lake / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = _pooled(vault, file, backup.recipient)
        if not source.exists():
            raise BackupError(
                f"The raw file {file.path} of backup {backup.id} is missing in {vault.root / POOL}. Take "
                "another one (`python -m flows backup list`)."
            )
        if seal is not None:
            seal.open(source, target)
        else:
            shutil.copyfile(source, target)
        if sync_and_hash(target)[1] != file.sha256:
            target.unlink()
            raise BackupError(f"The raw file {file.path} of backup {backup.id} is damaged. Take another one.")
        fsync_folder(target.parent)
        progress.advance()
    opened = vault.open(backup, MANIFESTS, work)
    for manifest in sorted((opened / "raw").glob(f"*/{MANIFEST}")):
        target = lake / manifest.relative_to(opened)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest, target)
        sync_and_hash(target)
        fsync_folder(target.parent)
    return len(files)


def bring_list(vault: Vault, backup: Backup, lake: Path, work: Path) -> None:
    """Have the lake know who was erased before anything of a backup comes back: every landing asks its list.
    Raises SealError for another key.
    """
    own = _list_of(vault, backup, work)
    for folder in [own, vault.root] if own is not None else [vault.root]:
        erased.bring(folder, lake)


def erased_since(vault: Shelf[K], backup: K, lake: Path, work: Path) -> list[int]:
    """Whom a backup still has though they were erased: everybody whom the lists of the lake and beside the
    backups name, but those of whom nothing was left when it was taken. Raises SealError for another key.
    """
    return erased.still_in(_list_of(vault, backup, work), lake, vault.home)


def _list_of(vault: Shelf[K], backup: K, work: Path) -> Path | None:
    """The folder of a backup's own list of the erased, readable; None where it has none."""
    if next((backup.folder / MANIFESTS).glob(f"{erased.FILE}*"), None) is None:
        return None
    return vault.open(backup, f"{MANIFESTS}/{erased.FILE}", work).parent


def expire(vault: Vault) -> int:
    """Remove the raw files that no backup names any more; returns how many. None while a backup does not say
    which it needs, by what is written of it (`Shelf.look`, a warning of `Shelf.expire`) or by its list.
    """
    there, unreadable = vault.look()
    if unreadable:
        return 0
    try:
        named = {_pooled(vault, file, backup.recipient) for backup in there for file in listed(backup)}
    except BackupError as error:
        _log.warning("%s", error)
        return 0
    pool = vault.root / POOL
    gone = [path for path in pool.rglob("*") if path.is_file() and path not in named]
    for path in gone:
        path.unlink()
    for folder in sorted((path for path in pool.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    return len(gone)


def _pooled(vault: Vault, file: LakeFile, recipient: str | None) -> Path:
    """Where a file is in the pool: once for each key that backups are sealed with."""
    path = vault.root / POOL / PurePosixPath(file.path)
    return path.with_name(f"{path.name}.{recipient[4:12]}{SUFFIX}") if recipient else path


def _take(seal: Seal | None, source: Path, temporary: Path, file: LakeFile, how: How) -> None:
    if seal is not None:
        if sync_and_hash(source)[1] != file.sha256:
            raise _damaged(source)
        seal.close(source, temporary)
        sync_and_hash(temporary)
        return
    linked = False
    if how == "link":
        with suppress(OSError):  # another disk: only a copy can be there
            os.link(source, temporary)
            linked = True
    if not linked:
        shutil.copyfile(source, temporary)
    if sync_and_hash(temporary)[1] != file.sha256:
        raise _damaged(source)


def _unlisted(backup: Backup, reason: str) -> BackupError:
    return BackupError(
        f"{reason}, so which raw files that backup needs is not certain: none expires while it is there. "
        f"Restore it from a copy, or move {backup.folder} away."
    )


def _damaged(source: Path) -> BackupError:
    return BackupError(
        f"{source} is not what the ledger says was written (SHA-256): a backup of it would hide that. Mend "
        "the file first (docs/operations.md, 'SHA-256 is not the one that was written')."
    )


def _digest(vault: Vault, path: Path) -> str:
    """The SHA-256 of what a pooled file holds; '' where its seal is broken."""
    if path.suffix != SUFFIX or vault.seal is None:
        return sync_and_hash(path)[1]
    try:
        return vault.seal.open(path, None)[1]
    except SealError:
        return ""
