"""Fewer files where many small ones have come, or where many rows of one no longer count.

What is written anew is bounded by what came: files join others of their size, and a large one is written
again only when a share of it has gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from flows.stores.lake import Lake, partition_folder
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, LakeFile
from transforms.contract import Table

MAX_FILES = 8
"""More files of one partition than these are not kept."""
MOST_ROWS = 40_000_000
"""More are not joined at once, but for two files that hold more: who joins keeps others waiting meanwhile."""
GONE_SHARE = 0.1
"""The share of a file's rows that may have gone before it is written anew…"""
GONE_ROWS = 1_000
"""…if they are more than these."""


def to_be_joined(files: Sequence[LakeFile], at_most: int = MAX_FILES) -> list[LakeFile]:
    """Which files of a partition had better be one; none where all is well."""
    heavy = [
        file for file in files if len(file.gone) > max(GONE_ROWS, GONE_SHARE * (file.rows + len(file.gone)))
    ]
    if len(files) - len(heavy) < at_most:
        return heavy
    taken: list[LakeFile] = []
    rows = 0
    for file in sorted((file for file in files if file not in heavy), key=lambda file: file.rows):
        is_of_their_size = len(taken) < at_most // 2 or file.rows <= 2 * rows
        if not is_of_their_size or (len(taken) > 1 and rows + file.rows > MOST_ROWS):
            break
        taken.append(file)
        rows += file.rows
    return [*heavy, *taken]


def compact(table: Table, lake: Lake, ledger: Ledger, partitions: Iterable[str], run_id: str) -> None:
    """Join files of these partitions where it is time; the rows stay what they are.

    Called under the table's build lock. A crash leaves an orphan, or the partition as it is to be.
    """
    for (_, partition), state in ledger.states([table.name], sorted(partitions)).items():
        files = to_be_joined(state.files)
        if not files:
            continue
        folder = partition_folder(table) if partition else None
        measured = table.partition.by if table.partition else None
        commit = joined(lake, table, partition, files, folder, measured, run_id, state.version)
        ledger.record(lake, commit, version=state.version)


def joined(
    lake: Lake,
    table: Table,
    partition: str,
    files: Sequence[LakeFile],
    folder: str | None,
    measured: str | None,
    run_id: str,
    version: int = 0,
) -> Commit:
    """Write one file with the rows of several of a partition, in the folder column `folder`; the commit that
    puts it in their place.
    """
    name = hashlib.sha256(f"{version} {[file.path for file in files]}".encode()).hexdigest()[:20]
    file = lake.compact(files, folder, f"compact-{name}", measured=measured)
    return Commit(
        token=f"compact-{table.name}-{partition}-{name}",
        kind="compact",
        layer=table.layer.value,
        table=table.name,
        partition=partition,
        run_id=run_id,
        add=(file,) if file.rows else (),
        remove=tuple(old.path for old in files),
        row_count=file.rows,
    )
