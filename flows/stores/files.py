"""What happens to one written file before anybody may name it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.stores.verified import LakeError, LakeFull

_HASH_CHUNK_BYTES = 4 << 20
_GROUP_BYTES = 16 << 20
_GROUP_ROWS = 122_880
"""A row group holds no more: whoever writes or reads a file has a few of them in memory."""


def write_arrow(rows: pa.RecordBatchReader, path: Path) -> None:
    """Write rows in their order as they come. Raises what reading them raises."""
    # Not by DuckDB, which needs twice the time and ten times the memory for large values. The lowest level of
    # zstd takes half the time of the usual one, and landed JSON gets no larger by it.
    # Messages are hardly ever alike: a dictionary of them is made, filled and given up, and files get larger.
    alike = [field.name for field in rows.schema if not pa.types.is_binary(field.type)]
    with pq.ParquetWriter(
        path, rows.schema, compression="zstd", compression_level=1, use_dictionary=alike
    ) as writer:
        group: list[pa.RecordBatch] = []
        count = size = 0
        for batch in rows:
            group.append(batch)
            count, size = count + batch.num_rows, size + batch.nbytes
            if size >= _GROUP_BYTES or count >= _GROUP_ROWS:
                at_once = max(1, min(_GROUP_ROWS, count * _GROUP_BYTES // max(1, size)))
                writer.write_table(pa.Table.from_batches(group), row_group_size=at_once)
                group, count, size = [], 0, 0
        if group:
            writer.write_table(pa.Table.from_batches(group))


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


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """For what is written below this folder of the lake: raises LakeError, LakeFull where space is short."""
    try:
        yield
    except OSError as error:
        raise not_written(folder, error) from error


def not_written(folder: Path, error: Exception) -> LakeError:
    """What a failed write below this folder of the lake is, and what to do: LakeFull where space is short."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number in {errno.ENOSPC, errno.EDQUOT} or "No space left" in text or "Disk quota" in text:
        return LakeFull(
            f"The disk of the lake is full ({folder}). Nothing was committed; free space and run again."
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else text.splitlines()[0]
    return LakeError(
        f"The lake can't be written in {folder}: {reason}. Nothing was committed; fix that, or "
        "set ANALYTICS_LAKE to another folder, and run again."
    )
