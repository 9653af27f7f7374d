"""A run leaves figures of what it published, by day, whether or not a monitor is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from flows.monitoring import profiles
from flows.stores.lake import partition_folder
from tests.flows.monitoring.conftest import NOW, Place
from transforms import registry


@pytest.fixture
def lake(place: Place) -> Iterator[Place]:
    """The same place with its lake open."""
    with place.services.lake:
        yield place


def _publish(place: Place, name: str, partition: str, rows: str, token: str) -> None:
    """A partition of a table whose file holds what a select gives; the other columns are null."""
    table, store = registry.table(name), place.services.lake
    with store.duckdb() as session:
        given = session.sql(rows).columns
        columns = ", ".join(
            f"{column.name if column.name in given else 'null'}::{column.type} as {column.name}"
            for column in table.columns
        )
        folder = partition_folder(table) if partition else None
        source = session.sql(f"select {columns} from ({rows})")
        file = store.write(table.layer, name, folder, partition, token, source)
    place.execute(
        "insert into ops.partition_state "
        "(table_name, partition, token, version, files, row_count, published_at) "
        "values (%s, %s, %s, 1, %s, %s, clock_timestamp()) on conflict (table_name, partition) do update "
        "set (token, files, row_count) = (excluded.token, excluded.files, excluded.row_count)",
        name,
        partition,
        token,
        Jsonb([file.as_json()]),
        file.rows,
    )


def _profiles(place: Place, name: str) -> list[tuple[Any, ...]]:
    return place.execute(
        "select partition, day, row_count, hours, columns from ops.partition_profile "
        "where table_name = %s order by day",
        name,
    )


def _orders(day: str, status: str, rows: int) -> str:
    return (
        f"select timestamptz '{day} 08:00' + to_hours(n::int % 3) as created_at, '{status}' as status, "
        f"n::int as quantity, case when n % 4 > 0 then 'X' end as coupon_code from range({rows}) r(n)"
    )


def test_events_are_counted_by_hour_with_their_nulls_and_types(lake: Place) -> None:
    rows = (
        "select timestamptz '2025-11-02 00:00' + to_minutes(n::int * 10) as event_time, "
        "if(n < 30, 'click', 'page_view') as event_type, if(n % 10 = 0, null, n) as user_id "
        "from range(144) r(n)"
    )
    _publish(lake, "fct_events", "2025-11-02", rows, "a")
    assert profiles.update(lake.services) == 1
    ((partition, day, count, hours, columns),) = _profiles(lake, "fct_events")
    assert (partition, day, count) == ("2025-11-02", date(2025, 11, 2), 144)
    assert hours == {str(hour): 6 for hour in range(24)}
    assert columns["event_type"]["values"] == {"click": 30, "page_view": 114}
    assert columns["user_id"] == {"nulls": 15}
    assert "event_id" not in columns


@pytest.mark.parametrize("amount", [0, -5])
def test_amounts_that_are_nowhere_above_zero_are_known_as_they_are(lake: Place, amount: int) -> None:
    rows = f"select timestamptz '2025-11-01 08:00' as created_at, {amount} as revenue from range(6)"
    _publish(lake, "fct_orders", "2025-11", rows, "a")
    profiles.update(lake.services)
    ((*_, columns),) = _profiles(lake, "fct_orders")
    assert columns["revenue"]["quantiles"] == [amount] * 5
    assert columns["discount_amount"]["quantiles"] is None


def test_what_was_looked_at_is_not_looked_at_again(lake: Place) -> None:
    _publish(lake, "fct_orders", "2025-11", _orders("2025-11-01", "paid", 9), "a")
    assert profiles.update(lake.services) == 1
    assert profiles.update(lake.services) == 0


def test_a_month_is_told_by_day_and_a_day_that_was_over_keeps_its_first_look(lake: Place) -> None:
    first = _orders("2025-11-01", "paid", 9)
    _publish(lake, "fct_orders", "2025-11", first, "a")
    profiles.update(lake.services)
    both = f"{_orders('2025-11-01', 'delivered', 12)} union all {_orders('2025-11-02', 'paid', 6)}"
    _publish(lake, "fct_orders", "2025-11", both, "b")
    profiles.update(lake.services)
    (old, new) = _profiles(lake, "fct_orders")
    # Two orders came late, so there are more rows; what became of the others is no news of that day.
    assert (old[1], old[2], old[4]["status"]["values"]) == (date(2025, 11, 1), 12, {"paid": 9})
    assert (new[1], new[2], new[4]["status"]["values"]) == (date(2025, 11, 2), 6, {"paid": 6})
    assert len(new[4]["quantity"]["quantiles"]) == 5


def test_an_old_day_that_is_backfilled_is_not_looked_at(lake: Place) -> None:
    old = (NOW - profiles.REMEMBERED - timedelta(days=5)).date().isoformat()
    _publish(
        lake, "fct_events", old, f"select timestamptz '{old} 08:00' as event_time, 'click' as event_type", "a"
    )
    assert profiles.update(lake.services) == 0


def test_personal_data_is_in_no_figure() -> None:
    for table in registry.build_order():
        if table.is_published:
            shown = {column.name for column in (*profiles.kinds(table), *profiles.numbers(table))}
            assert not shown & {column.name for column in table.columns if column.pii}, table.name
    table = registry.table("dim_users")
    told = replace(table, columns=tuple(replace(c, max_length=20, type="INTEGER") for c in table.columns))
    personal = {column.name for column in told.columns if column.pii}
    assert personal
    assert not personal & {column.name for column in (*profiles.kinds(told), *profiles.numbers(told))}


def test_a_table_without_windows_has_a_figure_for_each_day_it_was_looked_at(lake: Place) -> None:
    for day, rows in enumerate((5, 6)):
        _publish(
            lake,
            "dim_currencies",
            "",
            f"select chr(65 + n::int) as currency from range({rows}) r(n)",
            f"t{day}",
        )
        profiles.update(lake.services)
        lake.later(86_400)
    assert [(day, count) for _, day, count, *_ in _profiles(lake, "dim_currencies")] == [
        (date(2025, 11, 3), 5),
        (date(2025, 11, 4), 6),
    ]


def test_of_a_history_what_holds_now_is_looked_at(lake: Place) -> None:
    """One user moved twice, and nobody knew where to for a while: that is over."""
    rows = (
        "select 1 as user_id, timestamptz '2025-10-01' as valid_from, 'DE' as country "
        "union all select 1, timestamptz '2025-10-02', null "
        "union all select 1, timestamptz '2025-10-03', 'FR' "
        "union all select 2, timestamptz '2025-10-01', null"
    )
    _publish(lake, "dim_users_history", "", rows, "a")
    assert profiles.update(lake.services) == 1
    ((_, _, count, _, columns),) = _profiles(lake, "dim_users_history")
    assert (count, columns["country"]) == (2, {"nulls": 1})
