"""What happens to one written file before anybody may name it."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import pyarrow.parquet as pq

_HASH_CHUNK_BYTES = 4 << 20


def sync_and_hash(path: Path) -> tuple[int, str]:
    """Put a written file on the disk; its size in bytes and its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        # Writing back starts here and runs while the pages are hashed; the hash reads what the kernel holds.
        os.fsync(handle.fileno())
        size = 0
        while chunk := handle.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def measure(path: Path, measured: str | None) -> tuple[int, str | None, str | None]:
    """What the footer of a Parquet file says: its rows, least and greatest value of the column `measured`."""
    metadata = pq.read_metadata(path)
    rows = int(metadata.num_rows)
    if measured is None or rows == 0:
        return rows, None, None
    column = metadata.schema.names.index(measured)
    lows, highs = [], []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            lows.append(statistics.min)
            highs.append(statistics.max)
    return (rows, str(min(lows)), str(max(highs))) if lows else (rows, None, None)


def take_name(temporary: Path, folder: Path, name: str) -> Path:
    """Give the file its final name without ever replacing one (a rename would)."""
    final = folder / f"{name}.parquet"
    try:
        os.link(temporary, final)
    except FileExistsError:
        final = folder / f"{name}-{secrets.token_hex(4)}.parquet"
        os.link(temporary, final)
    temporary.unlink()
    return final
