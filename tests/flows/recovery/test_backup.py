"""A backup holds one moment, is there whole or not at all, and is opened by its key alone."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pyrage
import pytest
from pydantic import SecretStr

from flows import failpoints
from flows.__main__ import main
from flows.erasure.listed import begin
from flows.erasure.person import Person
from flows.erasure.raw import remove_replaced, substitute, true_manifest
from flows.errors import FlowsError
from flows.recovery import programs, raw_files
from flows.recovery.agreement import TwoStories
from flows.recovery.making import NOTED
from flows.recovery.physical.shelf import Copies
from flows.recovery.restoring import clear, notes_of, occupied, restore, workplace
from flows.recovery.seal import SealError
from flows.recovery.taking import Taken, open_vault, take
from flows.recovery.vault import POOL, Backup, BackupError, Vault
from flows.services import Services
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import fold
from flows.stores.publish import publish
from tests.flows.recovery.conftest import KEY, killed, land, unseen
from tests.flows.stores.world import DAY, EVENTS, built, visits
from tests.house import Server

ROOT = Path(__file__).parents[3]


def _take(services: Services, **settings: object) -> Taken:
    if settings:
        services = Services(services.settings.model_copy(update=settings))
    with services.lake:
        return take(services, unseen())


def _restored(services: Services, backup: Backup, server: Server) -> str:
    dsn, vault = server.empty(), open_vault(services)
    with workplace(vault) as work:
        restore(vault, backup, dsn, work)
    return dsn


def test_what_is_restored_is_what_was_noted_of_one_moment_though_publishes_go_on(
    services: Services, postgres18: Server
) -> None:
    dsn = services.settings.require("warehouse_dsn")
    stopped = threading.Event()

    def go_on() -> None:
        with psycopg.connect(dsn) as connection:
            number = 0
            while not stopped.is_set():
                number += 1
                connection.execute("insert into analytics.dim_people values (%s, 'n')", (number,))
                connection.execute("insert into ops.view_definition values (%s, 'x')", (str(number),))
                connection.commit()

    beside = threading.Thread(target=go_on)
    beside.start()
    try:
        backup = _take(services).backup
    finally:
        stopped.set()
        beside.join()

    there = notes_of(_restored(services, backup, postgres18))

    assert there == backup.notes
    assert there["analytics.dim_people"].rows == there["ops.view_definition"].rows
    assert there["analytics.dim_people"].rows < notes_of(dsn)["analytics.dim_people"].rows
    assert there["analytics.fct_visits_2025_10_07"].rows == 500


def test_what_somebody_has_set_for_the_database_changes_nothing_of_a_backup(
    services: Services, postgres18: Server
) -> None:
    """An encoding without a character of a name ended pg_dump."""
    with psycopg.connect(services.settings.require("warehouse_dsn"), autocommit=True) as connection:
        connection.execute("insert into analytics.dim_people values (1, 'Żółć')")
        for setting in ("client_encoding = 'latin1'", "datestyle = 'German'", "search_path = ''"):
            connection.execute(f"alter database {connection.info.dbname} set {setting}".encode())

    backup = _take(services).backup

    there = notes_of(_restored(services, backup, postgres18))
    assert there == backup.notes
    assert there["analytics.dim_people"].rows == 1


def test_while_a_snapshot_is_open_a_swap_waits_and_a_difference_does_not(services: Services) -> None:
    lake, warehouse = services.lake, services.warehouse
    swapped = built(lake, EVENTS, DAY, visits(DAY, 400, mark="x"), batch="e2")
    with warehouse.connect() as connection, Ledger(connection).locked("dump", "warehouse"):
        pending = publish(EVENTS, [swapped], warehouse=warehouse, lake=lake, way="swap")
        assert pending.is_pending
        assert "the backup that is being taken" in pending.message()
        changed = built(lake, EVENTS, DAY, visits(DAY, 501), batch="e3")
        assert publish(EVENTS, [changed], warehouse=warehouse, lake=lake).ways == {DAY: "diff"}
    assert publish(EVENTS, [swapped], warehouse=warehouse, lake=lake, way="swap").ways == {DAY: "swap"}


def test_a_file_that_is_another_or_missing_or_too_many_is_named(services: Services) -> None:
    backup, vault = _take(services).backup, open_vault(services)
    assert vault.problems(backup) == []
    assert list(raw_files.problems(vault, backup)) == []
    dumped = sorted((backup.folder / "dump").iterdir())[0]
    whole = bytearray(dumped.read_bytes())
    whole[len(whole) // 2] ^= 1
    dumped.write_bytes(whole)
    (backup.folder / "roles.sql").unlink()
    (backup.folder / "more").touch()
    raw = next((vault.root / "lake").rglob("*.parquet"))
    raw.write_bytes(raw.read_bytes()[:-1] + b"x")

    named = "\n".join([*vault.problems(backup), *raw_files.problems(vault, backup)])

    for name in (
        f"dump/{dumped.name}",
        "roles.sql",
        "more",
        f"the raw file raw/raw_app__users/landed_on={DAY}",
    ):
        assert name in named
    assert named.count("\n") == 3


def test_a_warehouse_that_came_back_empty_is_backed_up_in_the_place_of_no_other(
    services: Services, postgres18: Server, tmp_path: Path
) -> None:
    first, vault = _take(services).backup, open_vault(services)
    empty = Services(services.settings.model_copy(update={"warehouse_dsn": postgres18.database()}))

    with empty.lake, pytest.raises(TwoStories, match="ahead of the warehouse"):
        take(empty, unseen())
    nowhere = Services(empty.settings.model_copy(update={"lake": tmp_path / "new"}))
    with nowhere.lake, pytest.raises(FlowsError, match=r"^Nothing was landed yet, .*: python -m flows$"):
        take(nowhere, unseen())

    assert vault.backups() == [first]
    assert list(raw_files.problems(vault, first)) == []


def test_a_sealed_backup_says_nothing_without_its_key_and_everything_with_it(
    services: Services, postgres18: Server
) -> None:
    public = str(pyrage.x25519.Identity.from_str(KEY).to_public())
    backup = _take(services, backup_key=SecretStr(public)).backup
    texts = [path.read_bytes() for path in backup.folder.rglob("*") if path.is_file()]
    pooled = [path.read_bytes() for path in (backup.folder.parent / "lake").rglob("*") if path.is_file()]
    assert not any(b"create table" in text.lower() or b"PGDMP" in text for text in texts)
    assert all(text.startswith(b"age-encryption.org/v1") for text in pooled)
    assert not list(services.lake.root.rglob(".making-*")), "what stood open meanwhile is gone"

    owner = Services(services.settings.model_copy(update={"backup_key": SecretStr(KEY)}))
    assert notes_of(_restored(owner, backup, postgres18)) == backup.notes
    assert list(raw_files.problems(open_vault(owner), backup)) == []
    for wrong in (public, str(pyrage.x25519.Identity.generate()), None):
        key = SecretStr(wrong) if wrong else None
        stranger = Services(services.settings.model_copy(update={"backup_key": key}))
        with pytest.raises(SealError, match=rf"^Backup \S+ is sealed for {public}: set ANALYTICS_BACKUP_KEY"):
            open_vault(stranger).opener(backup)


def test_a_raw_file_is_kept_once_for_all_backups_and_goes_with_the_last(services: Services) -> None:
    first = _take(services)
    land(services, 2)
    second = _take(services)
    assert 0 < second.raw_bytes < first.raw_bytes * 1.5
    assert second.expired == (first.backup.id,), "of one day the newest stays"
    vault = open_vault(services)
    pool = vault.root / "lake"
    assert len(list(pool.rglob("*.parquet"))) == 2
    assert list(raw_files.problems(vault, second.backup)) == []

    (second.backup.folder / "raw.jsonl").write_text("")

    assert raw_files.expire(vault) == 2
    assert not pool.exists() or not list(pool.rglob("*.parquet"))


def test_of_old_backups_the_newest_of_each_day_and_of_each_week_stay_for_as_long_as_declared(
    services: Services,
) -> None:
    backup, vault = _take(services).backup, open_vault(services)
    now = datetime(2025, 11, 3, 12, tzinfo=UTC)  # a Monday
    hours = [1, 2, 26, 50, 24 * 8, 24 * 9, 24 * 15, 24 * 40]
    for number, before in enumerate(hours):
        folder = vault.root / f"2025{number}"
        folder.mkdir()
        noted = json.loads((backup.folder / NOTED).read_text())
        taken_at = (now - timedelta(hours=before)).isoformat()
        (folder / NOTED).write_text(json.dumps({**noted, "taken_at": taken_at}))
        (folder / "raw.jsonl").touch()
    _age(backup, days=1000)

    vault.expire(now, 3, 5)

    left = {round((now - backup.taken_at).total_seconds() / 3600) for backup in vault.backups()}
    assert left == {1, 26, 50, 24 * 8, 24 * 15}
    vault.expire(now + timedelta(days=3650), 3, 5)
    assert len(vault.backups()) == 1, "the newest of all stays"


def test_a_full_disk_leaves_the_earlier_backups_and_nothing_else(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _take(services).backup
    land(services, 2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flows.recovery.raw_files.shutil.copyfile", full)
    with pytest.raises(
        BackupError, match=r"^The disk of the backups is full .*Nothing of this backup is left"
    ):
        _take(services)
    names = sorted(path.name for path in first.folder.parent.iterdir())
    assert names == [".lock", first.id, "lake"]
    assert [item.id for item in open_vault(services).backups()] == [first.id]


def test_a_backup_beside_which_somebody_was_erased_says_so_and_the_next_one_is_whole(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def erase(name: str) -> None:
        if name != "backup.dumped":
            return
        with services.ledger() as ledger:
            begin(ledger.connection, services.lake, Person.new(1), "", services.settings.now())
            (old,) = ledger.files("raw_app__users")
            rows = pa.table({"v": [0]})
            written = services.lake.write("raw", "raw_app__users", "landed_on", DAY, "erased-1", rows)
            substitute(ledger, "raw_app__users", {old.path: written})
            true_manifest(services.lake, ledger, "raw", "raw_app__users")
            remove_replaced(services, ledger, {"raw_app__users": "raw"})

    monkeypatch.setattr("flows.recovery.taking.failpoint", erase)
    with pytest.raises(BackupError, match=r"somebody was erased.* Run `python -m flows backup` again"):
        _take(services)
    assert open_vault(services).backups() == []
    monkeypatch.undo()
    whole = _take(services).backup
    assert list(raw_files.problems(open_vault(services), whole)) == []
    (file,) = raw_files.listed(whole)
    (services.lake.root / file.path).unlink()
    (open_vault(services).root / POOL / file.path).unlink()
    with pytest.raises(BackupError, match=r"missing in the lake, though the ledger names it"):
        _take(services)


def test_a_server_newer_than_every_pg_dump_is_one_sentence() -> None:
    with pytest.raises(
        programs.ProgramError, match=r"PostgreSQL 99, and its pg_dump must be at least as new"
    ):
        programs.folder(990_001)


def test_without_a_backup_the_list_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYTICS_BACKUPS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["backup", "list"]) == 1
    assert "python -m flows backup" in capsys.readouterr().out


def test_where_there_is_none_what_may_be_wrong_is_said_and_which_command_takes_one(tmp_path: Path) -> None:
    for shelf, command in ((Vault(tmp_path, None), "backup"), (Copies(tmp_path, None), "backup --physical")):
        with pytest.raises(BackupError, match=rf"not mounted, .* \(`python -m flows {command}` does that\)"):
            shelf.find()


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(name, marks=() if name == "backup.dumped" else pytest.mark.full)
        for name in failpoints.names(ROOT / "flows" / "recovery")
        if name.startswith("backup.")
    ],
)
def test_a_backup_that_was_killed_leaves_nothing_that_counts(services: Services, failpoint: str) -> None:
    killed(services, take, failpoint)
    assert open_vault(services).backups() == []

    backup = _take(services).backup

    root = services.settings.backups_root
    assert sorted(path.name for path in root.iterdir()) == [".lock", backup.id, "lake"]
    assert open_vault(services).problems(backup) == []


def _age(backup: Backup, days: int) -> None:
    path = backup.folder / NOTED
    noted = json.loads(path.read_text())
    noted["taken_at"] = (backup.taken_at - timedelta(days=days)).isoformat()
    path.write_text(json.dumps(noted))


def test_an_occupied_target_is_cleared_only_when_nobody_of_ours_is_at_work_there(services: Services) -> None:
    dsn = services.settings.require("warehouse_dsn")
    services = Services(services.settings)
    with services.warehouse.connect(), pytest.raises(BackupError, match="at work in the target"):
        clear(dsn)
    assert occupied(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid()"
        )
    clear(dsn)
    assert occupied(dsn) == []


def test_raw_files_come_back_into_an_empty_lake_only_and_only_with_the_key(
    services: Services, tmp_path: Path
) -> None:
    backup = _take(services, backup_key=SecretStr(KEY)).backup
    lake, work = tmp_path / "new", tmp_path / "work"
    owner = open_vault(Services(services.settings.model_copy(update={"backup_key": SecretStr(KEY)})))

    with pytest.raises(SealError, match="set ANALYTICS_BACKUP_KEY"):
        raw_files.give_back(open_vault(services), backup, lake, work, unseen())
    assert raw_files.give_back(owner, backup, lake, work, unseen()) == 1
    with pytest.raises(BackupError, match="is not empty"):
        raw_files.give_back(owner, backup, lake, work, unseen())

    theirs = services.lake
    with Lake(lake) as there:
        assert there.manifests() == [("raw", "raw_app__users")]
        assert there.manifest("raw", "raw_app__users") == theirs.manifest("raw", "raw_app__users")
        (file,) = fold(there.manifest("raw", "raw_app__users"))
        assert (lake / file.path).read_bytes() == (theirs.root / file.path).read_bytes()
