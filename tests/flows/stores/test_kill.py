"""A kill -9 anywhere in publishing and one run again: the same rows, nothing left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows import failpoints
from flows.stores.lake import Lake
from flows.stores.standalone import sweep
from flows.stores.warehouse import Warehouse
from tests import children
from tests.flows.stores.child import STORY, play
from tests.flows.stores.world import EVENTS, USERS, create, rows, tidy
from tests.house import Server

ROOT = Path(__file__).parents[3]
NAMES = [
    name
    for name in failpoints.names(ROOT / "flows" / "stores")
    if name.startswith(("lake.", "ledger.entered", "publish.")) and name not in {"publish.retired"}
]
_UNPUBLISHED = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'unpublished'::regnamespace AND relkind = 'r'"
)
QUICK = {"lake.renamed", "publish.copied", "publish.before_commit", "publish.committed", "publish.refreshing"}


def _prepared(server: Server) -> str:
    dsn = server.database()
    create(dsn, EVENTS, USERS)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE MATERIALIZED VIEW analytics.mv_visits AS SELECT page, count(*) AS visits "
            "FROM analytics.fct_visits GROUP BY page"
        )
        connection.execute("CREATE UNIQUE INDEX ON analytics.mv_visits (page)")
    return dsn


def _seen(dsn: str, root: Path) -> dict[str, Any]:
    with Lake(root) as lake:
        left = tidy(dsn, lake)
        named = {
            file.path
            for layer, table in lake.manifests()
            for commit in lake.manifest(layer, table)
            for file in commit.add
        }
        on_disk = {str(path.relative_to(root)) for path in root.rglob("*.parquet")}
        tokens = sorted(
            commit.token for layer, table in lake.manifests() for commit in lake.manifest(layer, table)
        )
    with psycopg.connect(dsn) as connection:
        ledger = connection.execute(
            "SELECT token, in_manifest, row_count FROM ops.ledger ORDER BY token"
        ).fetchall()
        owed = connection.execute("SELECT * FROM ops.refresh_owed").fetchall()
        view = connection.execute("SELECT * FROM analytics.mv_visits ORDER BY 1").fetchall()
    assert [row[0] for row in ledger] == tokens
    return {
        "events": rows(dsn, EVENTS.name),
        "people": rows(dsn, USERS.name),
        "ledger": ledger,
        "owed": owed,
        "view": view,
        "left": left["left"],
        "orphans": sorted(on_disk - named),
    }


@pytest.fixture(scope="module")
def unharmed(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What stands after each step of the story when nothing is killed."""
    dsn, root, seen = _prepared(postgres18), tmp_path_factory.mktemp("unharmed") / "lake", {}
    for way in STORY:
        play(dsn, root, way)
        seen[way] = _seen(dsn, root)
    return seen


def _killed(postgres18: Server, root: Path, way: str, name: str, passes: int) -> tuple[bool, str]:
    """Play the story up to `way`, that step in a child that dies at the failpoint."""
    dsn = _prepared(postgres18)
    for earlier in STORY[: STORY.index(way)]:
        play(dsn, root, earlier)
    return children.dies(name, play, dsn, root, way, passes=passes), dsn


def _equal_after_one_more_run(
    postgres18: Server, unharmed: dict[str, Any], root: Path, way: str, name: str, passes: int
) -> bool:
    was_killed, dsn = _killed(postgres18, root, way, name, passes)
    play(dsn, root, way)
    assert _seen(dsn, root) == unharmed[way], f"killed at {name}, pass {passes}, during {way}"
    return was_killed


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_kill_at_the_turning_points_loses_nothing(
    postgres18: Server, unharmed: dict[str, Any], tmp_path: Path, name: str
) -> None:
    way = "swap" if name == "publish.before_commit" else "diff"
    assert _equal_after_one_more_run(postgres18, unharmed, tmp_path / "lake", way, name, 0)


@pytest.mark.parametrize(
    "mode",
    ["SHARE", pytest.param("SHARE UPDATE EXCLUSIVE", marks=pytest.mark.full)],
    ids=["index", "vacuum"],
)
def test_a_session_that_outlives_the_kill_and_holds_a_table_keeps_nothing_from_beginning(
    postgres18: Server, unharmed: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    """PostgreSQL tells a session that its client is gone when its statement is done, and not before."""
    was_killed, dsn = _killed(postgres18, tmp_path / "lake", "attach", "publish.copied", 0)
    assert was_killed
    with psycopg.connect(dsn) as living, Warehouse(dsn).connect() as connection:
        ((held,),) = living.execute(_UNPUBLISHED).fetchall()
        living.execute(f'LOCK TABLE unpublished."{held}" IN {mode} MODE'.encode())
        connection.execute(
            "CREATE TABLE unpublished.a__load_0a0a0a0a (); CREATE TABLE unpublished.z__load_0b0b0b0b ()"
        )
        assert sweep(connection) == ["a__load_0a0a0a0a", "z__load_0b0b0b0b"]

        play(dsn, tmp_path / "lake", "attach")

        assert living.execute(_UNPUBLISHED).fetchall() == [(held,)]
        living.rollback()
        assert sweep(connection) == [held]
    assert _seen(dsn, tmp_path / "lake") == unharmed["attach"]


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_failpoint_loses_nothing(
    postgres18: Server, unharmed: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """In the first and the second pass of a day that changes, and where leaves come and go."""
    reached = [
        _equal_after_one_more_run(postgres18, unharmed, tmp_path / f"{way}{passes}", way, name, passes)
        for way, passes in (("diff", 0), ("diff", 1), ("swap", 0))
    ]
    assert any(reached), f"nothing reaches {name}"
