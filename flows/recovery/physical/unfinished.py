"""Folders in which a restore puts a server together, each beside where it is to be. A note beside the backups
names it, locked by the process: what one has left that was killed is known by that and goes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.recovery.vault import BackupError

_NOTE, _SUFFIX = ".restoring-", ".restoring"
_log = logging.getLogger("flows.backups")


@contextmanager
def folder(home: Path, target: Path) -> Iterator[Path]:
    """A new folder beside `target`, closed to others and removed at the end; `home` holds the backups. What a
    restore into the same target has left that was killed goes first.

    Raises BackupError while another one is at work there, OSError for a place that can't be written.
    """
    work = target.with_name(f".{target.name}{_SUFFIX}")
    with _noted_down(home, target, work):
        shutil.rmtree(work, ignore_errors=True)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            work.mkdir(mode=0o700)
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _noted_down(home: Path, target: Path, work: Path) -> Iterator[None]:
    """Say beside the backups where a restore is at work, until nothing of it is left there."""
    note = home / f"{_NOTE}{hashlib.sha256(str(target).encode()).hexdigest()[:16]}"
    try:
        descriptor = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        descriptor = None  # backups that can only be read serve as well
    if descriptor is None:
        yield
        return
    try:
        if not _is_ours(descriptor, note):
            raise BackupError(f"Another restore into {target} is under way. Wait for it and run again.")
        note.write_text(json.dumps({"host": socket.gethostname(), "folder": str(work)}), encoding="utf-8")
        try:
            yield
        finally:
            if not work.exists():
                note.unlink()
    finally:
        os.close(descriptor)


def remove_left(home: Path) -> None:
    """Remove what restores on this machine have left that were killed. What can't be removed is told by a
    warning.
    """
    for note in sorted(home.glob(f"{_NOTE}*")):
        try:
            descriptor = os.open(note, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if _is_ours(descriptor, note) and (work := _noted(note)) is not None:
                if work.exists():
                    shutil.rmtree(work)
                note.unlink()
        except OSError as error:
            _log.warning(
                "What a restore that was killed has put together can't be removed (%s), and it holds what "
                "the backup holds. Remove it by hand.",
                error,
            )
        finally:
            os.close(descriptor)


def _noted(note: Path) -> Path | None:
    """The folder that a note of this machine names; None for one of another machine, or without a name."""
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        work = Path(noted["folder"])
        is_here = noted["host"] == socket.gethostname()
    except (ValueError, KeyError, TypeError):
        return None
    return work if is_here and work.name.startswith(".") and work.name.endswith(_SUFFIX) else None


def _is_ours(descriptor: int, note: Path) -> bool:
    """Whether this process has the lock of a note that is still there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), note.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
