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
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """What is written here takes the place of the file at the end of the block; it is as it was, and nothing
    else is left, where the block does not come to its end.
    """
    temporary = path.with_name(f"{TEMPORARY}-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make names in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
