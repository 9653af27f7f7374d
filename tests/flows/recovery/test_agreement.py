"""A run finds out that warehouse and lake tell two stories, and nothing else looks like that."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from flows import maintain
from flows.recovery.agreement import TwoStories, refuse_two_stories
from flows.services import Services
from flows.stores import manifest
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit
from flows.stores.verified import LakeError
from flows.stores.warehouse import Warehouse
from tests.flows.company import run_here
from tests.flows.recovery.conftest import unseen
from tests.house import Server

USERS = "raw_app__users"


def _land(ledger: Ledger, lake: Lake, *numbers: int) -> None:
    for number in numbers:
        file = lake.write("raw", USERS, None, "", f"b{number}", pa.table({"v": [number]}))
        commit = Commit(f"t{number}", "land", "raw", USERS, add=(file,), positions={"mark": number})
        ledger.record(lake, commit, version=ledger.positions(USERS).version)


def test_one_story_is_let_pass_also_while_a_line_or_a_manifest_is_missing(dsn: str, lake: Lake) -> None:
    with Warehouse(dsn).connect() as connection:
        ledger = Ledger(connection)
        refuse_two_stories(ledger, lake)
        _land(ledger, lake, 1, 2)
        with connection.transaction():
            ledger.commit(Commit("t3", "land", "raw", USERS, positions={"mark": 3}), version=2)
        refuse_two_stories(ledger, lake)
        before = lake.manifest("raw", USERS)
        lake.manifest_path("raw", USERS).unlink()

        refuse_two_stories(ledger, lake)
        ledger.repair_manifest(lake)

        assert [commit.token for commit in lake.manifest("raw", USERS)] == ["t1", "t2", "t3"]
        assert lake.manifest("raw", USERS)[:2] == before
        refuse_two_stories(ledger, lake)


def test_a_lake_that_is_ahead_or_behind_stops_a_run_with_the_command_that_mends_it(
    postgres18: Server, dsn: str, lake: Lake
) -> None:
    with Warehouse(dsn).connect() as connection:
        ledger = Ledger(connection)
        _land(ledger, lake, 1)
        earlier = lake.root.with_name("earlier")
        shutil.copytree(lake.root, earlier)
        _land(ledger, lake, 2)
        with (
            Warehouse(postgres18.database()).connect() as other,
            pytest.raises(TwoStories, match=rf"ahead of the warehouse: {USERS} have .*rebuild --from-lake"),
        ):
            refuse_two_stories(Ledger(other), lake)
        with Lake(earlier) as older, pytest.raises(TwoStories, match=rf"behind the warehouse: {USERS} lack"):
            refuse_two_stories(ledger, older)
        with Lake(lake.root.with_name("new")) as empty, pytest.raises(TwoStories, match="not there"):
            refuse_two_stories(ledger, empty)


@pytest.mark.parametrize("what", ["the folder", "a manifest"])
def test_a_lake_that_can_not_be_read_is_told_as_that_and_not_as_what_postgresql_refused(
    services: Services, tmp_path: Path, what: str
) -> None:
    given = services.settings
    if what == "the folder":
        given = given.model_copy(update={"lake": tmp_path / "file"})
        (tmp_path / "file").touch()
    else:
        path = services.lake.manifest_path("raw", USERS)
        path.unlink()
        path.mkdir()
    unreadable = Services(given)
    with pytest.raises(LakeError, match=r"^The lake can't be read in .*_manifest.jsonl: .* a directory\. "):
        maintain.tidy(unreadable, unseen())


WRITING = [
    ["maintain"],
    ["maintain", "--drop", "fct_visits", "--yes"],
    ["backup"],
    ["backup", "--physical"],
    ["erase", "--user", "1", "--yes"],
    ["replay", "--topic", "clicks", "--from", "0"],
    ["dlq", "replay", "one"],
    ["positions", "clicks", "--yes"],
    ["check", "--source", "orders"],
]
NOWHERE = {
    "APP_DSN": "postgresql://127.0.0.1:1/none",
    "KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "STRIPE_URL": "http://127.0.0.1:1",
    "SENDGRID_URL": "http://127.0.0.1:1",
}


@pytest.mark.parametrize("words", WRITING, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("is_unmounted", [False, True], ids=["of another warehouse", "unmounted"])
def test_what_writes_or_removes_files_of_a_lake_does_not_begin_where_the_ledger_is_of_another(
    postgres18: Server, services: Services, tmp_path: Path, words: list[str], is_unmounted: bool
) -> None:
    lake = services.lake.root
    if is_unmounted:
        lake = tmp_path / "mount"
        lake.mkdir()
    files = sorted(lake.rglob("*.parquet"))
    for path in files:
        os.utime(path, (0, 0))
    dsn = services.settings.require("warehouse_dsn") if is_unmounted else postgres18.database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "insert into ops.dead_letter (letter_id, source, entity, reason, payload, received_at) "
            "values ('one', 'events', 'clicks', 'no JSON', '{}', now())"
        )
    given = {**NOWHERE, "WAREHOUSE_DSN": dsn, "LAKE": str(lake), "SANDBOX": str(tmp_path / "none")}
    given["BACKUPS"] = str(tmp_path / "backups")

    done = run_here(words, tmp_path, {f"ANALYTICS_{name}": value for name, value in given.items()})

    assert done.code == 2, done.said
    assert ("The lake is not there" if is_unmounted else "ahead of the warehouse") in done.err
    assert "ANALYTICS_LAKE" in done.err
    assert sorted([*lake.rglob("*.parquet"), *lake.rglob(".tmp*")]) == files
    assert bool(files) is not is_unmounted
    assert not (tmp_path / "backups").exists()
    if is_unmounted:
        with services.ledger() as ledger:
            assert ledger.files("fct_visits"), "it would come back with the lake, and the ledger not know it"


def test_the_newest_entry_is_read_whatever_its_length_and_what_was_torn_behind_it(lake: Lake) -> None:
    path = lake.manifest_path("raw", USERS)
    assert manifest.last(path) is None
    short = Commit("t1", "land", "raw", USERS)
    for size in (0, 10, 1 << 15, 1 << 16, 1 << 17, 300_000):
        long = replace(short, token=f"long{size}", control={"x": "y" * size})
        manifest.append(path, [long])
        assert manifest.last(path) == long
        with path.open("ab") as handle:
            handle.write(b'{"torn')
        assert manifest.last(path) == long
