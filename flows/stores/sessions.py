"""Who is writing in a lake right now, so that nothing of theirs is taken for an orphan."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

FOLDER = ".sessions"


class WritingSession:
    """A locked marker file below `root`; the kernel frees the lock when its process dies, however it dies."""

    def __init__(self, root: Path) -> None:
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    @property
    def marker(self) -> Path:
        """The file that is locked while it lives."""
        return self._path

    def end(self) -> None:
        """Remove the marker. Where the disk does not let go of it, it is one of the dead from now on."""
        try:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)


def is_alive(marker: Path) -> bool | None:
    """Whether the session of this marker lives; None where that can't be seen from here.

    A marker that is gone is of the dead: its own process removes it in the end, others (`oldest`) once it is.
    """
    try:
        descriptor = os.open(marker, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False if marker.parent.is_dir() else None
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def oldest(root: Path) -> float:
    """When the oldest living session began, by the disk's clock; now when there is none.

    Markers of dead processes are removed.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"probe-{secrets.token_hex(8)}"
    probe.touch()
    began = probe.stat().st_mtime
    probe.unlink()
    for path in folder.iterdir():
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A session that was created and is not locked yet began after `began`, and its owner keeps
            # writing under its lock without the marker's name: only old markers are surely of the dead.
            if os.fstat(descriptor).st_mtime < began - 1:
                path.unlink(missing_ok=True)
        except BlockingIOError:
            began = min(began, os.fstat(descriptor).st_mtime)
        finally:
            os.close(descriptor)
    return began
