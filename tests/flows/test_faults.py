"""What a run meets besides being killed: cut connections, servers that stop, full disks, other runs.

"Equal" is `differences(...) == []`: EXCEPT ALL in both directions on every published table, the same staging
content and dead letters, nothing left over, manifest = ledger.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import flows.sandbox as sandbox
from flows.sandbox import Part, processes
from flows.stores.lake import Lake
from flows.stores.publication import Way
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from tests.flows.extract.counterparts import running, toxiproxy
from tests.flows.kill_child import Place
from tests.flows.kill_compare import differences, seen
from tests.flows.kill_story import Story
from tests.flows.kill_world import run, try_run
from tests.flows.small_disk import resize, small_disk
from tests.flows.stores.world import DAY, EVENTS, built, create, visits
from tests.house import Server
from warehouse_ddl.files import bootstrap

SEED = 20251103


# ------------------------------------------------------------------------------------- a connection is cut


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    """Toxiproxy's own address."""
    program, port = toxiproxy(), processes.free_port()
    with running([str(program), "-host", "127.0.0.1", "-port", str(port)], port) as address:
        yield address


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_connection_cut_anywhere_in_the_answers_changes_nothing(story: Story, proxy: str) -> None:
    """Twenty runs, each with every connection to the warehouse cut after some number of bytes."""
    unharmed = story.unharmed("second")[0]
    chance = random.Random(SEED)
    failed = 0
    for number in range(20):
        place = story.world.copy(story.stage("second"))
        given = conninfo_to_dict(place.warehouse_dsn)
        listen = processes.free_port()
        body = {
            "name": f"cut{number}",
            "listen": f"127.0.0.1:{listen}",
            "upstream": f"127.0.0.1:{given['port']}",
        }
        httpx.post(f"{proxy}/proxies", json=body, trust_env=False).raise_for_status()
        # ADBC reads the type catalog first, over 100 kB; psycopg's connections say less than that in all.
        size = int(chance.choice([2_000, 20_000, 150_000, 400_000]) * (0.5 + chance.random()))
        toxic = {"type": "limit_data", "stream": "downstream", "attributes": {"bytes": size}}
        httpx.post(f"{proxy}/proxies/cut{number}/toxics", json=toxic, trust_env=False).raise_for_status()
        through = make_conninfo(place.warehouse_dsn, port=listen, sslmode="disable", gssencmode="disable")
        failed += try_run(replace(place, warehouse_dsn=through)) != 0
        httpx.delete(f"{proxy}/proxies/cut{number}", trust_env=False).raise_for_status()
        run(place)
        assert differences(unharmed, seen(place)) == [], f"cut after {size} bytes"
        story.world.remove(place)
    assert failed >= 10


# -------------------------------------------------------------------------------- PostgreSQL stops mid-COPY


