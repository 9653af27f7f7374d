"""The ledger commits once, in order, and can be rebuilt from the lake."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from flows.stores.lake import Commit, Lake, LakeFile
from flows.stores.ledger import Conflict, Ledger
from flows.stores.recovery import histories_of, replace_ledger
from flows.stores.warehouse import Warehouse
from tests.house import Server

USERS = "raw_app__users"


def _file(lake: Lake, batch: str) -> LakeFile:
    return lake.write("raw", USERS, "landed_on", "2025-10-07", batch, pa.table({"v": [1, 2]}))


def _landing(lake: Lake, token: str, mark: int) -> Commit:
    return Commit(
        token,
        "land",
        "raw",
        USERS,
        partition="2025-10-07",
        add=(_file(lake, token),),
        positions={"mark": mark},
        windows={"2025-10-06": 2},
        row_count=2,
    )


def test_a_landing_moves_the_position_once(warehouse: Warehouse, lake: Lake) -> None:
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        landing = _landing(lake, "t1", 1)
        assert ledger.record(lake, landing, version=ledger.positions(USERS).version)
        assert not ledger.record(lake, landing, version=0)

        position = ledger.positions(USERS)
        assert (position.positions, position.version, position.token) == ({"mark": 1}, 1, "t1")
        assert ledger.landed(USERS) == [landing]
        assert lake.manifest("raw", USERS) == [landing]


def test_an_entry_names_the_exact_bytes_of_what_it_committed(warehouse: Warehouse, lake: Lake) -> None:
    with warehouse.connect() as connection:
        landing = _landing(lake, "t1", 1)
        Ledger(connection).record(lake, landing, version=0)
        row = connection.execute("SELECT manifest_hash FROM ops.ledger WHERE token = 't1'").fetchone()

    (line,) = lake.manifest("raw", USERS)
    assert row == (line.manifest_hash,)
    (file,) = landing.add
    others = [
        replace(landing, token="t2"),
        replace(landing, add=(replace(file, sha256="0" * 64),)),
        replace(landing, add=(file.without([1]),)),
        replace(landing, add=()),
        replace(landing, remove=(file.path,)),
    ]
    hashes = {commit.manifest_hash for commit in (landing, *others)}
    assert len(hashes) == 6
    assert all(len(bytes.fromhex(one)) == 32 for one in hashes)


def test_the_slower_of_two_landings_changes_nothing(warehouse: Warehouse, lake: Lake) -> None:
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        ledger.record(lake, _landing(lake, "t1", 1), version=0)

        with pytest.raises(Conflict, match="Run again"):
            ledger.record(lake, _landing(lake, "t2", 2), version=0)

        assert [commit.token for commit in ledger.landed(USERS)] == ["t1"]
        assert ledger.positions(USERS).positions == {"mark": 1}


def test_of_eight_landings_at_once_one_wins(warehouse: Warehouse, tmp_path: Path) -> None:
    def one(number: int) -> bool:
        with Lake(tmp_path / "lake") as lake, warehouse.connect() as connection:
            try:
                return Ledger(connection).record(lake, _landing(lake, f"t{number}", number), version=0)
            except Conflict:
                return False

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one, range(8))) == [False] * 7 + [True]


def test_what_belongs_to_a_landing_is_committed_with_it_or_not_at_all(
    warehouse: Warehouse, lake: Lake
) -> None:
    with warehouse.connect() as connection:
        ledger = Ledger(connection)

        def broken(inner: object) -> None:
            connection.execute("INSERT INTO ops.refresh_owed VALUES ('x', 'y')")
            raise RuntimeError

        with pytest.raises(RuntimeError):
            ledger.record(lake, _landing(lake, "t1", 1), version=0, within=broken)

        assert ledger.positions(USERS).version == 0
        assert connection.execute("SELECT count(*) FROM ops.refresh_owed").fetchone() == (0,)
        assert lake.manifest("raw", USERS) == []


def test_a_missing_manifest_line_is_written_by_the_next_run(warehouse: Warehouse, lake: Lake) -> None:
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        landing = _landing(lake, "t1", 1)
        with connection.transaction():
            ledger.commit(landing, version=0)
        assert lake.manifest("raw", USERS) == []

        assert ledger.repair_manifest(lake) == ["t1"]
        assert ledger.repair_manifest(lake) == []
        assert lake.manifest("raw", USERS) == [landing]


def test_replaced_files_are_folded_and_kept_for_readers_who_still_have_the_old_list(
    warehouse: Warehouse, lake: Lake
) -> None:
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        ledger.record(lake, _landing(lake, "t1", 1), version=0)
        ledger.record(lake, _landing(lake, "t2", 2), version=1)
        old = ledger.files(USERS)
        new = lake.compact(old, "landed_on", "c1", measured=None)
        compaction = Commit(
            "c1", "compact", "raw", USERS, add=(new,), remove=tuple(file.path for file in old), row_count=4
        )
        ledger.record(lake, compaction, version=0)

        assert ledger.files(USERS) == [new]
        again = Commit("c2", "compact", "raw", USERS, remove=compaction.remove)
        with pytest.raises(Conflict):
            ledger.record(lake, again, version=0)
        assert ledger.positions(USERS).version == 2
        assert lake.sweep(ledger.named_paths) == []


def test_a_ledger_is_made_again_from_the_lake_whatever_it_held(postgres18: Server, lake: Lake) -> None:
    with Warehouse(postgres18.database()).connect() as connection:
        ledger = Ledger(connection)
        ledger.record(lake, _landing(lake, "t1", 1), version=0)
        ledger.record(lake, _landing(lake, "t2", 2), version=1)
        file = lake.write("staging", "stg_app__users", None, "", "s1", pa.table({"v": [1]}))
        build = Commit("s1", "build", "staging", "stg_app__users", add=(file,), based_on={USERS: "t2"})
        ledger.record(lake, build, version=0)
        states, landed = ledger.states(), ledger.landed(USERS)
        windows = ledger.landed_windows()
    with Warehouse(postgres18.database()).connect() as connection:
        ledger = Ledger(connection)
        ledger.record(lake, Commit("t9", "land", "raw", "raw_app__orders", positions={"mark": 9}), version=0)
        lake.manifest_path("raw", "raw_app__orders").unlink()

        for _ in range(2):
            with connection.transaction():
                replace_ledger(ledger, histories_of(lake))

            assert ledger.landed(USERS) == landed
            assert ledger.positions(USERS).positions == {"mark": 2}
            assert (ledger.positions("raw_app__orders").version, ledger.landed("raw_app__orders")) == (0, [])
            found = ledger.states()[("stg_app__users", "")]
            assert (found.token, found.files) == ("s1", states[("stg_app__users", "")].files)
            assert found.published_at is None
            assert ledger.landed_windows().keys() == windows.keys()
            again, before = ledger.landed_windows()[USERS]["2025-10-06"], windows[USERS]["2025-10-06"]
            assert again.row_count == before.row_count
