"""Partitions of relations, and what is new among appended rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from duckdb import DuckDBPyConnection

from transforms import windows
from transforms.contract import (
    FIRST_INSTANT,
    LAST_INSTANT,
    Column,
    ContractError,
    Layer,
    Partition,
    Table,
    moved,
)

TIMES = """
    select * from (values
        ('2025-10-06T23:59:59.999999Z'::timestamptz),
        ('2025-10-07T00:00:00Z'::timestamptz),
        ('2025-10-26T01:30:00+02:00'::timestamptz),
        ('2025-10-27T00:00:00Z'::timestamptz)
    ) as rows("at")
"""


def table(every: str, type_: str = "TIMESTAMP WITH TIME ZONE") -> Table:
    return Table(
        "fct_x",
        Layer.FACTS,
        "one row per x",
        ("at",),
        (Column("at", type_),),
        partition=Partition("at", "day" if every == "day" else "month"),
    )


def test_a_day_is_half_open_and_in_utc(duck: DuckDBPyConnection) -> None:
    duck.execute("set TimeZone = 'America/New_York'")
    rows = windows.within(duck.sql(TIMES), table("day"), ["2025-10-07"])
    assert rows.aggregate("count(*)").fetchall() == [(1,)]
    assert windows.partitions(duck.sql(TIMES), table("day")) == {
        "2025-10-06": 1,
        "2025-10-07": 1,
        "2025-10-25": 1,
        "2025-10-27": 1,
    }
    assert windows.partitions(duck.sql(TIMES), table("month")) == {"2025-10": 4}


def test_dates_are_partitioned_as_they_stand(duck: DuckDBPyConnection) -> None:
    duck.execute("set TimeZone = 'Pacific/Auckland'")
    dates = duck.sql("select '2025-10-07'::date as at")
    assert windows.partitions(dates, table("day", "DATE")) == {"2025-10-07": 1}
    assert len(windows.within(dates, table("day", "DATE"), ["2025-10-07"]).fetchall()) == 1
    assert windows.within(dates, table("day", "DATE"), ["2025-10-06"]).fetchall() == []


def test_lookback_widens_each_window(duck: DuckDBPyConnection) -> None:
    rows = windows.within(duck.sql(TIMES), table("day"), ["2025-10-07"], timedelta(days=1))
    assert len(rows.fetchall()) == 2


def test_no_window_is_no_row(duck: DuckDBPyConnection) -> None:
    assert windows.within(duck.sql(TIMES), table("day"), []).fetchall() == []


def test_a_row_without_a_moment_is_refused(duck: DuckDBPyConnection) -> None:
    with pytest.raises(ContractError, match="1 rows have no at"):
        windows.partitions(duck.sql("select null::timestamptz as at"), table("day"))


def novel(duck: DuckDBPyConnection, new: str, existing: str | None) -> tuple[list[Any], list[Any]]:
    def rows(values: str) -> str:
        return f"select * from (values {values}) as rows(id, place, seq, body)"

    held = duck.sql(rows(existing)) if existing else None
    found = windows.novel(duck, duck.sql(rows(new)), held, ["id"], ["place", "seq"])
    return sorted(found.added.fetchall()), sorted(found.superseded.fetchall())


def test_of_copies_in_one_batch_the_lowest_stays(duck: DuckDBPyConnection) -> None:
    added, superseded = novel(duck, "(1, 1, 5, 'b'), (1, 0, 9, 'a'), (1, 1, 4, 'c'), (2, 0, 1, 'd')", None)
    assert added == [(1, 0, 9, "a"), (2, 0, 1, "d")]
    assert superseded == []


def test_a_key_that_is_there_is_not_added_again(duck: DuckDBPyConnection) -> None:
    added, superseded = novel(
        duck, "(1, 0, 5, 'again'), (1, 0, 5, 'again'), (2, 0, 6, 'new')", "(1, 0, 5, 'old')"
    )
    assert added == [(2, 0, 6, "new")]
    assert superseded == []


def test_a_newcomer_that_comes_earlier_in_the_log_replaces_the_old_row(duck: DuckDBPyConnection) -> None:
    added, superseded = novel(duck, "(1, 0, 4, 'winner')", "(1, 0, 5, 'old'), (2, 0, 1, 'other')")
    assert added == [(1, 0, 4, "winner")]
    assert superseded == [(1, 0, 5, "old")]


def test_the_order_of_batches_does_not_change_what_remains(duck: DuckDBPyConnection) -> None:
    batches = [
        "(1, 1, 1, 'a'), (2, 0, 3, 'b')",
        "(1, 0, 8, 'c'), (2, 0, 2, 'd')",
        "(1, 0, 9, 'e'), (3, 1, 1, 'f')",
    ]

    def load(order: list[str]) -> list[str]:
        held: dict[Any, Any] = {}
        for batch in order:
            existing = ", ".join(repr(row) for row in held.values()) or None
            added, _ = novel(duck, batch, existing)
            held.update({row[0]: row for row in added})
        return sorted(map(str, held.values()))

    assert load(batches) == load(batches[::-1]) == load([batches[1], batches[2], batches[0]])


@pytest.mark.parametrize(
    ("every", "key"),
    [("day", "0001-01-01"), ("day", "2024-02-29"), ("month", "2025-12"), ("month", "9999-11")],
)
def test_a_partition_key_and_its_bounds_agree(every: str, key: str) -> None:
    partition = Partition("at", "day" if every == "day" else "month")
    start, end = partition.bounds(key)
    assert partition.key(start) == partition.key(end - timedelta(microseconds=1)) == key
    assert partition.key(end) != key


@pytest.mark.parametrize(("every", "key"), [("day", "9999-12-31"), ("month", "9999-12")])
def test_the_last_window_of_all_ends_with_the_last_instant(every: str, key: str) -> None:
    partition = Partition("at", "day" if every == "day" else "month")
    start, end = partition.bounds(key)
    assert partition.key(start) == partition.key(end) == key
    assert end == LAST_INSTANT
    assert moved(end, timedelta(days=8)) == LAST_INSTANT
    assert moved(FIRST_INSTANT, -timedelta(days=8)) == FIRST_INSTANT


@pytest.mark.parametrize("key", ["2025-02-30", "2025-10", "../2025-10-07", "2025-10-07\x00", ""])
def test_a_key_without_a_whole_day_is_refused(key: str) -> None:
    with pytest.raises(ContractError, match="is no day partition"):
        Partition("at", "day").bounds(key)
