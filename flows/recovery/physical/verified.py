"""Whether a data folder is what its backup_manifest says: what pg_verifybackup asks, which the packaged
PostgreSQL has in no form that runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.recovery import programs
from flows.recovery.physical.shelf import LIST
from flows.recovery.vault import BackupError

HASHED = "--manifest-checksums=SHA256"
"""What pg_basebackup and pg_combinebackup are told, so that anybody can check a file."""
_LOG = "pg_wal"


def verify(place: Path, data: Path) -> None:
    """Every file of a copy is there and is what the server sent, no other is, and the log that makes it
    consistent can be read. `place`: PostgreSQL's programs. Raises BackupError naming the first
    that is not so, ProgramError for the log.
    """
    manifest = json.loads((data / LIST).read_text(encoding="utf-8"))
    named = {_name(file): file for file in manifest["Files"]}
    there = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    # The log comes beside what is summed: its own checksums are looked at below.
    there, named = _but_log(there - {LIST}), {name: named[name] for name in _but_log(named)}
    if wrong := sorted(named.keys() ^ there):
        raise BackupError(
            f"{wrong[0]} {'is missing' if wrong[0] in named else 'is too many'} in the copy of the server, "
            "held against its backup_manifest. Take another one."
        )
    for name, file in named.items():
        with (data / name).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if digest != file["Checksum"]:
            raise BackupError(
                f"{name} in the copy of the server is not what its backup_manifest says (SHA-256): the disk "
                "is failing, or somebody changed it. Take another one."
            )
    for log in manifest["WAL-Ranges"]:
        words = [f"--timeline={log['Timeline']}", f"--start={log['Start-LSN']}", f"--end={log['End-LSN']}"]
        programs.run(place / "pg_waldump", ["--quiet", f"--path={data / _LOG}", *words])


def _but_log(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith(f"{_LOG}/")}


def _name(file: dict[str, Any]) -> str:
    """A path that is no UTF-8 is told in hexadecimal."""
    return str(file["Path"]) if "Path" in file else bytes.fromhex(file["Encoded-Path"]).decode()
