"""A copy of the server holds all that it had at its end, an increment what has changed; they go as one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pyrage
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from flows import failpoints
from flows.__main__ import main
from flows.erasure.person import Person
from flows.recovery import programs
from flows.recovery.making import FORMAT, NOTED
from flows.recovery.notes import Note
from flows.recovery.physical.restoring import put_together
from flows.recovery.physical.shelf import DATA, LIST, Copies, Copy, open_copies
from flows.recovery.physical.taking import FULL_EVERY, TakenCopy, take
from flows.recovery.restoring import notes_of
from flows.recovery.seal import SealError
from flows.recovery.taking import open_vault
from flows.recovery.vault import BackupError
from flows.services import Services
from flows.stores.roles import lay
from tests.flows.erasure.test_listed import NEW, written
from tests.flows.recovery.conftest import KEY, filled, killed, unseen
from tests.flows.recovery.own_server import started
from tests.house import Server

ROOT = Path(__file__).parents[4]
OWN = "physical.copied"
OF_RESTORES = "restore.whole"
"""See test_unfinished.py."""
NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


def _with(services: Services, **settings: object) -> Services:
    return Services(services.settings.model_copy(update=settings))


def _take(services: Services, *, full: bool = False) -> TakenCopy:
    with services.lake:
        return take(services, unseen(), full=full)


def _add(dsn: str, number: int) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("insert into analytics.dim_people values (%s, 'n')", (number,))


def _content(dsn: str) -> dict[str, Note]:
    """What a warehouse holds but for the copies that it was there for: a copy does not know itself."""
    return {name: note for name, note in notes_of(dsn).items() if name != "ops.physical_backup"}


def _bytes_of_tables(copy: Copy) -> int:
    """Without the log: of that a copy holds one file of 16 MB or two, as it happens to begin and end."""
    return sum(path.stat().st_size for path in (copy.folder / DATA / "base").rglob("*") if path.is_file())


def _note(copy: Copy, **changed: object) -> None:
    path = copy.folder / NOTED
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.full
def test_a_server_is_put_together_from_a_full_copy_and_an_increment_as_it_was_at_the_second(
    services: Services, tmp_path: Path
) -> None:
    dsn, copies = services.settings.require("warehouse_dsn"), open_copies(services)
    first = _take(services).copy
    _add(dsn, 1)
    second = _take(services).copy
    then = _content(dsn)
    _add(dsn, 2)

    assert (first.based_on, first.because) == (None, "it is the first")
    assert (second.based_on, second.because) == (first.id, None)
    assert _bytes_of_tables(second) < _bytes_of_tables(first) / 2
    assert [copies.problems(copy) for copy in copies.backups()] == [[], []]
    put_together(copies, second, tmp_path / "restored", unseen())

    with started(tmp_path / "restored", dsn) as there:
        assert _content(there) == then
        onward = _take(_with(services, warehouse_dsn=SecretStr(there))).copy
    assert onward.because is not None
    assert onward.because.startswith(f"the server does not know {second.id}"), "it has another future"
    assert then["analytics.dim_people"].rows == notes_of(dsn)["analytics.dim_people"].rows - 1
    assert open_vault(services).backups() == [], "it is no dump"


@pytest.mark.full
def test_a_copy_is_full_where_no_increment_can_be_and_says_why(services: Services, server: Server) -> None:
    first = _take(services).copy
    assert _take(services, full=True).copy.because == "it was asked for"
    newest = _take(services).copy
    assert newest.because is None

    (newest.folder / LIST).write_text("{}")
    refused = _take(services).copy
    assert refused.because is not None
    assert refused.because.startswith(f"PostgreSQL makes no increment on {newest.id} (")
    _note(refused, timeline=7)
    newest = _take(services).copy
    assert newest.because == "the server went from timeline 7 to 1"
    _note(newest, system="1")
    newest = _take(services).copy
    assert newest.because is not None
    assert newest.because.endswith("is of another server")
    _note(newest, taken_at=(newest.taken_at - FULL_EVERY).isoformat(), based_on=None)
    for older in open_copies(services).backups():
        _note(older, taken_at=(older.taken_at - FULL_EVERY * 2).isoformat())
    assert str(_take(services).copy.because).startswith("the last full one is ")
    public = SecretStr(str(pyrage.x25519.Identity.generate().to_public()))
    assert str(_take(_with(services, backup_key=public)).copy.because).endswith("another key, or not at all")
    assert first.because == "it is the first"

    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("alter system set summarize_wal = off")
        connection.execute("select pg_reload_conf()")
        try:
            unknown = _take(services).copy
        finally:
            connection.execute("alter system reset summarize_wal")
            connection.execute("select pg_reload_conf()")
    assert unknown.based_on is None
    assert "ALTER SYSTEM SET summarize_wal = on" in str(unknown.because)


@pytest.mark.full
def test_no_increment_is_made_on_a_copy_of_a_time_to_come(services: Services) -> None:
    first, ahead = _take(services).copy, _take(services).copy
    _note(ahead, taken_at=(ahead.taken_at + FULL_EVERY * 50).isoformat())
    assert _take(services).copy.based_on == first.id


@pytest.mark.full
def test_a_server_older_than_17_gets_full_copies_which_come_back_as_they_are(
    postgres15: Server, tmp_path: Path
) -> None:
    with filled(postgres15.database(), tmp_path) as services:
        _take(services)
        copy = _take(services).copy
        assert copy.because == "PostgreSQL 15 makes no increments, 17 does"
        put_together(open_copies(services), copy, tmp_path / "restored", unseen())
    assert (tmp_path / "restored" / "PG_VERSION").read_text() == "15\n"


@pytest.mark.full
def test_a_sealed_copy_says_nothing_without_its_key_and_the_next_needs_the_half_that_closes_alone(
    services: Services, tmp_path: Path
) -> None:
    dsn = services.settings.require("warehouse_dsn")
    public = SecretStr(str(pyrage.x25519.Identity.from_str(KEY).to_public()))
    closes, opens = _with(services, backup_key=public), _with(services, backup_key=SecretStr(KEY))
    _take(closes)
    _add(dsn, 1)
    copy = _take(closes).copy
    then = _content(dsn)
    assert copy.because is None
    readable = {path.name for path in copy.folder.rglob("*") if path.is_file() and path.suffix != ".age"}
    assert readable == {NOTED, "SHA256SUMS", LIST}
    assert not list(services.lake.root.rglob(".making-*")), "what stood open meanwhile is gone"

    for stranger in (services, closes):
        with pytest.raises(SealError, match="set ANALYTICS_BACKUP_KEY to the AGE-SECRET-KEY-1"):
            put_together(open_copies(stranger), copy, tmp_path / "restored", unseen())
    put_together(open_copies(opens), copy, tmp_path / "restored", unseen())

    with started(tmp_path / "restored", dsn) as there:
        assert _content(there) == then


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(name, marks=() if name == OWN else pytest.mark.full)
        for name in [
            "backup.sealed",
            "backup.before_rename",
            *(n for n in failpoints.names(ROOT / "flows" / "recovery" / "physical") if n != OF_RESTORES),
        ]
    ],
)
def test_a_copy_that_was_killed_leaves_nothing_that_counts(services: Services, failpoint: str) -> None:
    killed(services, take, failpoint)
    assert open_copies(services).backups() == []

    copy = _take(services).copy

    assert sorted(path.name for path in copy.folder.parent.iterdir()) == [".lock", copy.id]
    assert copy.because == "it is the first"


@pytest.mark.full
def test_a_damaged_copy_is_named_and_an_occupied_folder_let_alone(services: Services, tmp_path: Path) -> None:
    copies, target = open_copies(services), tmp_path / "target"
    copy = _take(services).copy
    (target / "theirs").mkdir(parents=True)
    with pytest.raises(BackupError, match=r"target is not empty"):
        put_together(copies, copy, target, unseen())
    (target / "theirs").rmdir()
    damaged = copy.folder / DATA / "global" / "pg_control"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")

    with pytest.raises(BackupError, match=rf"{copy.id}: data/global/pg_control is not the file that was "):
        put_together(copies, copy, target, unseen())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "lake", "target"]
    assert list(target.iterdir()) == []


def test_a_server_whose_files_lie_elsewhere_too_is_not_copied(services: Services, server: Server) -> None:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute("create tablespace elsewhere location ''")
        try:
            with pytest.raises(
                BackupError, match=r"tablespaces of its own \(elsewhere\).*flows backup`, the d"
            ):
                _take(services)
        finally:
            connection.execute("drop tablespace elsewhere")
    assert open_copies(services).backups() == []


def test_who_may_not_copy_the_server_is_told_what_to_ask_for(services: Services, server: Server) -> None:
    dsn = services.settings.require("warehouse_dsn")
    with psycopg.connect(dsn, autocommit=True) as connection:
        lay(connection)
        connection.execute("create role etl login password 'x' in role loader")
    login = _with(services, warehouse_dsn=SecretStr(make_conninfo(dsn, user="etl", password="x")))
    try:
        with pytest.raises(BackupError, match=r'^The login etl may not .*`ALTER ROLE "etl" REPLICATION`'):
            _take(login)
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop role etl")
    assert open_copies(services).backups() == []


def test_without_programs_of_the_servers_version_there_is_no_copy() -> None:
    with pytest.raises(programs.ProgramError, match=r"PostgreSQL 99, and a copy .* of the same version"):
        programs.folder_of(990_001)


def _made(copies: Copies, name: str, before: timedelta, based_on: str | None = None) -> None:
    folder = copies.root / name
    folder.mkdir(parents=True)
    noted = {"format": FORMAT, "taken_at": (NOW - before).isoformat(), "server_version": 180004}
    noted |= {"sealed_for": None, "system": "7", "timeline": 1, "because": None, "folders": []}
    (folder / NOTED).write_text(json.dumps({**noted, "based_on": based_on}))


def test_a_chain_goes_as_a_whole_and_stays_while_one_of_it_is_kept(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "physical", None)
    _made(copies, "2025-alone", timedelta(days=200))
    _made(copies, "2025-full", timedelta(days=40))
    _made(copies, "2025-one", timedelta(days=39), "2025-full")
    _made(copies, "2025-two", timedelta(days=1), "2025-one")

    assert copies.expire(NOW, 3, 3) == ["2025-alone"]
    assert [copy.id for copy in copies.chain(copies.find())] == ["2025-full", "2025-one", "2025-two"]
    _made(copies, "2025-next", timedelta(0))
    assert copies.expire(NOW + timedelta(days=30), 3, 3) == ["2025-two", "2025-one", "2025-full"]
    assert [copy.id for copy in copies.backups()] == ["2025-next"]

    _made(copies, "2025-orphan", timedelta(0), "2025-gone")
    with pytest.raises(BackupError, match="2025-orphan is an increment, and 2025-gone, which it builds on"):
        copies.chain(copies.find("2025-orphan"))


@pytest.mark.full
def test_the_commands_say_what_there_is_and_whom_a_copy_still_has(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", services.settings.require("warehouse_dsn"))
    monkeypatch.setenv("ANALYTICS_LAKE", str(services.lake.root))
    monkeypatch.setenv("ANALYTICS_BACKUPS", str(services.settings.backups_root))
    assert main(["backup", "--full"]) == 2
    assert "--full belongs to `python -m flows backup --physical`" in capsys.readouterr().err

    assert main(["backup", "--physical"]) == 0
    assert main(["backup", "list", "--json"]) == 0
    said, _, listed = capsys.readouterr().out.partition("[")
    (copy,) = json.loads(f"[{listed}")
    assert f"Physical backup {copy['backup']}: full copy of the server" in said
    assert "Full, because it is the first." in said
    assert (copy["kind"], copy["based_on"]) == ("full", None)
    with services.warehouse.connect() as connection:
        entered = connection.execute("select flow, summary -> 'about' from ops.run").fetchall()
        assert entered == [("backup", ["physical"])]
        assert connection.execute("select count(*) from ops.backup").fetchone() == (0,)

    written(open_vault(services).root, Person.new(1).with_emails([NEW]))
    assert main(["restore", "--physical", str(tmp_path / "restored")]) == 0
    said = capsys.readouterr().out
    assert "User 1, erased after this backup was taken, can be read in it until" in said
    assert "before anybody reads, `python -m flows rebuild --from-lake`" in said
    assert (tmp_path / "restored" / "backup_label").exists()
