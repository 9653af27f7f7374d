"""A backup that can't be read is told by its name; it stops no other, and nothing that it may need goes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.__main__ import main
from flows.diagnosis.disks import folders
from flows.recovery import raw_files
from flows.recovery.making import FORMAT, NOTED, RAW_LIST
from flows.recovery.physical.shelf import Copies
from flows.recovery.taking import open_vault, take
from flows.recovery.vault import POOL, BackupError, Vault
from flows.services import Services
from flows.settings import Settings
from tests.flows.recovery.conftest import land, unseen

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
OLD, NEW = "20250101T040000Z", "20251103T040000Z"


def _garbled(noted: Path) -> None:
    noted.write_bytes(b'{"format": 1, "taken_at": "20\xff')


def _halved(noted: Path) -> None:
    noted.write_text(noted.read_text()[:-20])


def _emptied(noted: Path) -> None:
    noted.write_text("")


def _no_object(noted: Path) -> None:
    noted.write_text("[]")


def _without_a_zone(noted: Path) -> None:
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "taken_at": "2025-01-01T04:00:00"}))


def _lost(noted: Path) -> None:
    noted.unlink()


def _unreadable(noted: Path) -> None:
    noted.unlink()
    noted.mkdir()  # what root can't read either


DAMAGES = [_garbled, _halved, _emptied, _no_object, _without_a_zone, _lost, _unreadable]
_OF_DUMP = {"sequence": 1, "raw": "copy", "owed_views": [], "tables": {}}
_OF_COPY = {"system": "7", "timeline": 1, "because": None, "folders": []}


def _made(root: Path, name: str, taken_at: datetime, **more: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / RAW_LIST).touch()
    noted = {"format": FORMAT, "taken_at": taken_at.isoformat(), "server_version": 180004, "sealed_for": None}
    (folder / NOTED).write_text(json.dumps({**noted, **more}))
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two dumps, the older of which has had its time."""
    monkeypatch.setenv("ANALYTICS_BACKUPS", str(tmp_path / "backups"))
    monkeypatch.chdir(tmp_path)
    _made(tmp_path / "backups", OLD, datetime(2025, 1, 1, 4, tzinfo=UTC), **_OF_DUMP)
    _made(tmp_path / "backups", NEW, datetime(2025, 11, 3, 4, tzinfo=UTC), **_OF_DUMP)
    return tmp_path / "backups"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_backup_that_can_not_be_read_is_listed_by_its_name_and_the_others_as_ever(
    root: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(root / NEW / NOTED)

    assert main(["backup", "list"]) == 1
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith(NEW)]
    assert f"{root / NEW / NOTED} " in line
    assert f"Restore it from a copy, or move {root / NEW} away" in line
    assert f"{OLD}  " in said
    assert f"1 in {root}, 1 can't be read." in said

    assert main(["backup", "list", "--json"]) == 1
    whole, damaged = json.loads(capsys.readouterr().out)
    assert (whole["backup"], whole["kind"]) == (OLD, "dump")
    assert (damaged["backup"], damaged["kind"]) == (NEW, "unreadable")
    assert str(root / NEW) in damaged["problem"]


def test_a_backup_of_a_later_version_stops_no_other(root: Path) -> None:
    (root / NEW / NOTED).write_text(json.dumps({"format": FORMAT + 1}))
    vault = Vault(root, None)
    assert [backup.id for backup in vault.backups()] == [OLD]
    with pytest.raises(BackupError, match=r"was written by a later version of this program: use that"):
        vault.find(NEW)


