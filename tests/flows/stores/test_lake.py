"""A lake file appears whole or not at all, is read unharmed or not at all, and never leaves the root."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.stores import manifest
from flows.stores.lake import Commit, DamagedFile, Lake, LakeError, LakeFile, encode_value
from flows.stores.manifest import ManifestDamaged, fold

TABLE = pa.table({"at": pa.array([1, 2, 3], pa.timestamp("us", "UTC")), "v": ["a", "b", "c"]})


def _write(lake: Lake, partition: str = "2025-10-07", batch: str = "b1") -> LakeFile:
    return lake.write("raw", "raw_app__users", "landed_on", partition, batch, TABLE, measured="at")


def _commit(token: str, *files: LakeFile, remove: tuple[str, ...] = ()) -> Commit:
    return Commit(token, "land", "raw", "raw_app__users", add=files, remove=remove)


def test_a_file_is_what_its_entry_says(lake: Lake) -> None:
    file = _write(lake)

    assert file.path == "raw/raw_app__users/landed_on=2025-10-07/b1.parquet"
    assert (file.rows, file.bytes) == (3, (lake.root / file.path).stat().st_size)
    assert file.sha256 == hashlib.sha256((lake.root / file.path).read_bytes()).hexdigest()
    assert (file.min, file.max) == ("1970-01-01 00:00:00.000001+00:00", "1970-01-01 00:00:00.000003+00:00")
    with duckdb.connect() as connection:
        assert lake.read(connection, [file]).columns == ["at", "v"]


def test_the_least_and_the_greatest_are_those_of_all_row_groups(lake: Lake) -> None:
    rows = pa.table({"at": pa.array(range(130_000, 0, -1), pa.int64())})
    file = lake.write("raw", "raw_app__users", None, "", "b1", rows, measured="at")

    assert pq.ParquetFile(lake.root / file.path).num_row_groups == 2
    assert (file.rows, file.min, file.max) == (130_000, "1", "130000")


def test_a_power_cut_at_any_moment_leaves_no_entry_without_its_file(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.begin_session()
    steps: list[str] = []
    fsync, link, mkdir = os.fsync, os.link, Path.mkdir

    def noted(step: str, path: str | Path) -> None:
        name = Path(path).relative_to(lake.root).as_posix()
        steps.append(f"{step} {'temporary' if '/.' in name else name}")

    def syncs(descriptor: int) -> None:
        fsync(descriptor)
        noted("sync", Path(f"/proc/self/fd/{descriptor}").readlink())

    def links(source: Path, target: Path) -> None:
        link(source, target)
        noted("name", target)

    def makes(path: Path, **more: Any) -> None:
        if not path.exists():
            noted("make", path)
        mkdir(path, **more)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(os, "link", links)
    monkeypatch.setattr(Path, "mkdir", makes)
    lake.append_manifest(_commit("t1", _write(lake)))

    table, day = "raw/raw_app__users", "raw/raw_app__users/landed_on=2025-10-07"
    assert steps == [
        "make raw",
        "sync .",
        f"make {table}",
        "sync raw",
        f"make {day}",
        f"sync {table}",
        "sync temporary",
        f"name {day}/b1.parquet",
        f"sync {day}",
        f"sync {table}/_manifest.jsonl",
        f"sync {table}",
    ]


def test_rows_that_no_longer_count_stay_in_their_file_and_are_not_read(lake: Lake) -> None:
    file, other = _write(lake), _write(lake, batch="b2")
    left = file.without([1]).without([1, 2])

    assert (left.rows, left.gone, left.sha256) == (1, (1, 2), file.sha256)
    assert LakeFile.from_json(json.loads(json.dumps(left.as_json()))) == left
    assert "gone" not in file.as_json()
    with duckdb.connect() as connection:
        assert lake.read(connection, [left]).project("v").fetchall() == [("a",)]
        assert sorted(lake.read(connection, [other, left]).project("v").fetchall()) == [
            ("a",), ("a",), ("b",), ("c",),
        ]  # fmt: skip
        assert connection.sql(f"select v from {lake.scan_at({left: [2]})}").fetchall() == [("c",)]
    assert fold([_commit("t1", file, other), _commit("t2", left)]) == [left, other]


def test_a_source_that_fails_midway_leaves_nothing(lake: Lake) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield TABLE.to_batches()[0]
        raise ValueError("the source broke")

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    with pytest.raises(Exception, match="broke"):
        lake.write("raw", "raw_app__users", "landed_on", "2025-10-07", "b1", reader)

    assert [path for path in lake.root.rglob("*") if path.is_file() and ".sessions" not in str(path)] == []


def test_a_name_that_is_taken_is_never_overwritten(lake: Lake) -> None:
    first, second = _write(lake), _write(lake)

    assert first.path != second.path
    assert len(lake.paths([first, second])) == 2


def test_a_flipped_bit_anywhere_blocks_the_read(lake: Lake) -> None:
    file = _write(lake)
    path = lake.root / file.path
    whole = path.read_bytes()
    rng = random.Random(7)
    for position in [rng.randrange(len(whole) * 8) for _ in range(300)]:
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="Nothing of it was loaded"):
            lake.paths([file])
    path.write_bytes(whole)
    assert lake.paths([file]) == [str(path)]


def test_a_truncated_or_missing_file_blocks_the_read(lake: Lake) -> None:
    file = _write(lake)
    path = lake.root / file.path
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFile):
            lake.paths([file])
    path.unlink()
    with pytest.raises(DamagedFile, match=r"b1\.parquet"):
        lake.paths([file])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE], ids=errno.errorcode.get)
def test_a_file_that_can_not_be_read_is_not_taken_for_a_damaged_one(lake: Lake, number: int) -> None:
    file = _write(lake)
    refused = OSError(number, os.strerror(number))
    with mock.patch.object(Path, "open", side_effect=refused), pytest.raises(LakeError) as caught:
        lake.paths([file])
    assert not isinstance(caught.value, DamagedFile)
    assert os.strerror(number) in str(caught.value)
    assert lake.paths([file])


@settings(max_examples=200)
@given(st.text())
def test_any_partition_value_is_one_harmless_path_component(value: str) -> None:
    encoded = encode_value(value)

    assert encoded not in {"", ".", ".."}
    assert len(encoded.encode()) <= 200
    assert not set(encoded) & set("/\\\0=*?[]'\" ")


@settings(max_examples=200)
@given(st.text(), st.text())
def test_different_values_have_different_names(one: str, other: str) -> None:
    assert (encode_value(one) == encode_value(other)) == (one == other)


@pytest.mark.parametrize("value", ["../../x", "/etc/x", "a\0b", "a=b", "..", ".", "", "x" * 500, "漢字"])
def test_no_value_leads_out_of_the_root(lake: Lake, tmp_path: Path, value: str) -> None:
    file = _write(lake, partition=value)

    assert Path(lake.paths([file])[0]).resolve().is_relative_to(lake.root.resolve())
    assert {path.name for path in tmp_path.iterdir()} == {"lake"}


def test_a_symbolic_link_is_neither_written_nor_read_through(lake: Lake, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    file = _write(lake)
    folder = lake.root / "raw" / "raw_app__users" / "landed_on=2025-10-08"
    folder.symlink_to(outside)

    with pytest.raises(LakeError, match="symbolic link"):
        _write(lake, partition="2025-10-08")
    for path in ("../outside/x.parquet", "/etc/passwd", "raw/raw_app__users/landed_on=2025-10-08/x.parquet"):
        with pytest.raises(DamagedFile):
            lake.paths([LakeFile(**{**file.as_json(), "path": path})])
    assert list(outside.iterdir()) == []


def test_a_full_disk_leaves_no_file_under_its_final_name(tmp_path: Path) -> None:
    """A child whose files may not grow past 4 kB meets what a full disk does: the write fails midway."""
    script = (
        "import resource, signal, sys, pyarrow as pa\n"
        "from flows.stores.lake import Lake, LakeError\n"
        "lake = Lake(sys.argv[1])\n"
        "source = pa.table({'v': [str(i * 7919) for i in range(200000)]})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    lake.write('raw', 'raw_app__users', None, '', 'b1', source)\n"
        "except LakeError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "lake")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    assert "Nothing was committed" in done.stdout
    assert list((tmp_path / "lake").rglob("*.parquet")) == []
    assert [p for p in (tmp_path / "lake" / "raw").rglob("*") if p.is_file()] == []


def test_nothing_is_written_where_the_disk_of_the_lake_was_unmounted_meanwhile(tmp_path: Path) -> None:
    root, away = tmp_path / "lake", tmp_path / "away"
    with Lake(root) as lake:
        file = _write(lake)
        root.rename(away)
        root.mkdir()

        with pytest.raises(LakeError, match="unmounted"):
            _write(lake, batch="b2")
        with pytest.raises(LakeError, match="unmounted"):
            lake.append_manifest(_commit("t1", file))
        assert list(root.iterdir()) == []

        root.rmdir()
        away.rename(root)
        lake.append_manifest(_commit("t1", file))


def test_a_torn_last_line_is_ignored_and_overwritten(lake: Lake) -> None:
    one, two = _commit("t1", _write(lake)), _commit("t2", _write(lake, batch="b2"))
    lake.append_manifest(one)
    path = lake.root / "raw" / "raw_app__users" / manifest.MANIFEST
    path.write_bytes(path.read_bytes() + b'{"checksum":"12')

    assert lake.manifest("raw", "raw_app__users") == [one]
    lake.append_manifest([one, two])
    assert lake.manifest("raw", "raw_app__users") == [one, two]


def test_a_changed_line_is_found(lake: Lake) -> None:
    lake.append_manifest([_commit("t1", _write(lake)), _commit("t2")])
    path = lake.root / "raw" / "raw_app__users" / manifest.MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"rows":3', b'"rows":4'))

    with pytest.raises(ManifestDamaged, match="Line 1"):
        lake.manifest("raw", "raw_app__users")


def test_the_sweep_removes_orphans_and_nothing_of_a_living_writer(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    with Lake(root) as dead:
        named, orphan = _write(dead), _write(dead, batch="b2")
    temporary = root / "raw" / "raw_app__users" / ".tmp-1-2-3"
    temporary.touch()
    time.sleep(0.02)
    with Lake(root) as living, Lake(root) as sweeper:
        time.sleep(0.02)
        written = _write(living, batch="b3")

        def known(since: datetime) -> set[str]:
            assert since.tzinfo is not None
            return {named.path}

        removed = sweeper.sweep(known)

        assert sorted(removed) == sorted([orphan.path, "raw/raw_app__users/.tmp-1-2-3"])
        assert (root / written.path).exists()
        assert (root / named.path).exists()
    time.sleep(0.02)
    with Lake(root) as sweeper:
        assert sweeper.sweep(known) == [written.path]
    assert list((root / ".sessions").iterdir()) == []


def test_the_sweep_takes_what_was_left_half_written_beside_the_layers_but_not_what_is_being_written(
    tmp_path: Path,
) -> None:
    left, written, own = (tmp_path / name for name in (".tmp-1-lake.sql", ".tmp-2-lake.sql", "mine.tmp"))
    for path, hours in (left, 2), (written, 0), (own, 2):
        path.touch()
        os.utime(path, (time.time() - hours * 3600,) * 2)

    with Lake(tmp_path) as lake:
        assert lake.sweep(lambda since: ()) == [left.name]

    assert written.exists()
    assert own.exists()


def test_compaction_keeps_the_rows_and_the_manifest_true(lake: Lake) -> None:
    files = [_write(lake, batch=f"b{number}") for number in range(3)]
    one = lake.compact(files, "landed_on", "compacted", measured="at")

    history = [_commit("t1", *files), _commit("t2", one, remove=tuple(file.path for file in files))]
    assert manifest.fold(history) == [one]
    assert one.rows == 9


def test_landed_rows_stand_in_groups_that_have_room_in_memory(tmp_path: Path) -> None:
    batches = [pa.record_batch({"value": [b"%05d" % number * 4_000] * 100}) for number in range(20)]
    reader = pa.RecordBatchReader.from_batches(batches[0].schema, iter(batches))
    with Lake(tmp_path) as lake:
        file = lake.write("raw", "raw_app__orders", None, "", "one", reader)
    written = pq.ParquetFile(tmp_path / file.path)
    assert written.read() == pa.Table.from_batches(batches)
    rows = [written.metadata.row_group(number).num_rows for number in range(written.num_row_groups)]
    assert sum(rows) == file.rows
    assert max(rows) * 20_000 < 20 << 20
