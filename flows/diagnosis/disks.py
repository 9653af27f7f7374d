"""The folders that runs write into, and what room there is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from flows.diagnosis import Finding, room
from flows.settings import Settings


def folders(settings: Settings) -> list[Finding]:
    """The lake, and the backups where they have a folder of their own: can be written, have room."""
    found = [_folder("lake", settings.lake_root, "ANALYTICS_LAKE")]
    if settings.backups is not None:
        found.append(_folder("backups", settings.backups_root, "ANALYTICS_BACKUPS"))
    return found


def _folder(subject: str, root: Path, setting: str) -> Finding:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        advice = f"Give this user the right to write, or set {setting}."
        return Finding(subject, False, f"{root}: {error.strerror}", advice)
    return room(subject, f"{root} is writable", shutil.disk_usage(root).free)
