"""The folders that runs write into, and what room there is."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from flows.diagnosis import Finding, room
from flows.durations import spoken
from flows.recovery.agreement import refuse_two_stories
from flows.recovery.seal import Seal, SealError
from flows.services import Services
from flows.settings import Settings, SettingsError


def folders(settings: Settings) -> list[Finding]:
    """The lake, and each folder that a setting names beside it: can be written, has room. Of those a run says
    no more than a line, or nothing, where it can't.
    """
    found = [_folder("lake", settings.lake_root, "ANALYTICS_LAKE")]
    found += _backups(settings)
    if settings.backup_key is not None:
        found.append(_key(settings.backup_key.get_secret_value()))
    if settings.portal is not None and settings.writes_portal:
        found.append(_folder("portal", settings.portal_root, "ANALYTICS_PORTAL"))
    if settings.metrics_folder is not None:
        found.append(_folder("metrics", settings.metrics_folder, "ANALYTICS_METRICS_FOLDER"))
    return found


def story(settings: Settings) -> list[Finding]:
    """Whether the lake is the warehouse's, as each run asks; nothing where no run has been yet. Raises
    TwoStories, and FlowsError where the warehouse can't be asked.
    """
    services = Services(settings)
    with services.ledger() as ledger:
        if not ledger.is_there():
            return []
        refuse_two_stories(ledger, services.lake)
    return [Finding("lake: manifests", True, "they and the warehouse's ledger tell the same")]


def _backups(settings: Settings) -> list[Finding]:
    """The folder that a setting names, or the sandbox's once one was taken, and what is in it."""
    try:
        root = settings.backups_root
    except SettingsError:
        said = "none can be taken: ANALYTICS_BACKUPS names no folder for them"
        return [Finding("backups", True, said)]
    if settings.backups is None and not root.is_dir():
        return []
    from flows.recovery.kept import by
    from flows.recovery.vault import Vault

    place = _folder("backups", root, "ANALYTICS_BACKUPS")
    there = by(Vault(root, None).backups(), settings.now())
    if place.well:
        age = spoken((settings.now() - there[0].taken_at).total_seconds()) if there else ""
        told = f"{len(there)} there, the newest {age} old" if there else "none there yet"
        place = replace(place, seen=f"{place.seen}; {told}")
    return [place, *_of_others(root, settings), *_unreadable(root), *_copies(root, settings.now())]


def _of_others(root: Path, settings: Settings) -> list[Finding]:
    """A finding where backups in the folder are of another warehouse."""
    from flows.recovery import identity
    from flows.recovery.vault import BackupError

    try:
        identity.refuse_others(root, identity.of_settings(settings))
    except BackupError as error:
        return [Finding("backups: whose", False, str(error))]
    return []


def _unreadable(root: Path) -> list[Finding]:
    """A finding for each backup that can't be read; none where all can be."""
    from flows.recovery.physical.shelf import FOLDER, Copies
    from flows.recovery.vault import Vault

    unreadable = [*Vault(root, None).look()[1], *Copies(root / FOLDER, None).look()[1]]
    return [Finding(f"backups: {one.id}", False, one.problem) for one in unreadable]


def _copies(root: Path, now: datetime) -> list[Finding]:
    """Of copies of the server, where somebody takes them: how old the newest is, and each that can't be put
    together any more.
    """
    from flows.recovery.physical.shelf import FOLDER, Copies

    copies = Copies(root / FOLDER, None)
    there = copies.backups()
    found = [Finding(f"backups: {name}", False, why) for name, why in copies.broken().items()]
    if there:
        age = spoken((now - there[0].taken_at).total_seconds())
        said = f"{len(there)} copies of the server, the newest {age} old (no monitor asks for them)"
        found.append(Finding("backups: physical", True, said))
    return found


def _key(key: str) -> Finding:
    try:
        Seal(key)
    except SealError as error:
        return Finding("backups: key", False, str(error))
    return Finding("backups: key", True, "backups are sealed")


def _folder(subject: str, root: Path, setting: str) -> Finding:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        advice = f"Give this user the right to write, or set {setting}."
        return Finding(subject, False, f"{root}: {error.strerror}", advice)
    return room(subject, f"{root} is writable", shutil.disk_usage(root).free)
