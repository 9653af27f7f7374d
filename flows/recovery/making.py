"""A backup on its way: what is written, sealed where it has to be, and each file's sum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.failpoints import failpoint
from flows.recovery.seal import SUFFIX, Seal
from flows.stores.durable import fsync_folder
from flows.stores.files import sync_and_hash

FORMAT = 1
NOTED, SUMS, RAW_LIST = "backup.json", "SHA256SUMS", "raw.jsonl"
PLAIN = {NOTED, SUMS, RAW_LIST}
"""Never sealed: they hold no row, and whoever looks after the folder need not be able to read backups."""
MAKING = ".making-"
"""What the names of folders begin with that are no backup yet, or none any more."""


class Making:
    """A backup on its way: programs write into `work`, and what is there at the end becomes the backup."""

    def __init__(self, folder: Path, seal: Seal | None, private: Path) -> None:
        self.folder = folder
        self.seal = seal
        self.work = folder if seal is None else private

    def note(self, noted: Mapping[str, Any]) -> None:
        """Write backup.json."""
        text = json.dumps({"format": FORMAT, **noted}, indent=1, sort_keys=True)
        (self.folder / NOTED).write_text(text + "\n", encoding="utf-8")

    def finish(self) -> None:
        """Seal what has to be, and put every file on the disk with its sum."""
        lines: list[str] = []
        for path in sorted(path for path in self.work.rglob("*") if path.is_file()):
            name = path.relative_to(self.work).as_posix()
            if self.seal is not None and name not in PLAIN:
                target = self.folder / f"{name}{SUFFIX}"
                target.parent.mkdir(parents=True, exist_ok=True)
                self.seal.close(path, target)
                path.unlink()
        failpoint("backup.sealed")
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            lines.append(f"{sync_and_hash(path)[1]}  {path.relative_to(self.folder).as_posix()}\n")
        (self.folder / SUMS).write_text("".join(lines), encoding="utf-8")
        sync_and_hash(self.folder / SUMS)
        for folder in [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]:
            fsync_folder(folder)
