"""A PostgreSQL for a rehearsal: the packaged one, with its own initdb, on a free port of loopback, gone
afterwards.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import sandbox
from flows.recovery.vault import BackupError
from flows.sandbox import Part

_FOLDER = ".drill"


@contextmanager
def scratch(root: Path) -> Iterator[str]:
    """The DSN of an empty database of its own server, whose files are below `root`.

    What a rehearsal that was killed has left is removed first. Raises BackupError while another one is under
    way, FlowsError where the packaged PostgreSQL can't run.
    """
    folder = root / _FOLDER
    with _alone(root) as is_alone:
        if not is_alone:
            raise BackupError("Another drill is under way. Wait for it and run again.")
        sandbox.reset(folder)
        try:
            state = sandbox.start(folder, frozenset({Part.WAREHOUSE_POSTGRES}))
            assert state.warehouse_dsn is not None
            yield state.warehouse_dsn
        finally:
            sandbox.reset(folder)


def remove_left(root: Path) -> None:
    """End and remove the server of a rehearsal that was killed; one that is under way is left alone."""
    if (root / _FOLDER).is_dir():
        with _alone(root) as is_alone:
            if is_alone:
                sandbox.reset(root / _FOLDER)


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Hold the lock of rehearsals, as long as the process lives; false where another one has it."""
    descriptor = os.open(root / f"{_FOLDER}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
