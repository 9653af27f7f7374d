"""Disks that take no more, at whatever place of a backup or a restore."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.recovery import raw_files
from flows.recovery.restoring import workplace
from flows.recovery.taking import open_vault, take
from flows.recovery.vault import POOL, BackupError
from flows.services import Services
from tests.flows.recovery.conftest import land, sealed, unseen
from tests.flows.small_disk import resize, small_disk


def _said(services: Services) -> str:
    """Why no backup was taken; empty where one was."""
    try:
        take(services, unseen())
    except BackupError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "is_sealed", [pytest.param(False, marks=pytest.mark.full), True], ids=["open", "sealed"]
)
def test_a_full_disk_is_told_as_that_wherever_it_is_met_and_leaves_nothing(
    services: Services, tmp_path: Path, is_sealed: bool
) -> None:
    disk = tmp_path / "disk"
    services = Services(services.settings.model_copy(update={"backups": disk / "backups"}))
    if is_sealed:
        services = sealed(services)
    vault = open_vault(services)
    with small_disk(disk, 4), services.lake:
        refused = 0
        for kilobytes in range(4, 1000, 28):
            resize(disk, kilobytes)
            if not (said := _said(services)):
                break
            assert said.startswith(f"The disk of the backups is full ({vault.root}")
            assert {path.name for path in vault.root.iterdir()} <= {".lock", POOL}
            refused += 1
        assert refused > 5
        backup = vault.find()
        assert vault.problems(backup) == []
        assert list(raw_files.problems(vault, backup)) == []


@pytest.mark.parametrize("is_sealed", [False, True], ids=["open", "sealed"])
def test_a_lake_that_has_no_room_is_filled_by_the_same_command_once_it_has(
    services: Services, tmp_path: Path, is_sealed: bool
) -> None:
    services = sealed(services) if is_sealed else services
    for number in range(2, 40):
        land(services, number)
    with services.lake:
        backup = take(services, unseen()).backup
    vault, disk = open_vault(services), tmp_path / "disk"
    with small_disk(disk, 24):
        with (
            pytest.raises(BackupError, match=r"can't be written or read.*: No space left on device"),
            workplace(vault) as work,
        ):
            raw_files.give_back(vault, backup, disk / "lake", work, unseen())
        resize(disk, 4000)
        with workplace(vault) as work:
            assert raw_files.give_back(vault, backup, disk / "lake", work, unseen()) == 39
    assert not list(vault.root.glob(".opened-*"))


def test_a_raw_file_that_the_backups_have_lost_is_named(services: Services, tmp_path: Path) -> None:
    with services.lake:
        backup = take(services, unseen()).backup
    vault = open_vault(services)
    (file,) = (path for path in (vault.root / POOL).rglob("*.parquet"))
    file.unlink()
    with workplace(vault) as work, pytest.raises(BackupError, match=rf"{file.name} of backup .* is missing"):
        raw_files.give_back(vault, backup, tmp_path / "new", work, unseen())
