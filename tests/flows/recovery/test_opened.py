"""What a seal has opened is gone with its use, also where who used it was killed."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.progress import Progress
from flows.recovery import drill
from flows.recovery.opened import PREFIX
from flows.recovery.physical.shelf import FOLDER, Copies
from flows.recovery.restoring import put_back, workplace
from flows.recovery.taking import expire, open_vault, take
from flows.recovery.vault import Vault
from flows.services import Services
from tests.flows.recovery.conftest import killed, sealed, unseen


def _open(services: Services, _: Progress) -> None:
    """What a restore begins with; the target is never reached."""
    vault = open_vault(services)
    with workplace(vault) as work:
        put_back(vault, vault.find(), services.settings.require("warehouse_dsn"), work)


def _rehearse(services: Services, progress: Progress) -> None:
    drill.drill(services, None, progress)


def _left(services: Services) -> list[Path]:
    return sorted(services.settings.backups_root.glob(f"{PREFIX}*"))


def _readable(folder: Path) -> bool:
    """Whether a dump stands open there."""
    return (folder / "dump" / "toc.dat").read_bytes().startswith(b"PGDMP")


def test_what_a_killed_restore_has_opened_goes_with_the_next_backup_and_with_what_expires(
    services: Services,
) -> None:
    owner = sealed(services)
    take(owner, unseen())
    killed(services, _open, "restore.opened")
    (left,) = _left(owner)
    assert _readable(left)

    expire(services, open_vault(services))  # who needs no key
    assert _left(owner) == []

    killed(services, _open, "restore.opened")
    with workplace(open_vault(owner)) as work:
        assert _left(owner) == [work], "whoever opens one removes it too"
    killed(services, _open, "restore.opened")
    take(owner, unseen())
    assert _left(owner) == []


@pytest.mark.full
def test_what_a_killed_drill_has_opened_goes_with_the_next(services: Services) -> None:
    owner = sealed(services)
    take(owner, unseen())
    killed(services, _rehearse, "restore.opened")
    (left,) = _left(owner)
    assert _readable(left)

    drill.drill(owner, None, unseen())

    assert _left(owner) == []


def test_what_is_in_use_is_left_alone(tmp_path: Path) -> None:
    vault, copies = Vault(tmp_path, None), Copies(tmp_path / FOLDER, None)
    copies.root.mkdir()
    with workplace(vault) as work, workplace(copies) as other:
        (work / "dump").touch()
        begun_and_killed = tmp_path / f"{PREFIX}without-a-lock"
        begun_and_killed.mkdir()
        for shelf in (vault, copies):
            with shelf.making(datetime.now(UTC), tmp_path / "private"):
                assert not begun_and_killed.exists()
        assert (work / "dump").exists()
        assert other.exists()
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_what_can_not_be_removed_is_named_and_ends_nothing(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    there = services.settings.backups_root / f"{PREFIX}theirs"
    (there / ".lock").mkdir(parents=True)  # nothing that can be locked
    with caplog.at_level(logging.WARNING):
        take(services, unseen())
        with workplace(open_vault(services)) as work:
            assert work.exists()
    assert f"{there}, where a sealed backup was opened, can't be removed" in caplog.text
    assert "Remove it by hand" in caplog.text
    assert len(open_vault(services).backups()) == 1


def test_a_disk_without_locks_does_not_keep_anybody_from_restoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    with workplace(Vault(tmp_path, None)) as left:
        monkeypatch.setattr("flows.recovery.opened.fcntl.flock", refuse)
        with workplace(Vault(tmp_path, None)) as work:
            assert left.exists(), "nobody can tell whether it is in use"
            assert work.exists()
        assert not work.exists()
