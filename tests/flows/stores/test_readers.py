"""Readers see the old or the new, never a mixture, never an error; and nobody waits for us."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows.stores.lake import Lake
from flows.stores.ledger import Conflict
from flows.stores.publication import BuiltPartition, Publication
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests.flows.stores.world import DAY, EVENTS, USERS, built, create, rows, tidy, visits

DAYS = [f"2025-{month:02d}-{day:02d}" for month in (1, 2) for day in range(1, 26)]


@contextmanager
def readers(dsn: str, query: str) -> Iterator[list[object]]:
    """Two sessions that ask every 20 ms under READ COMMITTED; what they saw, or the error they met."""
    seen: list[object] = []
    done = threading.Event()

    def poll() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not done.is_set():
                    began = time.monotonic()
                    seen.append(connection.execute(query.encode()).fetchone())
                    waited = time.monotonic() - began
                    if waited > 1:
                        seen.append(f"waited {waited:.2f} s")
                    done.wait(0.02)
        except psycopg.Error as error:
            seen.append(error)

    threads = [threading.Thread(target=poll) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join()


@contextmanager
def snapshot(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """An analyst's transaction that is to see the warehouse as it is now, and holds no lock on any table."""
    with psycopg.connect(dsn, application_name="an analyst") as analyst:
        analyst.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        analyst.execute("SELECT count(*) FROM pg_class")
        yield analyst


@pytest.mark.full
@pytest.mark.parametrize("way", ["attach", "diff", "swap", "merge"])
def test_fifty_publishes_are_seen_whole_or_not_at_all(any_dsn: str, lake: Lake, way: str) -> None:
    _publishes_under_readers(any_dsn, lake, way, 50)


@pytest.mark.parametrize("way", ["attach", "diff", "swap", "merge"])
def test_publishes_are_seen_whole_or_not_at_all(dsn: str, lake: Lake, way: str) -> None:
    _publishes_under_readers(dsn, lake, way, 8)


def _publishes_under_readers(dsn: str, lake: Lake, way: str, times: int) -> None:
    """Every row carries the number of its publish: two numbers, or a part of the rows, is a mixture."""
    create(dsn, EVENTS, USERS)
    warehouse = Warehouse(dsn)
    whole: set[tuple[object, ...]]
    if way == "merge":
        people = "SELECT i AS person_id, 'n{}' AS name, NULL::JSON AS properties FROM range(300) t(i)"
        query = "SELECT count(*), min(name), max(name) FROM analytics.dim_people"
        whole = {(300, f"n{n}", f"n{n}") for n in range(times + 1)} | {(0, None, None)}
    elif way == "attach":
        query = (
            "SELECT count(*), min(n), max(n) FROM "
            "(SELECT count(*) AS n FROM analytics.fct_visits GROUP BY visited_at::date) days"
        )
        whole = {(n, 300, 300) for n in range(1, times + 1)} | {(0, None, None)}
    else:
        query = "SELECT count(*), min(paid), max(paid) FROM analytics.fct_visits"
        whole = {(300, n, n) for n in range(times + 1)}
        publish(EVENTS, [_numbered(lake, 0)], warehouse=warehouse, lake=lake)
    with readers(dsn, query) as seen:
        for number in range(1, times + 1):
            if way == "merge":
                item = built(lake, USERS, "", people.format(number), batch=f"b{number}")
                done = publish(USERS, [item], warehouse=warehouse, lake=lake)
            elif way == "attach":
                day = DAYS[number - 1]
                item = built(lake, EVENTS, day, visits(day, 300), batch="b")
                done = publish(EVENTS, [item], warehouse=warehouse, lake=lake)
            else:
                done = publish(
                    EVENTS,
                    [_numbered(lake, number)],
                    warehouse=warehouse,
                    lake=lake,
                    way="swap" if way == "swap" else None,
                )
            assert not done.pending
            assert set(done.ways.values()) <= {way, "load"}
    assert set(seen) <= whole
    assert len(set(seen)) > 2


def _numbered(lake: Lake, number: int) -> BuiltPartition:
    query = f"SELECT * REPLACE ({number}::DECIMAL(10,2) AS paid) FROM ({visits(DAY, 300)})"
    return built(lake, EVENTS, DAY, query, batch=f"b{number}")


def test_eight_publishes_at_once_equal_one(any_dsn: str, tmp_path: Path) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)

    def one(number: int) -> Publication:
        with Lake(tmp_path / "lake") as lake:
            item = built(lake, EVENTS, DAY, visits(DAY, 500), batch="same", version=0)
            return publish(EVENTS, [item], warehouse=warehouse, lake=lake)

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(one, range(8)))

    assert sorted(len(item.ways) for item in done) == [0] * 7 + [1]
    assert sorted(len(item.skipped) for item in done) == [0] + [1] * 7
    assert len(rows(any_dsn, "fct_visits")) == 500
    with Lake(tmp_path / "lake") as lake:
        left = tidy(any_dsn, lake)
        assert (len(left["swept"]), left["left"]) == (7, [])
        assert len(lake.manifest("facts", "fct_visits")) == 1


