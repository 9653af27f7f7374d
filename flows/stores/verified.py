"""Whether a file of the lake is the one that was committed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flows.errors import FlowsError
from flows.stores.manifest import LakeFile


class LakeError(FlowsError):
    """The lake can't be written or read; the message says where and what to do."""


class LakeFull(LakeError):
    """There is no space for what was to be written. It passes by itself once somebody frees some."""


class DamagedFile(LakeError):
    """A file is not the one the manifest names: nothing of it may be read."""


class Verified:
    """The files that one process has hashed; safe to share between threads."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, tuple[int, ...]]] = {}
        """Absolute path → the SHA-256 it was found to have, and what the disk said of the file then."""

    def knows(self, path: Path) -> bool:
        """Whether a file was hashed before: to see whether it is as it was then costs nothing."""
        return str(path) in self._seen

    def verify(self, path: Path, file: LakeFile) -> Path:
        """`path`, if it holds what was committed. Raises DamagedFile; LakeError where that can't be told."""
        try:
            with path.open("rb") as handle:
                about = os.fstat(handle.fileno())
                size = about.st_size
                # Whoever writes into a file changes its times: this one was hashed, and is as it was.
                known = (about.st_ino, size, about.st_mtime_ns, about.st_ctime_ns)
                if self._seen.get(str(path)) == (file.sha256, known):
                    return path
                digest = hashlib.file_digest(handle, "sha256").hexdigest() if size == file.bytes else ""
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedFile(damage(path, "it is gone")) from error
        except OSError as error:
            raise LakeError(
                f"{path} can't be read ({error.strerror or error}), so whether it is the file that was "
                "committed is not known. Nothing of it was loaded. Mend that (rights, disk), then run again."
            ) from error
        if size != file.bytes:
            raise DamagedFile(damage(path, f"it has {size:,} bytes and {file.bytes:,} were written"))
        if digest != file.sha256:
            raise DamagedFile(damage(path, "its SHA-256 is not the one that was written"))
        self._seen[str(path)] = (digest, known)
        return path


def damage(path: Path, reason: str) -> str:
    """The sentence for a file that is not the one that was committed."""
    return (
        f"{path} is not the file that was committed: {reason}. Nothing of it was loaded. "
        "Restore it from a backup, or rebuild its table from raw with `python -m flows rebuild`."
    )
