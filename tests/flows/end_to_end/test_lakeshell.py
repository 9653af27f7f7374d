"""The lake that anybody can open: `lake.sql`, written by the run."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from flows import lakeshell
from flows.lakeshell import SHOWN
from flows.stores.lake import Lake
from flows.stores.manifest import fold
from tests.flows.company import Place
from transforms import registry


@pytest.fixture
def opened(built: Place) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB as `duckdb -init lake.sql` starts it."""
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
        connection.execute((built.lake / "lake.sql").read_text(encoding="utf-8"))
        yield connection


def test_every_table_of_every_layer_is_a_view_with_its_columns(opened: duckdb.DuckDBPyConnection) -> None:
    for table in registry.tables().values():
        if table.layer in SHOWN:
            opened.execute(f"select * from {table.name} limit 0")
            names = [column[0] for column in opened.description or []]
            assert {column.name for column in table.columns} <= set(names), table.name


def test_the_lake_and_the_warehouse_hold_the_same_rows(
    opened: duckdb.DuckDBPyConnection, built: Place
) -> None:
    for table in registry.build_order():
        if table.is_published:
            query = f"select count(*) from {table.name}"
            (count,) = opened.execute(query).fetchone() or (-1,)
            assert count == built.value(f"select count(*) from analytics.{table.name}"), table.name


def test_tables_without_rows_and_no_others_are_views_without_rows(
    opened: duckdb.DuckDBPyConnection, built: Place
) -> None:
    with Lake(str(built.lake)) as lake:
        for table in registry.tables().values():
            if table.layer in SHOWN:
                has_rows = any(file.rows for file in fold(lake.manifest(table.layer, table.name)))
                (count,) = opened.execute(f"select count(*) from {table.name}").fetchone() or (-1,)
                assert (count > 0) == has_rows, table.name


def test_the_views_of_a_new_lake_are_all_empty_and_all_there(tmp_path: object, built: Place) -> None:
    with Lake(str(tmp_path)) as lake:
        path = lakeshell.write(lake, registry.tables().values())
    with duckdb.connect() as connection:
        connection.execute(path.read_text(encoding="utf-8"))
        for table in registry.tables().values():
            if table.layer in SHOWN:
                assert connection.execute(f"select count(*) from {table.name}").fetchone() == (0,)


def test_a_day_is_read_from_its_own_files_alone(opened: duckdb.DuckDBPyConnection, built: Place) -> None:
    day = built.value("select max(event_time::date) from analytics.fct_events")
    days = built.value("select count(distinct event_time::date) from analytics.fct_events")
    where = f"where event_time_day = '{day}'"
    (plan,) = opened.execute(f"explain analyze select count(*) from fct_events {where}").fetchall()
    read = plan[1].split("Total Files Read:")[1].split("│")[0].strip()
    assert days > 10
    assert int(read) <= 2
    (count,) = opened.execute(f"select count(*) from fct_events {where}").fetchone() or (-1,)
    assert count == built.value("select count(*) from analytics.fct_events where event_time::date = %s", day)


def test_only_files_that_a_manifest_names_are_read(copy: Place) -> None:
    query = "select count(*) as n from fct_orders"
    before = copy.run("lake", query).out
    folder = next((copy.lake / "facts" / "fct_orders").rglob("*.parquet")).parent
    (folder / "stranger.parquet").write_bytes(b"PAR1 nobody wrote this")
    after = copy.run("lake", query)
    assert (after.code, after.out) == (0, before)


def test_the_lake_answers_a_question_on_the_command_line(built: Place) -> None:
    done = built.run("lake", "select count(*) as orders from fct_orders")
    assert done.code == 0
    assert str(built.value("select count(*) from analytics.fct_orders")) in done.out


def test_a_wrong_question_gets_one_sentence_and_exit_code_1(built: Place) -> None:
    done = built.run("lake", "select nothing from nowhere")
    assert done.code == 1
    assert "The lake can't answer that" in done.err
    assert "Traceback" not in done.said


def test_a_file_that_is_lost_takes_its_own_view_away_and_no_other(copy: Place) -> None:
    with Lake(copy.lake) as lake:
        lakeshell.write(lake, registry.tables().values())  # the copied one names the files of the original
    lost = min(copy.lake.glob("raw/raw_app__coupons/*/*.parquet"))
    lost.unlink()
    done = copy.run("lake", "select count(*) as n from raw_app__suppliers")
    assert (done.code, "│" in done.out) == (0, True), done.said
    (told,) = done.err.splitlines()
    assert told.startswith("raw_app__coupons is left out: IO Error: No files found that match the pattern")
    assert lost.name in told
    assert told.endswith("What was lost, and the way back: docs/recovery.md.")

    done = copy.run("lake", "select count(*) as n from raw_app__coupons")
    assert done.code == 1
    assert "The lake can't answer that" in done.err
    assert "Traceback" not in done.said
