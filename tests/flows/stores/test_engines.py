"""Computations that take the same engines one after another know nothing of each other."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import duckdb
import pyarrow as pa
import pytest

from flows.stores.lake import Lake
from flows.stores.lending import Stopped

_TEN_MILLION = "select range as a, 'abcdefghijkl' || range as b from range(10000000)"
_ENDLESS = f"select count(*) from ({_TEN_MILLION}) as one, ({_TEN_MILLION}) as other where one.b > other.b"


def test_nothing_that_a_session_named_is_there_in_the_next(tmp_path: Path) -> None:
    with Lake(tmp_path) as lake:
        for _ in range(3):
            with lake.duckdb() as session:
                session.execute("create table kept as select 1 as a")
                session.execute("create temp table passing as select 2 as a")
                session.from_arrow(pa.table({"a": [3]})).create_view("seen")
                session.register("given", pa.table({"a": [4]}))
                rows = "from kept union all from passing union all from seen union all from given"
                assert sorted(session.sql(rows).fetchall()) == [(1,), (2,), (3,), (4,)]


def test_sessions_at_the_same_time_have_nothing_in_common(tmp_path: Path) -> None:
    with Lake(tmp_path) as lake, lake.duckdb() as one, lake.duckdb() as other:
        one.execute("create table mine as select 1 as a")
        with pytest.raises(duckdb.CatalogException):
            other.execute("from mine")


def test_a_session_begins_in_utc_with_the_memory_and_the_order_that_it_asks_for(tmp_path: Path) -> None:
    settings = "select current_setting('TimeZone'), current_setting('memory_limit')"
    order = "select current_setting('preserve_insertion_order')"
    with Lake(tmp_path, "300MB") as lake:
        for keeps_order in (True, False, True):
            with lake.duckdb(keeps_order=keeps_order) as session:
                assert session.execute(settings).fetchall() == [("UTC", "286.1 MiB")]
                assert session.execute(order).fetchall() == [(keeps_order,)]


def test_what_a_failed_session_has_set_is_not_there_in_the_next(tmp_path: Path) -> None:
    with Lake(tmp_path) as lake:
        with pytest.raises(duckdb.CatalogException), lake.duckdb() as session:
            session.execute("set default_order = 'desc'; from nowhere")
        with lake.duckdb() as session:
            assert session.sql("select range from range(3) order by range").fetchall() == [(0,), (1,), (2,)]


def test_the_memory_of_a_session_is_free_after_it(tmp_path: Path) -> None:
    with Lake(tmp_path) as lake:
        with lake.duckdb() as session:
            session.execute("select 1").fetchall()
        before = _resident_bytes()
        with lake.duckdb() as session:
            session.execute(f"create temp table much as {_TEN_MILLION}")
            taken = _resident_bytes() - before
        left = _resident_bytes() - before
    assert taken > 100 << 20
    assert left < taken / 4, (left, taken)


def test_what_spilled_is_gone_from_the_disk_and_the_next_can_spill_again(tmp_path: Path) -> None:
    with Lake(tmp_path, "60MB") as lake:
        for _ in range(2):
            with lake.duckdb(keeps_order=False) as session:
                session.execute(f"create temp table much as {_TEN_MILLION}")
                assert sum(file.stat().st_size for file in (tmp_path / ".spill").iterdir()) > 10 << 20
            assert sum(file.stat().st_size for file in (tmp_path / ".spill").iterdir()) < 1 << 20


def test_a_query_that_has_no_end_ends_with_the_run_that_is_stopped(tmp_path: Path) -> None:
    """An accidental cross join went on until the process was ended under it, which said nothing more."""
    begun = Event()

    def compute(lake: Lake) -> None:
        with lake.duckdb() as session:
            begun.set()
            session.execute(_ENDLESS).fetchall()

    with Lake(tmp_path) as lake, ThreadPoolExecutor(1) as pool:
        endless = pool.submit(compute, lake)
        assert begun.wait(10)
        lake.stop()
        with pytest.raises(duckdb.InterruptException):
            endless.result(10)
        with pytest.raises(Stopped), lake.duckdb():
            pass


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
