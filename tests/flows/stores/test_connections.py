"""Connections are kept for the next block, and nothing of the block before is in them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from flows.stores.lending import Stopped
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from quality.alive import kept_alive
from tests import children
from tests.flows.streaming.topics import until

_HELD = "select count(*) from pg_locks where locktype = 'advisory' and pid = %s"
_WAITING = "select count(*) from pg_locks where locktype = 'advisory' and not granted"


def test_a_connection_that_served_is_used_again_and_only_by_one_block_at_a_time(dsn: str) -> None:
    warehouse = Warehouse(dsn)
    with warehouse.connect() as first, warehouse.connect() as beside:
        served = {first.info.backend_pid, beside.info.backend_pid}
    assert len(served) == 2

    for _ in range(10):
        with warehouse.connect() as again:
            assert again.info.backend_pid in served


def test_what_a_block_leaves_in_its_session_ends_with_the_block(dsn: str) -> None:
    warehouse = Warehouse(dsn)
    for _ in range(2):
        with warehouse.connect() as connection:
            assert connection.execute("show lock_timeout").fetchone() == ("0",)
            assert connection.execute("show timezone").fetchone() == ("UTC",)
            assert connection.execute("select to_regclass('pg_temp.left_over')").fetchone() == (None,)
            connection.execute("set lock_timeout = '3s'; set timezone = 'Asia/Tokyo'")
            connection.execute("create temp table left_over as select 1 as n")
            connection.execute("select pg_advisory_lock(7)")
            served = connection.info.backend_pid

    with psycopg.connect(dsn) as other:
        assert other.execute(_HELD, (served,)).fetchone() == (0,)


def test_a_statement_asked_often_runs_after_its_table_got_another_column(dsn: str) -> None:
    warehouse = Warehouse(dsn)
    with warehouse.connect() as connection:
        connection.execute("create table grows (a integer)")
        for _ in range(10):
            connection.execute("select * from grows")

    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("alter table grows add column b integer")

    with warehouse.connect() as connection:
        assert connection.execute("select * from grows").description is not None


def test_a_connection_is_not_used_again_after_an_error_within_a_transaction_or_when_its_server_ended_it(
    dsn: str,
) -> None:
    warehouse = Warehouse(dsn)
    with pytest.raises(WarehouseError), warehouse.connect() as failed:
        failed.execute("select 1 / 0")
    with warehouse.connect() as unfinished:
        unfinished.execute("begin")
    with warehouse.connect() as cut:
        assert failed.closed
        assert unfinished.closed
        pid = cut.info.backend_pid
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (pid,))

    with warehouse.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert connection.info.backend_pid != pid


def test_sessions_that_read_at_once_share_the_catalog_and_stay_in_no_transaction(dsn: str) -> None:
    warehouse = Warehouse(dsn)
    for _ in range(2):
        with warehouse.reading("select 1 as n") as first, warehouse.reading("select 2 as n") as beside:
            assert [reader.read_all()["n"].to_pylist() for reader in (first, beside)] == [[1], [2]]

    with psycopg.connect(dsn) as other:
        open_ones = other.execute(
            "select state from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid() "
            "and backend_type = 'client backend'"  # the server's own are nobody's
        ).fetchall()
    assert open_ones == [("idle",), ("idle",)]


def test_where_the_first_of_them_broke_off_another_one_begins(dsn: str) -> None:
    warehouse = Warehouse(dsn)
    for _ in range(2):
        with pytest.raises(WarehouseError), warehouse.reading("select 1 / 0"):
            pass
    with warehouse.reading("select 1 as n") as first, warehouse.reading("select 2 as n") as beside:
        with pytest.raises(WarehouseError), warehouse.reading("select 1 / 0"):
            pass
        assert [reader.read_all()["n"].to_pylist() for reader in (first, beside)] == [[1], [2]]


def test_what_a_connection_string_says_of_how_a_lost_server_is_found_counts_more_than_what_we_do() -> None:
    kept = conninfo_to_dict(kept_alive("host=a connect_timeout=3 application_name=theirs", "ours"))
    assert (kept["connect_timeout"], kept["tcp_user_timeout"], kept["application_name"]) == (
        "3",
        "60000",
        "ours",
    )


def test_a_server_finds_within_a_minute_that_its_client_is_gone_unless_somebody_has_set_otherwise(
    dsn: str,
) -> None:
    """Else the locks of a machine that vanished would last for hours."""
    theirs = psycopg.conninfo.make_conninfo(dsn, options="-c tcp_keepalives_idle=77")
    for given, idle in ((dsn, "30"), (theirs, "77")):
        warehouse = Warehouse(given)
        served = set()
        for _ in range(2):
            with warehouse.connect() as connection:
                served.add(connection.info.backend_pid)
                found = [
                    connection.execute(f"show tcp_keepalives_{name}".encode()).fetchone()
                    for name in ("idle", "interval", "count")
                ]
                assert found == [(idle,), ("10",), ("3",)]
                assert connection.execute("show tcp_user_timeout").fetchone() == ("60000",)
        assert len(served) == 1
        with warehouse.reading("select current_setting('tcp_keepalives_idle') as idle") as reader:
            assert reader.read_all()["idle"].to_pylist() == [idle]


def test_nobody_waits_in_a_warehouse_that_is_stopped_and_nobody_connects_to_it(dsn: str) -> None:
    warehouse, resting = Warehouse(dsn), Warehouse(dsn)

    def wait() -> None:
        with warehouse.connect() as connection:
            connection.execute("select pg_advisory_lock(8)")

    with psycopg.connect(dsn, autocommit=True) as somebody, ThreadPoolExecutor(2) as pool:
        somebody.execute("select pg_advisory_lock(8)")
        waiting = [pool.submit(wait) for _ in range(2)]
        until(lambda: somebody.execute(_WAITING).fetchone() == (2,))
        warehouse.stop()
        for one in waiting:
            with pytest.raises(WarehouseError, match="canceling statement"):
                one.result(10)
    with pytest.raises(Stopped), warehouse.connect():
        pass
    with resting.connect() as connection:
        assert connection.execute(_WAITING).fetchone() == (0,)


def test_what_a_killed_process_had_asked_for_ends_and_its_locks_with_it(dsn: str) -> None:
    process = children.begun(_hold_and_ask, dsn)
    held = "select count(*) from pg_locks where locktype = 'advisory' and granted"
    with psycopg.connect(dsn, autocommit=True) as other:
        until(lambda: other.execute(held).fetchone() == (1,))
        process.kill()
        process.join()
        until(lambda: other.execute(held).fetchone() == (0,))


def _hold_and_ask(dsn: str) -> None:
    with Warehouse(dsn).connect() as connection:
        connection.execute("select pg_advisory_lock(9), pg_sleep(300)")