def test_the_newest_that_can_be_read_is_taken_with_a_word_about_the_other_which_is_refused_by_name(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _garbled(root / NEW / NOTED)
    vault = Vault(root, None)
    assert vault.find().id == OLD
    assert f"{root / NEW / NOTED} is damaged" in caplog.text
    caplog.clear()
    assert vault.find(OLD).id == OLD
    assert not caplog.text, "who names one has not asked for others"
    with pytest.raises(BackupError, match=rf"{NEW}/{NOTED} is damaged"):
        vault.find(NEW)
    _garbled(root / OLD / NOTED)
    with pytest.raises(BackupError, match=rf"(?s)no backup in {root} that can be read.*{NEW}.*{OLD}"):
        vault.find()


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_can_not_be_read_never_expires_nor_does_a_raw_file_while_it_is_there(
    root: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    for year in (2023, 2024):
        _made(root, f"{year}0101T040000Z", datetime(year, 1, 1, 4, tzinfo=UTC), **_OF_DUMP)
    damage(root / OLD / NOTED)
    pooled = root / POOL / "raw" / "raw_app__users" / "one.parquet"
    pooled.parent.mkdir(parents=True)
    pooled.touch()
    vault = Vault(root, None)

    assert vault.expire(NOW, 3, 3) == ["20230101T040000Z"], "the one before it stands in"
    assert str(root / OLD / NOTED) in caplog.text
    assert raw_files.expire(vault) == 0
    assert (root / OLD / RAW_LIST).exists()
    assert pooled.exists()

    (root / OLD).rename(root.parent / OLD)
    assert raw_files.expire(vault) == 1
    assert not pooled.exists()


def test_no_raw_file_expires_while_a_backup_does_not_say_which_it_needs(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / NEW / RAW_LIST).write_bytes(b'{"path": "raw/\xff')
    pooled = root / POOL / "one.parquet"
    pooled.parent.mkdir()
    pooled.touch()
    vault = Vault(root, None)
    assert raw_files.expire(vault) == 0
    assert pooled.exists()
    assert f"{root / NEW / RAW_LIST} is damaged" in caplog.text
    with pytest.raises(BackupError, match=rf"{NEW}/{RAW_LIST} is damaged.* move {root / NEW} away"):
        raw_files.listed(vault.find(NEW))


def test_the_chain_that_an_unreadable_increment_may_stand_on_stays(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "physical", None)
    days = (200, 40, 39, 38, 1)
    names = [f"{NOW - timedelta(days=before):%Y%m%dT%H%M%SZ}" for before in days]
    alone, full, one, two, newest = names
    for name, based_on in ((alone, None), (full, None), (one, full), (two, one), (newest, None)):
        taken_at = datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        _made(copies.root, name, taken_at, based_on=based_on, **_OF_COPY)
    _garbled(copies.root / two / NOTED)

    assert copies.expire(NOW, 3, 3) == [alone]
    assert [copy.id for copy in copies.backups()] == [newest, one, full]
    _garbled(copies.root / full / NOTED)
    with pytest.raises(BackupError, match=rf"^{one} is an increment on {full}, and .*{NOTED} is damaged"):
        copies.chain(copies.find(one))


def test_a_backup_is_taken_beside_one_that_can_not_be_read(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    with services.lake:
        first = take(services, unseen()).backup
        _garbled(first.folder / NOTED)
        land(services, 2)
        second = take(services, unseen())
    vault = open_vault(services)
    assert [backup.id for backup in vault.backups()] == [second.backup.id]
    assert second.expired == ()
    assert f"{first.folder / NOTED} is damaged" in caplog.text
    assert list(raw_files.problems(vault, second.backup)) == []


def test_the_doctor_names_a_backup_that_can_not_be_read(root: Path, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, lake=tmp_path / "lake", backups=root)
    assert all(one.well for one in folders(settings))
    _garbled(root / NEW / NOTED)
    (told,) = [one for one in folders(settings) if not one.well]
    assert told.subject == f"backups: {NEW}"
    assert str(root / NEW / NOTED) in told.seen


def test_doctor_and_list_tell_of_copies_of_the_server_how_old_they_are_and_which_lack_what_they_build_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(_env_file=None, lake=tmp_path / "lake", backups=root)
    copies = root / "physical"
    taken_at = settings.now() - timedelta(hours=30)
    assert not [one for one in folders(settings) if one.subject == "backups: physical"]
    _made(copies, OLD, taken_at - timedelta(days=1), based_on=None, **_OF_COPY)
    _made(copies, NEW, taken_at, based_on=OLD, **_OF_COPY)
    assert all(one.well for one in folders(settings))
    (place,) = [one for one in folders(settings) if one.subject == "backups"]
    newest = max(backup.taken_at for backup in Vault(root, None).backups())
    assert f"; 2 there, the newest {(settings.now() - newest).days} d" in place.seen
    (told,) = [one for one in folders(settings) if one.subject == "backups: physical"]
    assert told.seen.startswith("2 copies of the server, the newest 1 d 6 h old")
    assert main(["backup", "list"]) == 0

    shutil.rmtree(copies / OLD)

    (told,) = [one for one in folders(settings) if not one.well]
    assert told.subject == f"backups: {NEW}"
    why = f"{NEW} is an increment, and {OLD}, which it builds on, is not in {copies}"
    assert why in told.seen
    assert main(["backup", "list"]) == 1
    assert why in capsys.readouterr().out
