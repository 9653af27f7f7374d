"""Who was erased is known in the lake and in the warehouse before anything of a backup comes back."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from flows.__main__ import main
from flows.erasure import listed
from flows.erasure.person import Person
from flows.errors import FlowsError
from flows.recovery import raw_files
from flows.recovery.taking import open_vault, take
from flows.recovery.vault import POOL, Backup, BackupError
from flows.recovery.whole import from_lake
from flows.services import Services
from tests.flows.erasure.test_listed import NEW, in_list, written
from tests.flows.recovery.conftest import unseen
from tests.house import Server

ADA = Person.new(1).with_emails([NEW])


class Stopped(Exception):
    """It was killed here."""


@pytest.fixture
def backup(services: Services) -> Backup:
    """One from before somebody was erased, whom only the list beside it names."""
    backup = take(services, unseen()).backup
    written(open_vault(services).root, ADA)
    return backup


def test_raw_files_come_back_behind_the_list(services: Services, backup: Backup, tmp_path: Path) -> None:
    vault, lake = open_vault(services), written(tmp_path / "new", Person.new(2))
    (file,) = raw_files.listed(backup)
    (vault.root / POOL / file.path).write_bytes(b"damaged")
    with pytest.raises(BackupError, match="is damaged"):
        raw_files.give_back(vault, backup, lake, tmp_path / "work", unseen())
    assert set(listed.still_in(None, lake)) == {1, 2}


def test_a_database_is_restored_behind_the_lakes_list(
    services: Services, backup: Backup, postgres18: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYTICS_LAKE", str(services.lake.root))
    monkeypatch.setenv("ANALYTICS_BACKUPS", str(services.settings.backups))
    with mock.patch("flows.restore.restore", side_effect=Stopped), pytest.raises(Stopped):
        main(["restore", "--into", postgres18.empty(), "--backup", backup.id])
    assert in_list(services.lake.root)[0].has(NEW)


def test_a_warehouse_knows_who_was_erased_before_the_lake_is_replayed(services: Services) -> None:
    written(services.lake.root, ADA)
    with mock.patch("flows.recovery.whole.recover", side_effect=Stopped), pytest.raises(Stopped):
        from_lake(services, unseen())
    with services.warehouse.connect() as connection:
        assert [person.has(NEW) for person in listed.people(connection)] == [True]


def test_a_list_that_cant_be_read_stops_a_replay_before_it(services: Services) -> None:
    (services.lake.root / listed.FILE).write_text("[]\n")
    with mock.patch("flows.recovery.whole.recover") as recover, pytest.raises(FlowsError, match="is damaged"):
        from_lake(services, unseen())
    assert not recover.called
