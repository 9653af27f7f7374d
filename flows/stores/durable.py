"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"
"""What the name of a file begins with that is being written, or that a kill has left so."""


@contextmanager
def written_whole(path: Path, *, is_first: bool = False) -> Iterator[BinaryIO]:
    """What is written here takes the place of the file at the end of the block; it is as it was, and nothing
    else is left, where the block does not come to its end.

    With `is_first` it takes nobody's place: FileExistsError where there is one by then.
    """
    temporary = path.with_name(f"{TEMPORARY}-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if not is_first or not _linked(temporary, path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _linked(temporary: Path, path: Path) -> bool:
    """Give the file its name if nobody has it; whether that is done. Some mounts know no second name for a
    file: there what comes first is told by looking. Raises FileExistsError.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(path) from None
        return False
    return True


def fsync_folder(folder: Path) -> None:
    """Make names in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
