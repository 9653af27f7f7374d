"""Two warehouses whose settings name one folder for their backups: neither takes, ends or restores the
other's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from flows import maintain, restore
from flows.diagnosis import disks
from flows.erasure import erasing, listed
from flows.progress import Progress
from flows.recovery import identity, listing, taking
from flows.recovery.drill import drill
from flows.recovery.physical import shelf
from flows.recovery.physical import taking as physically
from flows.recovery.vault import BackupError, Vault
from flows.services import Services
from flows.stores.lake import Lake
from tests import children
from tests.flows.recovery.conftest import filled, land, unseen
from tests.house import Server

REFUSED = 7


@dataclass(frozen=True)
class Two:
    """Two warehouses and their one folder."""

    ours: Services
    theirs: Services

    @property
    def folder(self) -> Path:
        return self.ours.settings.backups_root


@pytest.fixture
def two(postgres18: Server, tmp_path: Path) -> Iterator[Two]:
    with ExitStack() as held:
        ours, theirs = (
            held.enter_context(filled(postgres18.database(), tmp_path / name)) for name in ("ours", "theirs")
        )
        for services in (ours, theirs):
            _name_anew(services)  # both databases are copies of one that was bootstrapped
        shared = {"backups": ours.settings.backups_root}
        yield Two(ours, Services(theirs.settings.model_copy(update=shared)))


def _name_anew(services: Services) -> None:
    with services.warehouse.connect() as connection:
        connection.execute("update ops.identity set warehouse = gen_random_uuid()")


def _named(services: Services) -> str:
    name = identity.of_lake(services.lake.root)
    assert name is not None
    return name


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def _listed(services: Services, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    with mock.patch.object(listing, "open_services", return_value=services):
        listing.list_command(argparse.Namespace(json=as_json))
    return capsys.readouterr().out


def test_a_folder_of_backups_is_one_warehouses(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    taken = taking.take(two.ours, unseen())
    before = _found(two.folder)
    refusal = rf"^{two.folder} has backups of another warehouse \({taken.backup.id} is of {_named(two.ours)},"
    with pytest.raises(BackupError, match=refusal):
        taking.take(two.theirs, unseen())
    with pytest.raises(BackupError, match=refusal):
        physically.take(two.theirs, unseen(), full=True)
    assert _named(two.theirs) != _named(two.ours)
    with pytest.raises(BackupError, match=refusal):
        taking.expire(two.theirs, taking.open_vault(two.theirs))
    with pytest.raises(BackupError, match=refusal):
        physically.expire(two.theirs, shelf.open_copies(two.theirs))
    assert _found(two.folder) == before

    assert f", of another warehouse ({_named(two.ours)})" in _listed(two.theirs, capsys)
    assert "warehouse" not in _listed(two.ours, capsys).splitlines()[0]
    assert [one["warehouse"] for one in json.loads(_listed(two.theirs, capsys, as_json=True))] == [
        _named(two.ours)
    ]
    (told,) = disks._of_others(two.folder, two.theirs.settings)
    assert (told.subject, told.well) == ("backups: whose", False)
    assert disks._of_others(two.folder, two.ours.settings) == []


def test_the_upkeep_says_once_that_the_folder_is_another_warehouses_and_goes_on(
    two: Two, capsys: pytest.CaptureFixture[str]
) -> None:
    taking.take(two.ours, unseen())
    before = _found(two.folder)
    capsys.readouterr()
    told = {}
    for name, services in (("ours", two.ours), ("theirs", two.theirs)):
        with services.ledger() as ledger:
            identity.agree(ledger.connection, services.lake)
        with Progress("maintain") as progress:
            assert maintain.tidy(services, progress).expired == 0
        told[name] = capsys.readouterr().err
    assert _found(two.folder) == before
    assert "another warehouse" not in told["ours"]
    assert told["theirs"].count("another warehouse") == 1
    (line,) = [line for line in told["theirs"].splitlines() if "another warehouse" in line]
    assert f"{two.folder} has backups of another warehouse" in line
    assert "Set ANALYTICS_BACKUPS to a folder of this warehouse's own; where the other one is no more" in line


def test_another_warehouses_backup_is_not_restored_unless_no_lake_says_whose_it_is_to_be(
    two: Two, tmp_path: Path
) -> None:
    taken = taking.take(two.ours, unseen())
    with two.theirs.ledger() as ledger:
        identity.agree(ledger.connection, two.theirs.lake)
    refusal = rf"^Backup {taken.backup.id} is of another warehouse \({_named(two.ours)}; .*--backup"
    for name in (None, taken.backup.id):
        with pytest.raises(BackupError, match=refusal):
            drill(two.theirs, name, unseen())
        with (
            mock.patch.object(restore, "open_services", return_value=two.theirs),
            pytest.raises(BackupError, match=refusal),
        ):
            restore._lake(tmp_path / "target", name)
    assert not (tmp_path / "target").exists()

    (two.theirs.lake.root / identity.FILE).unlink()
    assert identity.find(taking.open_vault(two.theirs), None, two.theirs).id == taken.backup.id


def test_where_two_were_in_one_folder_before_and_every_lake_is_lost_one_has_to_be_named(two: Two) -> None:
    first = taking.take(two.ours, unseen())
    noted = first.backup.folder / "backup.json"
    other = first.backup.folder.with_name("20200101T000000Z")
    other.mkdir()
    text = noted.read_text().replace(_named(two.ours), "00000000-0000-4000-8000-000000000001")
    (other / "backup.json").write_text(text)
    (two.ours.lake.root / identity.FILE).unlink()
    vault = taking.open_vault(two.ours)
    with pytest.raises(BackupError, match=r"of several warehouses.*backup list.*--backup"):
        identity.find(vault, None, two.ours)
    assert identity.find(vault, other.name, two.ours).id == other.name


def test_who_is_erased_is_not_noted_beside_the_backups_of_another_warehouse(two: Two) -> None:
    taking.take(two.ours, unseen())
    with two.theirs.ledger() as ledger:
        identity.agree(ledger.connection, two.theirs.lake)
    with pytest.raises(erasing.NotErased, match=r"of another warehouse.*ANALYTICS_BACKUPS"):
        erasing._beside_the_backups(two.theirs)
    assert not (two.folder / listed.FILE).exists()


def test_a_warehouse_that_was_lost_goes_on_as_the_one_that_its_lake_is_of(services: Services) -> None:
    taken = taking.take(services, unseen())
    assert taken.backup.warehouse == _named(services)
    _name_anew(services)
    land(services, 2)
    assert taking.take(services, unseen()).backup.warehouse == taken.backup.warehouse
    with services.warehouse.connect() as connection:
        row = connection.execute("select warehouse::text from ops.identity").fetchone()
    assert row == (taken.backup.warehouse,)


def test_a_lake_in_which_another_warehouse_has_begun_is_refused_before_anything_is_in_it(
    two: Two, tmp_path: Path
) -> None:
    with two.ours.ledger() as ours, two.theirs.ledger() as theirs, Lake(tmp_path / "new") as lake:
        own = identity.agree(ours.connection, lake)
        there = _found(lake.root)
        refusal = rf"^The lake {lake.root} is of another warehouse \({own}; .* Set ANALYTICS_LAKE to a folder"
        with pytest.raises(identity.OthersLake, match=refusal) as refused:
            identity.agree(theirs.connection, lake)
        assert refused.value.exit_code == 2
        assert _found(lake.root) == there
        assert identity.agree(ours.connection, lake) == own

        # The way that it names, where the other one is no more.
        (lake.root / identity.FILE).unlink()
        assert identity.agree(theirs.connection, lake) != own


def _begin(dsn: str, root: Path, both_found_none: Barrier) -> None:
    found = identity.of_lake

    def none_yet(root: Path) -> str | None:
        name = found(root)
        if name is None:
            both_found_none.wait(60)
        return name

    with (
        psycopg.connect(dsn) as connection,
        Lake(root) as lake,
        mock.patch.object(identity, "of_lake", none_yet),
        suppress(identity.OthersLake),
    ):
        identity.agree(connection, lake)
        return
    sys.exit(REFUSED)


def test_of_two_warehouses_that_begin_in_one_lake_at_the_same_moment_one_is_refused(
    two: Two, tmp_path: Path
) -> None:
    root, barrier = tmp_path / "new", children.barrier(2)
    both = (two.ours, two.theirs)
    begun = [
        children.begun(_begin, services.settings.require("warehouse_dsn"), root, barrier) for services in both
    ]
    for child in begun:
        child.join(60)
    codes = [child.exitcode for child in begun]
    assert sorted(codes, key=str) == [0, REFUSED]
    with both[codes.index(0)].warehouse.connect() as connection:
        assert connection.execute("select warehouse::text from ops.identity").fetchone() == (
            identity.of_lake(root),
        )
    assert _found(root) == [root / identity.FILE]


def test_a_backup_of_before_says_no_warehouse_and_is_taken_for_the_folders_own(two: Two) -> None:
    taken = taking.take(two.ours, unseen())
    noted = taken.backup.folder / "backup.json"
    said = json.loads(noted.read_text())
    assert said.pop("warehouse") == _named(two.ours)
    noted.write_text(json.dumps(said))
    assert Vault(two.folder, None).find(taken.backup.id).warehouse is None
    with two.theirs.ledger() as ledger:
        identity.agree(ledger.connection, two.theirs.lake)
    assert identity.find(taking.open_vault(two.theirs), None, two.theirs).id == taken.backup.id
    assert taking.take(two.theirs, unseen()).backup.warehouse == _named(two.theirs)
