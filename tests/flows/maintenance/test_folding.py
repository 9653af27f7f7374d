"""The past in fewer entries: whoever reads lake or ledger from any place that is told finds the same."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import failpoints
from flows.maintenance.folding import fold_past, folds
from flows.stores.lake import Lake
from flows.stores.ledger import Conflict, Ledger
from flows.stores.ledger_rows import RETIRED, lets_go
from flows.stores.manifest import Commit, Kind, LakeFile
from flows.stores.manifest import fold as files_after
from flows.stores.recovery import histories_of, replace_ledger
from flows.stores.verified import LakeFull
from flows.stores.warehouse import Warehouse
from tests import children
from tests.flows.small_disk import filled as full
from tests.flows.small_disk import small_disk

ORDERS, FACT, MART = "raw_app__orders", "fct_orders", "mart_daily_revenue"
ROOT = Path(failpoints.__file__).parent


def _file(path: str, gone: int = 0) -> LakeFile:
    return LakeFile("t", "facts", "", path, 100 - gone, 1, "", gone=tuple(range(gone)))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Commit], set[str], set[str]]:
    """Commits of a table: files come, lose rows, are replaced, of raw are let go of; some tokens are referred
    to.
    """
    chance = draw(st.randoms(use_true_random=False))
    layer = draw(st.sampled_from(["raw", "facts"]))
    there: dict[str, list[LakeFile]] = {"a": [], "b": [], "": []}
    commits = []
    for number in range(draw(st.integers(1, 25))):
        partition = chance.choice(sorted(there))
        files = there[partition]
        add, remove = [_file(f"{partition}{number}")] * chance.randint(0, 1), list[str]()
        for file in list(files):
            what = chance.random()
            if what < 0.2:
                remove.append(file.path)
                files.remove(file)
            elif what < 0.4:
                files[files.index(file)] = worn = file.without([*file.gone, len(file.gone)])
                add.append(worn)
        files += [file for file in add if file.path == f"{partition}{number}"]
        own: Kind = "land" if layer == "raw" else "publish"
        is_let_go = layer == "raw" and bool(remove) and not add and chance.random() < 0.5
        kind: Kind = "compact" if is_let_go or chance.random() < 0.2 else own
        commits.append(
            Commit(
                f"t{number}",
                kind,
                layer,
                "t",
                partition,
                add=tuple(add),
                remove=tuple(remove),
                windows={partition: 1},
                control={RETIRED: True} if is_let_go else {},
                row_count=number,
            )
        )
    tokens = [commit.token for commit in commits]
    picked = st.sets(st.sampled_from(tokens), max_size=4)
    return commits, draw(picked), draw(picked)


def _told(commits: Sequence[Commit], read: set[str], kept: set[str]) -> list[Commit]:
    groups = list(folds(commits, read, kept))
    changed = {group.commit.token: group.commit for group in groups}
    dropped = {token for group in groups for token in group.dropped}
    assert not dropped & changed.keys()
    return [changed.get(commit.token, commit) for commit in commits if commit.token not in dropped]


def _content(commits: Sequence[Commit]) -> dict[str, LakeFile]:
    return {file.path: file for file in files_after(commits)}


@given(histories())
def test_the_files_are_the_same_now_and_behind_every_entry_that_somebody_read(
    history: tuple[list[Commit], set[str], set[str]],
) -> None:
    commits, read, kept = history
    told = _told(commits, read, kept)
    tokens = [commit.token for commit in told]
    assert _content(told) == _content(commits)
    for token in read:
        at = [commit.token for commit in commits].index(token)
        until = tokens.index(token)
        assert _content(told[: until + 1]) == _content(commits[: at + 1])
        assert _content(told[until + 1 :]) == _content(commits[at + 1 :])


@given(histories())
def test_an_entry_removes_only_files_that_were_there_and_none_is_lost_from_the_count(
    history: tuple[list[Commit], set[str], set[str]],
) -> None:
    commits, read, kept = history
    told = _told(commits, read, kept)
    there: set[str] = set()
    for commit in told:
        assert there >= set(commit.remove)
        there -= set(commit.remove)
        there |= {file.path for file in commit.add}
    assert sum(sum(commit.windows.values()) for commit in told) == len(commits)
    assert [commit for commit in told if lets_go(commit)] == [commit for commit in commits if lets_go(commit)]
    # Told once more it is not told in fewer words.
    assert [commit.token for commit in _told(told, read, kept)] == [commit.token for commit in told]


def _age(warehouse: Warehouse) -> None:
    with warehouse.connect() as connection:
        connection.execute("update ops.ledger set committed_at = committed_at - interval '2 hours'")


def _land(ledger: Ledger, lake: Lake, first: int, count: int) -> None:
    for number in range(first, first + count):
        file = lake.write("raw", ORDERS, "landed_on", "2025-10-07", f"l{number}", pa.table({"v": [number]}))
        commit = Commit(
            f"land-{number}",
            "land",
            "raw",
            ORDERS,
            add=(file,),
            positions={"offsets": {"0": number + 1}},
            control={"offsets": {"0": [[number, number + 1]]}},
            windows={"2025-10-07": 1},
            row_count=1,
        )
        ledger.record(lake, commit, version=ledger.positions(ORDERS).version)


def _build(ledger: Ledger, lake: Lake, table: str, number: int, **based_on: str) -> None:
    """One more version of a whole table: a file takes the place of the one before."""
    state = ledger.states([table]).get((table, ""))
    file = lake.write("facts", table, None, "", f"b{number}", pa.table({"v": [number]}))
    commit = Commit(
        f"{table}-{number}",
        "build",
        "facts",
        table,
        add=(file,),
        remove=tuple(old.path for old in state.files) if state else (),
        based_on=based_on,
        row_count=1,
    )
    ledger.record(lake, commit, version=state.version if state else 0)


def _story(warehouse: Warehouse, lake: Lake) -> None:
    """Sixty landings, of which a fact has read forty; the fact was built twenty times since; all long ago."""
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        _land(ledger, lake, 0, 40)
        for number in range(20):
            _build(ledger, lake, FACT, number, **{ORDERS: "land-39"})
        _land(ledger, lake, 40, 20)
        _build(ledger, lake, MART, 0, **{FACT: f"{FACT}-19"})
    _age(warehouse)


def _fold(warehouse: Warehouse, lake: Lake) -> int:
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        return fold_past(ledger, lake, "raw", ORDERS, None, ()) + fold_past(
            ledger, lake, "facts", FACT, None, ()
        )


def _truth(warehouse: Warehouse, lake: Lake) -> dict[str, object]:
    """What anybody can ask of lake and ledger."""
    with warehouse.connect() as connection, lake.duckdb() as session:
        ledger = Ledger(connection)
        news = [file for landing in ledger.landed(ORDERS, after="land-39") for file in landing.add]
        told = files_after(lake.manifest("raw", ORDERS))
        return {
            "raw": sorted(lake.read(session, ledger.files(ORDERS)).fetchall()),
            "by the manifest": sorted(lake.read(session, told).fetchall()),
            "news of the fact": sorted(lake.read(session, news).fetchall()),
            "windows": ledger.landed_windows([ORDERS]),
            "position": ledger.positions(ORDERS),
            "states": ledger.states(),
            "rows landed": sum(landing.row_count for landing in ledger.landed(ORDERS)),
        }


def test_few_entries_tell_what_many_told(warehouse: Warehouse, lake: Lake) -> None:
    _story(warehouse, lake)
    before = _truth(warehouse, lake)
    assert _fold(warehouse, lake) == 39 + 19 + 19
    assert _truth(warehouse, lake) == before
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        assert ledger.landed(ORDERS) == lake.manifest("raw", ORDERS)
        assert [commit.token for commit in ledger.landed(ORDERS)] == ["land-39", "land-59"]
        assert ledger.landed(ORDERS)[0].control == {"offsets": {"0": [[0, 40]]}}
        _land(ledger, lake, 60, 1)
        assert ledger.landed(ORDERS) == lake.manifest("raw", ORDERS)
    assert _fold(warehouse, lake) == 0


def test_a_file_that_no_entry_names_any_more_stays_for_whoever_had_begun_before_the_fold(
    warehouse: Warehouse, lake: Lake
) -> None:
    _story(warehouse, lake)
    files = sorted((lake.root / "facts" / FACT).rglob("*.parquet"))
    assert len(files) == 20
    for path in files:
        os.utime(path, (0, 0))
    _fold(warehouse, lake)
    with warehouse.connect() as connection:
        assert lake.sweep(Ledger(connection).named_paths) == []
    assert all(path.exists() for path in files)


def test_entries_that_readers_may_have_open_are_left_alone(warehouse: Warehouse, lake: Lake) -> None:
    with warehouse.connect() as connection:
        _land(Ledger(connection), lake, 0, 10)
    assert _fold(warehouse, lake) == 0


def test_a_landing_that_was_folded_is_not_made_again(warehouse: Warehouse, lake: Lake) -> None:
    _story(warehouse, lake)
    (again,) = [commit for commit in lake.manifest("raw", ORDERS) if commit.token == "land-3"]
    _fold(warehouse, lake)
    with warehouse.connect() as connection:
        with pytest.raises(Conflict):
            Ledger(connection).record(lake, again, version=3)
        assert [commit.token for commit in Ledger(connection).landed(ORDERS)] == ["land-39", "land-59"]


def test_files_that_came_and_went_stay_for_who_began_before_and_go_afterwards(
    warehouse: Warehouse, lake: Lake
) -> None:
    _story(warehouse, lake)
    with Lake(lake.root) as reading, warehouse.connect() as connection:
        reading.begin_session()
        ledger = Ledger(connection)
        old = set((lake.root / "facts" / FACT).glob("*.parquet"))
        _fold(warehouse, lake)
        assert reading.sweep(ledger.named_paths) == []
        assert all(path.exists() for path in old)
    lake.close()
    with Lake(lake.root) as later, warehouse.connect() as connection:
        assert len(later.sweep(Ledger(connection).named_paths)) == 19
    assert len(list((lake.root / "facts" / FACT).glob("*.parquet"))) == 1


def test_a_lost_ledger_comes_back_from_manifests_that_tell_less(warehouse: Warehouse, lake: Lake) -> None:
    _story(warehouse, lake)
    _fold(warehouse, lake)
    before = _truth(warehouse, lake)
    with warehouse.connect() as connection:
        connection.execute(
            "truncate ops.ledger, ops.partition_state, ops.position, ops.landed_window restart identity"
        )
        with connection.transaction():
            replace_ledger(Ledger(connection), histories_of(lake))
    after = _truth(warehouse, lake)
    same = ("raw", "by the manifest", "news of the fact", "rows landed")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.full
@pytest.mark.parametrize("name", [n for n in failpoints.names(ROOT) if n.startswith("fold.")])
def test_a_kill_while_folding_changes_nothing_and_the_next_fold_ends_it(
    dsn: str, warehouse: Warehouse, lake: Lake, name: str
) -> None:
    _story(warehouse, lake)
    before = _truth(warehouse, lake)
    assert children.dies(name, _fold_there, dsn, lake.root)
    assert _truth(warehouse, lake) == before
    with warehouse.connect() as connection:
        _land(Ledger(connection), lake, 60, 1)
        _fold(warehouse, lake)
        assert Ledger(connection).landed(ORDERS) == lake.manifest("raw", ORDERS)
        lake.close()
        Lake(lake.root).sweep(Ledger(connection).named_paths)
    assert [path.name for path in lake.root.rglob(".tmp*")] == []


def _fold_there(dsn: str, root: Path) -> None:
    _fold(Warehouse(dsn), Lake(root))


def test_a_fold_that_a_full_disk_ends_says_so_and_changes_nothing(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 4000), Lake(tmp_path / "disk" / "lake") as lake:
        _story(warehouse, lake)
        before = _truth(warehouse, lake)
        with full(tmp_path / "disk"), pytest.raises(LakeFull, match=r"^The disk of the lake is full \("):
            _fold(warehouse, lake)
        assert _truth(warehouse, lake) == before
        assert not list(lake.root.rglob(".tmp-*"))
        assert _fold(warehouse, lake) > 0


def test_landings_beside_a_fold_lose_no_line(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    _story(warehouse, lake)
    beside = children.begun(_land_on, dsn, lake.root)
    chance = random.Random(7)
    while beside.is_alive():
        _age(warehouse)
        _fold(warehouse, lake)
        beside.join(chance.random() / 20)
    assert beside.exitcode == 0
    with warehouse.connect() as connection, lake.duckdb() as session:
        ledger = Ledger(connection)
        rows = lake.read(session, files_after(lake.manifest("raw", ORDERS))).fetchall()
        assert sorted(rows) == [(number,) for number in range(100)]
        assert ledger.landed(ORDERS) == lake.manifest("raw", ORDERS)


def _land_on(dsn: str, root: Path) -> None:
    with Lake(root) as lake, psycopg.connect(dsn, autocommit=True) as connection:
        _land(Ledger(connection), lake, 60, 40)
