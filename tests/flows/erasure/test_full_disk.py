"""A disk that takes no more, at whatever place of an erasure."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows.errors import FlowsError
from tests.flows.erasure import child
from tests.flows.erasure.world import ADA, BOBS, SECRETS, Filled, bytes_of
from tests.flows.kill_child import Place
from tests.flows.small_disk import resize, small_disk
from tests.flows.warehouses import Warehouses

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def filled(warehouses: Warehouses) -> Filled:
    return Filled.build(warehouses)


def _said(place: Place) -> str:
    """Why nobody was erased; empty where somebody was."""
    try:
        child.play(place, ADA)
    except FlowsError as error:
        return str(error)
    return ""


def test_an_erasure_that_a_full_disk_ends_says_so_and_goes_on_where_there_is_room(
    filled: Filled, tmp_path: Path
) -> None:
    place, disk = filled.copy(), tmp_path / "disk"
    with small_disk(disk, 100_000):
        shutil.copytree(place.lake, disk / "lake")
        small = replace(place, lake=str(disk / "lake"))
        used = shutil.disk_usage(disk).used // 1024
        refused = 0
        for kilobytes in range(used, used + 4000, 8):
            resize(disk, kilobytes)
            if not (said := _said(small)):
                break
            assert said.startswith(f"The disk of the lake is full ({disk}")
            refused += 1
        assert refused > 5
        assert [secret for secret in SECRETS if secret in bytes_of(small).replace(BOBS, "")] == []
        assert not [path for path in (disk / "lake").rglob(".*") if path.is_file() and path.suffix != ".lock"]
