"""A lake whose disk is made read-only while somebody writes into it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from flows.stores.lake import Lake, LakeError, LakeFile
from flows.stores.sessions import is_alive
from tests.flows.small_disk import closed, small_disk


def test_a_disk_that_nobody_may_write_to_any_more_is_told_and_ends_no_session_of_a_writer_badly(
    tmp_path: Path,
) -> None:
    def write(lake: Lake, batch: str) -> LakeFile:
        rows = pa.table({"id": [1, 2, 3]})
        return lake.write("raw", "raw_app__users", None, "", batch, rows, measured=None)

    disk = tmp_path / "disk"
    with small_disk(disk, 4000):
        lake, sweeper = Lake(disk / "lake"), Lake(disk / "lake")
        file = write(lake, "b1")
        marker = lake.session
        assert marker is not None
        with closed(disk):
            with pytest.raises(LakeError, match=r"can't be written in .*Read-only file system.*run again"):
                write(lake, "b2")
            with pytest.raises(LakeError, match=r"can't be written in .*Read-only file system.*run again"):
                sweeper.sweep(lambda since: ())
            lake.close()
            assert is_alive(marker) is False
        # Long ago, as it is for the next run.
        os.utime(marker, (time.time() - 60,) * 2)
        os.utime(disk / "lake" / file.path, (time.time() - 60,) * 2)
        with sweeper:
            assert sweeper.sweep(lambda since: ()) == [file.path]
        assert list(marker.parent.iterdir()) == []
