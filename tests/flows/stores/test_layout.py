"""Where a header names other partitions the rows come into them, in PostgreSQL and in the lake at once."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.locks import Blocked
from flows.stores.migrate import ConsentNeeded, migrate
from flows.stores.publish import publish
from flows.stores.recovery import histories_of, replace_ledger
from flows.stores.warehouse import Warehouse
from tests.flows.stores.test_readers import snapshot
from tests.flows.stores.world import EVENTS, built, rows, tidy, visits
from transforms.contract import Column, Partition, Table, Write

DAYS = ("2025-09-30", "2025-10-01", "2025-10-02")
ENTERED = replace(
    EVENTS,
    key=("visit_id",),
    columns=(*EVENTS.columns, Column("entered_at", "TIMESTAMP WITH TIME ZONE")),
)
BY_ENTRY = replace(ENTERED, partition=Partition("entered_at", "day"))


def _filled(dsn: str, lake: Lake, table: Table, more: str = "") -> Warehouse:
    """Ten visits on each of the days; `more`: further columns of them."""
    warehouse = Warehouse(dsn)
    migrate(warehouse, lake, table)
    for number, day in enumerate(DAYS):
        query = f"select *{more} from ({visits(day, 10, first=10 * number)})"
        publish(table, [built(lake, table, day, query, batch=day)], warehouse=warehouse, lake=lake)
    return warehouse


def _standing(warehouse: Warehouse, lake: Lake, table: Table) -> tuple[dict[str, int], int]:
    """Partition → rows, as the ledger has it; and the rows of the lake's files."""
    with warehouse.connect() as connection, lake.duckdb() as session:
        states = Ledger(connection).states([table.name])
        files = [file for state in states.values() for file in state.files]
        return {partition: state.row_count for (_, partition), state in states.items()}, lake.read(
            session, files
        ).count("*").fetchall()[0][0]


def _leaves(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "select inhrelid::regclass::text from pg_inherits "
            "where inhparent = 'analytics.fct_visits'::regclass"
        ).fetchall()
    return sorted(name for (name,) in found)


def test_days_become_months_in_one_moment(any_dsn: str, lake: Lake) -> None:
    warehouse, monthly = (
        _filled(any_dsn, lake, EVENTS),
        replace(EVENTS, partition=Partition("visited_at", "month")),
    )
    before = rows(any_dsn, EVENTS.name)

    with snapshot(any_dsn), pytest.raises(Blocked):
        migrate(warehouse, lake, monthly)
    assert (rows(any_dsn, EVENTS.name), _standing(warehouse, lake, EVENTS)) == (
        before, (dict.fromkeys(DAYS, 10), 30),
    )  # fmt: skip
    done = migrate(warehouse, lake, monthly)

    assert done.describe() == ["fct_visits: its partitions become one a month (rebuild)"]
    assert rows(any_dsn, EVENTS.name) == before
    assert _leaves(any_dsn) == ["analytics.fct_visits_2025_09", "analytics.fct_visits_2025_10"]
    assert _standing(warehouse, lake, monthly) == ({"2025-09": 10, "2025-10": 20}, 30)
    assert not migrate(warehouse, lake, monthly).is_needed
    assert tidy(any_dsn, lake)["left"] == []


def test_the_manifest_tells_of_the_partitions_of_now(dsn: str, lake: Lake, any_dsn: str) -> None:
    warehouse, monthly = (
        _filled(dsn, lake, EVENTS),
        replace(EVENTS, partition=Partition("visited_at", "month")),
    )
    migrate(warehouse, lake, monthly)

    with Warehouse(any_dsn).connect() as connection, connection.transaction():
        replace_ledger(Ledger(connection), histories_of(lake))

    assert _standing(Warehouse(any_dsn), lake, monthly) == _standing(warehouse, lake, monthly)


def test_another_column_takes_the_rows_where_it_says_and_asks_where_it_says_nothing(
    any_dsn: str, lake: Lake
) -> None:
    entered = ", case when visit_id % 10 > 3 then visited_at + interval 1 day end as entered_at"
    warehouse = _filled(any_dsn, lake, ENTERED, entered)
    before = rows(any_dsn, EVENTS.name)

    with pytest.raises(
        ConsentNeeded, match=r"partitioned by entered_at now, which 12 of its rows have no .*--yes"
    ):
        migrate(warehouse, lake, BY_ENTRY)
    assert rows(any_dsn, EVENTS.name) == before
    migrate(warehouse, lake, BY_ENTRY, yes=True)

    assert rows(any_dsn, EVENTS.name) == [row for row in before if row[-1] is not None]
    days = ("2025-10-01", "2025-10-02", "2025-10-03")
    assert _standing(warehouse, lake, BY_ENTRY) == (dict.fromkeys(days, 6), 18)


def test_what_an_older_version_left_beside_is_no_content(dsn: str, lake: Lake) -> None:
    """It built the table whole, and the days that it had been built by stayed in force."""
    daily = replace(EVENTS, write=Write.MERGE)
    warehouse, whole = _filled(dsn, lake, daily), replace(daily, partition=None)
    query = " union all ".join(f"({visits(day, 10, first=10 * number)})" for number, day in enumerate(DAYS))
    publish(whole, [built(lake, whole, "", query, batch="whole")], warehouse=warehouse, lake=lake)
    before = rows(dsn, EVENTS.name)
    assert (len(before), _standing(warehouse, lake, whole)) == (30, ({"": 30, **dict.fromkeys(DAYS, 10)}, 60))

    migrate(warehouse, lake, whole)

    assert (rows(dsn, EVENTS.name), _standing(warehouse, lake, whole)) == (before, ({"": 30}, 30))
