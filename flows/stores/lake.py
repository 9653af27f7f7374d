"""The lake: Parquet files that appear whole or not at all, and are verified before anybody reads them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Self, TypeAlias

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from flows.failpoints import failpoint
from flows.stores import manifest, scan, sessions
from flows.stores.durable import TEMPORARY, fsync_folder
from flows.stores.engines import Engines
from flows.stores.files import measure, not_written, sync_and_hash, take_name, write_arrow, written
from flows.stores.manifest import Commit, LakeFile
from flows.stores.verified import DamagedFile, LakeError, Verified, damage
from transforms.contract import Layer, Table, check_name
from transforms.engine import text_literal

__all__ = ["Commit", "DamagedFile", "Lake", "LakeError", "LakeFile", "encode_value", "partition_folder"]

QUARANTINE = "quarantine"
"""Folder of the content that failed a check; no layer."""
SPILL = ".spill"
"""Folder of what a computation puts on disk for lack of memory; worthless once its process is gone."""
_MAX_COMPONENT_BYTES = 200
_BESIDE_SECONDS = 3600
"""So old is what somebody has left half written beside the layers: it is written at once, also by who has no
session.
"""
_SMALL_BYTES = 4 << 20
"""Less than this is hashed sooner than threads for it are started."""
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")

Source: TypeAlias = DuckDBPyRelation | pa.RecordBatchReader | pa.Table


class Lake:
    """A lake under one root folder. Safe for many processes at once; a `with` block ends its writing
    session.
    """

    def __init__(self, root: str | Path, memory_limit: str | None = None) -> None:
        """`memory_limit` ('2GB') is of each computation in `duckdb`; more spills below the root."""
        self.root = Path(root).absolute()
        self._session: sessions.WritingSession | None = None
        self._engines = Engines(memory_limit, self.root / SPILL)
        self._files = Verified()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ writing

    def write(
        self,
        layer: str,
        table: str,
        partition_column: str | None,
        partition: str,
        batch_id: str,
        source: Source,
        *,
        measured: str | None = None,
    ) -> LakeFile:
        """Write one file and return what the manifest has to know about it. Its name is final, yet nobody
        trusts it before a commit names it.

        The file is `<layer>/<table>/<partition_column>=<partition>/<batch_id>.parquet` (no such folder when
        `partition_column` is None), zstd, rows in the order of the source. `measured` is the column whose
        min and max are kept. A file that is there is never overwritten: the newcomer gets another name.
        Raises LakeFull, LakeError when the folder can't be written (rights, a symlink in the path).
        """
        folder = self._folder(layer, table, partition_column, partition)
        self.begin_session()
        name = encode_value(batch_id)
        temporary = folder / f"{TEMPORARY}-{os.getpid()}-{secrets.token_hex(4)}-{name}"
        try:
            self._make_folder(folder)
            self._copy(source, temporary)
            failpoint("lake.temporary_written")
            size, digest = sync_and_hash(temporary)
            failpoint("lake.fsynced")
            rows, low, high = measure(temporary, measured)
            final = take_name(temporary, folder, name)
            failpoint("lake.renamed")
            fsync_folder(folder)
            failpoint("lake.folder_fsynced")
        except (OSError, duckdb.IOException) as error:
            raise not_written(folder, error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        path = final.relative_to(self.root).as_posix()
        return LakeFile(table, layer, partition, path, rows, size, digest, low, high)

    def discard(self, file: LakeFile) -> None:
        """Remove a file that was written and will never be committed."""
        self._inside(file).unlink(missing_ok=True)

    def compact(
        self, files: Sequence[LakeFile], partition_column: str | None, batch_id: str, *, measured: str | None
    ) -> LakeFile:
        """Write the rows of one partition's files into one new file. Commit it as `Commit(kind='compact',
        …)`.
        """
        first = files[0]
        if {(file.layer, file.table, file.partition) for file in files} != {
            (first.layer, first.table, first.partition)
        }:
            raise LakeError(f"Only files of one partition of {first.table} can be compacted into one.")
        with self.duckdb() as cursor:
            source = self.read(cursor, files)
            return self.write(
                first.layer,
                first.table,
                partition_column,
                first.partition,
                batch_id,
                source,
                measured=measured,
            )

    def append_manifest(self, commits: Commit | Iterable[Commit]) -> None:
        """Append commits to their tables' manifests; a token that is there already is left out."""
        by_table: dict[tuple[str, str], list[Commit]] = {}
        for commit in [commits] if isinstance(commits, Commit) else commits:
            by_table.setdefault((commit.layer, commit.table), []).append(commit)
        for (layer, table), group in by_table.items():
            path = self.manifest_path(layer, table)
            with written(path.parent):
                self._make_folder(path.parent)
                manifest.append(path, group)

    def rewrite_manifest(
        self, layer: str, table: str, changed: Mapping[str, Commit], dropped: Collection[str]
    ) -> None:
        """Write a manifest anew (`manifest.rewrite`). Raises LakeError for what its disk says."""
        path = self.manifest_path(layer, table)
        with written(path.parent):
            manifest.rewrite(path, changed, dropped)

    # ------------------------------------------------------------------------------------------------ reading

    def paths(self, files: Iterable[LakeFile]) -> list[str]:
        """Absolute paths, after size and SHA-256 of every file were compared with what the commit says.

        For raw files, of which every row counts: `scan` leaves out those that do not. Read them with
        `hive_partitioning=false`. Raises DamagedFile (nothing may be loaded) for the first bad one.
        """
        wanted = list(files)
        if sum(file.bytes for file in wanted if not self._files.knows(self.root / file.path)) < _SMALL_BYTES:
            return [str(self._files.verify(self._inside(file), file)) for file in wanted]
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            return [str(path) for path in pool.map(self._files.verify, map(self._inside, wanted), wanted)]

    def scan(self, files: Iterable[LakeFile]) -> str:
        """What stands after FROM in DuckDB for the rows that count of verified files.

        Columns are matched by name. There must be at least one file. Raises DamagedFile as `paths` does.
        """
        wanted = list(files)
        return scan.counting(list(zip(self.paths(wanted), wanted, strict=True)))

    def scan_at(self, places: Mapping[LakeFile, Iterable[int]]) -> str:
        """The same for the rows at these positions of these files, whether they count or not."""
        paths = self.paths(places)
        return scan.at(dict(zip(paths, places.values(), strict=True)))

    def read(self, connection: DuckDBPyConnection, files: Iterable[LakeFile]) -> DuckDBPyRelation:
        """The verified files' rows that count as one relation; columns are matched by name. There must be at
        least one file.
        """
        wanted = list(files)
        if any(file.gone for file in wanted):
            return connection.sql(f"from {self.scan(wanted)}")
        paths = self.paths(wanted)
        return connection.read_parquet(paths, hive_partitioning=False, union_by_name=len(paths) > 1)

    def manifest(self, layer: str, table: str) -> list[Commit]:
        """Every commit of a table, oldest first; none for a table nothing was written for."""
        return manifest.read(self.manifest_path(layer, table))

    def manifest_path(self, layer: str, table: str) -> Path:
        """Where the manifest of a table is."""
        return self._folder(layer, table, None, "") / manifest.MANIFEST

    def manifests(self) -> list[tuple[str, str]]:
        """(layer, table) of everything in the lake that has a manifest."""
        found = self.root.glob(f"*/*/{manifest.MANIFEST}")
        return sorted((path.parent.parent.name, path.parent.name) for path in found)

    # ------------------------------------------------------------------------------------------------ tidying

    def begin_session(self) -> None:
        """Mark this process as one that writes here: what it writes from now on is no orphan while it lives.

        Called by the first write; call it before planning so that files the plan names stay until you are
        done. Raises LakeError when nothing can be written there.
        """
        if self._session is None:
            folder = self.root / sessions.FOLDER
            with written(folder):
                self._make_folder(folder)
                self._session = sessions.WritingSession(self.root)

    @property
    def session(self) -> Path | None:
        """The marker of this process's writing session (`sessions.is_alive`); None before it has begun."""
        return self._session.marker if self._session is not None else None

    def duckdb(self, *, keeps_order: bool = True) -> AbstractContextManager[DuckDBPyConnection]:
        """A DuckDB session in UTC for one computation: its memory is bounded, and what does not fit spills
        below the root. Whatever gets a name in it goes with it.

        `keeps_order`: rows come in the order of the source that has no other; not to keep it saves memory.
        """
        return self._engines.session(keeps_order=keeps_order)

    def stop(self) -> None:
        """Let nobody compute any more: what DuckDB is at is interrupted, and whoever asks for a session gets
        Stopped.
        """
        self._engines.stop()

    def close(self) -> None:
        """End the writing session and free what was opened."""
        if self._session is not None:
            self._session.end()
            self._session = None
        self._engines.close()

    def sweep(self, known: Callable[[datetime], Collection[str]]) -> list[str]:
        """Remove files that no commit names and no living writer can still name; returns their relative
        paths.

        `known(since)` gives the paths that must stay: those in force and those replaced since then
        (`Ledger.named_paths`). It is asked after the living sessions were listed: a writer that commits and
        ends in between would otherwise lose its files. Raises LakeError for what the lake's disk says.
        """
        if not self.root.is_dir():
            return []
        with written(self.root):
            return self._swept(known)

    # ------------------------------------------------------------------------------------------------- inside

    def _swept(self, known: Callable[[datetime], Collection[str]]) -> list[str]:
        limit = sessions.oldest(self.root)
        keep = known(datetime.fromtimestamp(limit, UTC))
        removed: list[str] = []
        for place in (*(layer.value for layer in Layer), QUARANTINE, SPILL):
            for folder, folders, names in os.walk(self.root / place, followlinks=False):
                folders.sort()
                # As text: there is a folder for every day of history, and a Path of each would be felt.
                below = folder[len(str(self.root)) + 1 :].replace(os.sep, "/")
                for name in sorted(names):
                    # What stands in quarantine under its final name stays until somebody removes it.
                    is_whole = name.endswith(".parquet") and place != QUARANTINE
                    is_ours = is_whole or name.startswith(TEMPORARY) or place == SPILL
                    relative = f"{below}/{name}"
                    if not is_ours or relative in keep:
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        path = Path(folder, name)
                        if path.lstat().st_mtime < limit:
                            path.unlink()
                            removed.append(relative)
        for path in sorted(self.root.glob(f"{TEMPORARY}-*")):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < limit - _BESIDE_SECONDS:
                    path.unlink()
                    removed.append(path.name)
        return removed

    def _copy(self, source: Source, path: Path) -> None:
        if isinstance(source, DuckDBPyRelation):
            to = text_literal(str(path))
            # As in `write_arrow`: the lowest level takes two thirds of the time, for files no larger.
            options = "format parquet, compression zstd, compression_level 1"
            source.query("written", f"copy written to {to} ({options})")
            return
        write_arrow(source.to_reader() if isinstance(source, pa.Table) else source, path)

    def _folder(self, layer: str, table: str, column: str | None, partition: str) -> Path:
        folder = self.root / Layer(layer).value / check_name(table)
        if column is not None:
            folder /= f"{check_name(column)}={encode_value(partition)}"
        return folder

    def _make_folder(self, folder: Path) -> None:
        """Create what is missing below the root, one fsynced step at a time; a symlink on the way is
        refused, and a root that is no more the one in which this process began.
        """
        if self._session is not None and not self._session.marker.exists():
            # A mount point without its disk is a folder like another: what is written there is lost to all.
            raise LakeError(
                f"The lake in {self.root} is not the one in which this process began: its disk was "
                "unmounted, or another one is mounted there, it seems. Nothing was written there; mount it "
                "again, and run again."
            )
        if not self.root.exists():
            self.root.mkdir(parents=True, exist_ok=True)
        current = self.root
        for part in folder.relative_to(self.root).parts:
            parent, current = current, current / part
            if current.is_symlink():
                raise LakeError(
                    f"{current} is a symbolic link; the lake writes only below its own root. Remove the link."
                )
            if not current.exists():
                current.mkdir(exist_ok=True)
                fsync_folder(parent)

    def _inside(self, file: LakeFile) -> Path:
        relative = PurePosixPath(file.path)
        path = self.root.joinpath(*relative.parts)
        if relative.is_absolute() or ".." in relative.parts or "\0" in file.path:
            raise DamagedFile(damage(path, "its name leads out of the lake"))
        if path.resolve() != self.root.resolve().joinpath(*relative.parts):
            raise DamagedFile(damage(path, "there is a symbolic link in its path"))
        return path


def partition_folder(table: Table) -> str | None:
    """The folder column of a model's files. Not the column itself: a reader that infers hive columns would
    put the folder's text in the place of the column's values."""
    return f"{table.partition.by}_{table.partition.every}" if table.partition else None


def encode_value(value: str) -> str:
    """A path component for any text: percent-encoded outside letters, digits, `_`, `-` and inner dots; never
    empty, never `.` or `..`, at most 200 bytes (longer ones end in a hash)."""
    raw = value.encode("utf-8", "surrogatepass")
    text = "".join(
        chr(byte) if byte in _PLAIN and not (index == 0 and byte == 0x2E) else f"%{byte:02X}"
        for index, byte in enumerate(raw)
    )
    if len(text) > _MAX_COMPONENT_BYTES:
        text = f"{text[: _MAX_COMPONENT_BYTES - 33].rstrip('%')}-{hashlib.sha256(raw).hexdigest()[:32]}"
    return text or "%"