def test_another_content_on_the_same_state_is_a_conflict(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    create(dsn, EVENTS)
    one = built(lake, EVENTS, DAY, visits(DAY, 10), batch="b1", version=0)
    other = built(lake, EVENTS, DAY, visits(DAY, 20), batch="b2", version=0)
    publish(EVENTS, [one], warehouse=warehouse, lake=lake)

    with pytest.raises(Conflict, match="Run again"):
        publish(EVENTS, [other], warehouse=warehouse, lake=lake)

    assert len(rows(dsn, "fct_visits")) == 10


def test_a_swap_that_a_reader_blocks_stays_pending_and_names_the_reader(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 300), batch="b1")], warehouse=warehouse, lake=lake)
    new = built(lake, EVENTS, DAY, visits(DAY, 200), batch="b2")

    with psycopg.connect(any_dsn, application_name="an analyst") as analyst:
        before = analyst.execute("SELECT count(*) FROM analytics.fct_visits").fetchone()
        with readers(any_dsn, "SELECT count(*) FROM analytics.fct_visits") as seen:
            done = publish(EVENTS, [new], warehouse=warehouse, lake=lake, way="swap")
        assert done.is_pending
        assert "an analyst" in done.pending[0].blocked_by
        assert f"session {analyst.info.backend_pid} of {analyst.info.user}" in done.message()
        assert analyst.execute("SELECT count(*) FROM analytics.fct_visits").fetchone() == before
        pending = analyst.execute("SELECT partition, blocked_by FROM ops.pending_publish").fetchall()
    assert set(seen) == {(300,)}
    assert pending == [(DAY, done.pending[0].blocked_by)]

    again = publish(EVENTS, [new], warehouse=warehouse, lake=lake, way="swap")

    assert (again.ways, len(rows(any_dsn, "fct_visits"))) == ({DAY: "swap"}, 200)
    with warehouse.connect() as connection:
        assert connection.execute("SELECT count(*) FROM ops.pending_publish").fetchone() == (0,)
    assert tidy(any_dsn, lake)["left"] == []


def test_a_swap_waits_for_a_snapshot_that_would_find_the_day_empty(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 300), batch="b1")], warehouse=warehouse, lake=lake)
    new = built(lake, EVENTS, DAY, visits(DAY, 200), batch="b2")

    with snapshot(any_dsn) as analyst:
        done = publish(EVENTS, [new], warehouse=warehouse, lake=lake, way="swap")
        assert analyst.execute("SELECT count(*) FROM analytics.fct_visits").fetchone() == (300,)
        assert f"session {analyst.info.backend_pid} of {analyst.info.user}" in done.message()

    again = publish(EVENTS, [new], warehouse=warehouse, lake=lake, way="swap")

    assert (again.ways, len(rows(any_dsn, "fct_visits"))) == ({DAY: "swap"}, 200)


def test_a_leaf_that_the_stream_begins_to_write_into_meanwhile_is_not_swapped_away(
    dsn: str, warehouse: Warehouse, lake: Lake
) -> None:
    create(dsn, EVENTS)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 300), batch="b1")], warehouse=warehouse, lake=lake)

    def stream(*_: object) -> None:
        with psycopg.connect(dsn) as streaming:
            streaming.execute(
                "INSERT INTO ops.hot_partition (table_name, partition) VALUES (%s, %s) ON CONFLICT "
                "(table_name, partition) DO UPDATE SET sealed_at = NULL, since = excluded.since",
                (EVENTS.name, DAY),
            )
            streaming.execute(
                "INSERT INTO analytics.fct_visits (visit_id, visited_at) VALUES (1000, %s)", (DAY,)
            )

    with pytest.raises(Conflict, match="The stream has begun to write into fct_visits_2025_10_07"):
        publish(
            EVENTS,
            [built(lake, EVENTS, DAY, visits(DAY, 200), batch="b2")],
            warehouse=warehouse,
            lake=lake,
            way="swap",
            audit=stream,
        )

    assert [row[0] for row in rows(dsn, "fct_visits")] == [*range(300), 1000]
    assert tidy(dsn, lake)["left"] == []


def test_a_long_query_does_not_keep_a_difference_waiting(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    create(dsn, EVENTS)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 300), batch="b1")], warehouse=warehouse, lake=lake)

    with psycopg.connect(dsn) as analyst:
        analyst.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        analyst.execute("SELECT count(*) FROM analytics.fct_visits")
        item = built(lake, EVENTS, DAY, visits(DAY, 310), batch="b2")
        done = publish(EVENTS, [item], warehouse=warehouse, lake=lake)
        assert analyst.execute("SELECT count(*) FROM analytics.fct_visits").fetchone() == (300,)

    assert (done.ways, done.pending) == ({DAY: "diff"}, ())
    assert len(rows(dsn, "fct_visits")) == 310


def test_a_new_day_is_attached_beside_an_analyst_who_reads_the_table(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 300), batch="b1")], warehouse=warehouse, lake=lake)
    other = "2025-10-08"

    with psycopg.connect(any_dsn) as analyst:
        analyst.execute("SELECT count(*) FROM analytics.fct_visits")
        item = built(lake, EVENTS, other, visits(other, 20), batch="b2")
        done = publish(EVENTS, [item], warehouse=warehouse, lake=lake)
        assert (done.ways, done.pending) == ({other: "attach"}, ())
        assert analyst.execute("SELECT count(*) FROM analytics.fct_visits").fetchone() == (320,)


def test_a_failed_audit_leaves_what_is_published_and_no_remains(
    dsn: str, warehouse: Warehouse, lake: Lake
) -> None:
    create(dsn, USERS)
    people = "SELECT i AS person_id, 'n' AS name, NULL::JSON AS properties FROM range(3) t(i)"
    looked_at = []

    def forbid(schema: str, tables: object) -> None:
        looked_at.append((schema, tables))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        publish(
            USERS,
            [built(lake, USERS, "", people, batch="b1")],
            warehouse=warehouse,
            lake=lake,
            audit=forbid,
        )

    assert looked_at[0][0] == "unpublished"
    assert rows(dsn, "dim_people") == []
    assert tidy(dsn, lake)["left"] == []
