"""Folders for what a seal has opened, beside the backups. Each is locked by the process that uses it, so that
what one has left that was killed is known and goes with the next that comes by.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".opened-"
_LOCK = ".lock"
_log = logging.getLogger("flows.backups")


@contextmanager
def folder(home: Path) -> Iterator[Path]:
    """A new folder, closed to others (as temporary folders are) and removed at the end."""
    remove_left(home)
    place, descriptor = _begun(home)
    try:
        yield place
    finally:
        # Before the removal: NFS keeps the name of a file that is open, and so its folder.
        if descriptor is not None:
            os.close(descriptor)
        _remove(place)


def remove_left(home: Path) -> None:
    """Remove every such folder that nobody uses: who did was killed. One that can't be removed is told by a
    warning, for neither a backup nor a restore should fail by it.
    """
    for place in sorted(home.glob(f"{PREFIX}*")):
        try:
            descriptor = _lock(place)
            if descriptor is None:
                continue
            try:
                # Whoever has just made it, and waits for its lock, sees that it is lost.
                (place / _LOCK).unlink()
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            continue
        except OSError as error:
            _warn(place, error)
            continue
        _remove(place)


def _begun(home: Path) -> tuple[Path, int | None]:
    """A folder of our own with its lock; without one where the disk has no locks: nobody else gets one there
    either, without which nobody removes it.
    """
    while True:
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
        try:
            descriptor = _lock(place)
        except FileNotFoundError:
            continue
        except OSError:
            return place, None
        if descriptor is not None:
            return place, descriptor


def _lock(place: Path) -> int | None:
    """The lock of a folder, held; None where somebody else has it, or had it and has removed the folder.
    Raises OSError where there is nothing to lock.
    """
    path = place / _LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    is_held = False
    try:
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = os.path.samestat(os.fstat(descriptor), path.stat())
    finally:
        if not is_held:
            os.close(descriptor)
    return descriptor if is_held else None


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)  # as much of it as can be
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        return
    except OSError as error:
        _warn(place, error)


def _warn(place: Path, error: OSError) -> None:
    _log.warning(
        "%s, where a sealed backup was opened, can't be removed (%s), and what is in it can be read by its "
        "owner. Remove it by hand.",
        place,
        error.strerror or error,
    )