@pytest.mark.full
@pytest.mark.timeout(600)
def test_postgresql_stopped_in_the_middle_of_a_copy_shows_no_row_of_it(tmp_path: Path) -> None:
    """At ten points of a COPY of 200,000 rows: none is seen, and all of them after one more publish.

    A COPY may be over before the server hears of its end; then the same point is tried again.
    """
    folder = tmp_path / "sandbox"
    try:
        state = sandbox.start(folder, frozenset({Part.WAREHOUSE_POSTGRES}))
        dsn = str(state.warehouse_dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in bootstrap():
                connection.execute(statement.encode())
        create(dsn, EVENTS)
        hits = 0
        with Lake(tmp_path / "lake") as lake:
            for number in range(30):
                rows = 200_000 + number
                item = built(
                    lake, EVENTS, DAY, _other_visits(number, rows), batch=f"b{number}", version=number
                )
                before = _count(dsn)
                way: Way | None = "swap" if number else None
                is_over = threading.Event()
                stop = threading.Thread(
                    target=_stop_in_copy, args=(dsn, folder, 15_000 * (hits + 1), is_over)
                )
                stop.start()
                try:
                    publish(EVENTS, [item], warehouse=Warehouse(dsn), lake=lake, way=way)
                except WarehouseError as error:
                    hits += 1
                    assert "doctor" in str(error)  # noqa: PT017
                is_over.set()
                stop.join()
                dsn = str(sandbox.start(folder, frozenset({Part.WAREHOUSE_POSTGRES})).warehouse_dsn)
                assert _count(dsn) in (before, rows)
                for _ in range(60):
                    # Autovacuum after a crash may hold a swap back: then the next run completes it.
                    if not publish(EVENTS, [item], warehouse=Warehouse(dsn), lake=lake, way=way).is_pending:
                        break
                    time.sleep(1)
                assert _count(dsn) == rows
                if hits == 10:
                    break
        assert hits == 10
    finally:
        sandbox.reset(folder)


def _other_visits(number: int, rows: int) -> str:
    return visits(DAY, rows, mark=f"{number} ").replace("i * 40000)", "i * 200)")


def _count(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from analytics.fct_visits").fetchone()
        assert row is not None
        return int(row[0])


def _stop_in_copy(dsn: str, folder: Path, rows: int, is_over: threading.Event) -> None:
    """Stop the server at once (SIGQUIT: no checkpoint) when its COPYs have taken in so many rows."""
    state = sandbox.read(folder)
    assert state is not None
    process = state.parts[Part.WAREHOUSE_POSTGRES].process
    assert process is not None
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as connection:
        while not is_over.wait(0.001):
            found = connection.execute("select sum(tuples_processed) from pg_stat_progress_copy").fetchone()
            if found is not None and (found[0] or 0) >= rows:
                break
    processes.end(process, [(signal.SIGQUIT, 20.0), (signal.SIGKILL, 5.0)])


# ---------------------------------------------------------------------------------------- no space is left


def _grown(server: Server, dsn: str) -> int:
    """Kilobytes that a warehouse takes more than an empty database."""
    with psycopg.connect(server.dsn("postgres")) as connection:
        row = connection.execute(
            "select (pg_database_size(%s) - pg_database_size('template1')) / 1024",
            (conninfo_to_dict(dsn)["dbname"],),
        ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.full
@pytest.mark.parametrize("kilobytes", [200, 500])
def test_a_lake_without_space_commits_nothing_half_and_the_run_resumes_unaided(
    story: Story, tmp_path: Path, kilobytes: int
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, kilobytes):
        place = replace(story.world.copy(story.stage("first")), lake=str(disk / "lake"))
        assert try_run(place) != 0
        with psycopg.connect(place.warehouse_dsn, autocommit=True) as connection:
            named = {
                str(path)
                for (path,) in connection.execute(
                    "select file ->> 'path' from ops.ledger, jsonb_array_elements(files) file"
                ).fetchall()
            }
        with Lake(place.lake) as lake:
            for layer, table in lake.manifests():
                for commit in lake.manifest(layer, table):
                    assert {file.path for file in commit.add} <= named
                    lake.paths(commit.add)
        resize(disk, 600_000)
        run(place)
        assert differences(story.unharmed("first")[0], seen(place)) == []


@pytest.mark.full
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_warehouse_without_space_shows_nothing_half_and_the_run_resumes_unaided(
    story: Story, share: float
) -> None:
    """The disk ends at a share of what the warehouse needs."""
    disk = Path("/tmp") / f"space-{uuid.uuid4().hex[:8]}"
    try:
        with small_disk(disk, 600_000):
            space, name = f"small_{uuid.uuid4().hex[:8]}", f"t_{uuid.uuid4().hex[:10]}"
            server = story.world.server
            with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
                data = connection.execute("show data_directory").fetchone()
                assert data is not None
                folder = disk / "space"
                folder.mkdir()
                owner = Path(data[0]).stat()
                os.chown(folder, owner.st_uid, owner.st_gid)
                connection.execute(f"create tablespace {space} location '{folder}'".encode())
                connection.execute(f"create database {name} tablespace {space}".encode())
            try:
                place = replace(story.world.copy(story.stage("first")), warehouse_dsn=server.dsn(name))
                whole = _grown(server, str(story.stage("second").database))
                resize(disk, shutil.disk_usage(disk).used // 1024 + int(whole * share))
                assert try_run(place) != 0
                resize(disk, 600_000)
                run(place)
                assert differences(story.unharmed("first")[0], seen(place)) == []
            finally:
                with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
                    connection.execute(f"drop database if exists {name} with (force)".encode())
                    connection.execute(f"drop tablespace {space}".encode())
    finally:
        shutil.rmtree(disk, ignore_errors=True)


def test_what_a_killed_run_left_in_quarantine_and_spill_folders_is_swept(tmp_path: Path) -> None:
    left = [tmp_path / ".spill" / "duckdb_temp_storage-0.tmp", tmp_path / "quarantine/fct_x/.tmp-1-a.parquet"]
    kept = tmp_path / "quarantine/fct_x/a.parquet"
    with Lake(tmp_path) as lake:
        for path in (*left, kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (0, 0))
        lake.begin_session()
        of_mine = tmp_path / ".spill" / "duckdb_temp_storage-1.tmp"
        of_mine.touch()
        assert sorted(lake.sweep(lambda _: ())) == sorted(str(path.relative_to(tmp_path)) for path in left)
    assert kept.exists()
    assert of_mine.exists()


# ------------------------------------------------------------------------------------- several runs at once


def _at_once(place: Place, many: int) -> list[float]:
    """So many runs of one place at the same time, each in its process; the seconds that each took."""

    def one(number: int) -> float:
        began = time.monotonic()
        run(place)
        return time.monotonic() - began

    with ThreadPoolExecutor(many) as pool:
        return list(pool.map(one, range(many)))


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_eight_runs_of_one_table_at_once_equal_one_twenty_times(story: Story) -> None:
    """One table and what hangs on it are due; eight processes build and publish them at once."""
    unharmed = story.unharmed("second")[0]
    stage = story.stage("second")
    due = ("fct_events", "mart_daily_metrics", "mart_user_activity")
    models = tuple(name for name in stage.place.models or () if name not in due)
    before = story.world.copy(replace(stage, place=replace(stage.place, models=models)))
    run(before)
    ready = story.world.stage("ready", before, models=stage.place.models, sources=())
    for number in range(20):
        place = story.world.copy(ready)
        seconds = _at_once(place, 8)
        assert max(seconds) < 60
        assert differences(unharmed, seen(place)) == [], f"round {number}"
        story.world.remove(place)


@pytest.mark.full
def test_four_whole_runs_at_once_equal_one(story: Story) -> None:
    place = story.world.copy(story.stage("second"))
    _at_once(place, 4)
    assert differences(story.unharmed("second")[0], seen(place)) == []
