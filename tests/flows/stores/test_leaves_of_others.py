"""A leaf on which others have made something stays the leaf that it is: it is changed, not replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from flows.stores import standalone, ways
from flows.stores.dependents import InTheWay
from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.upkeep import retire
from flows.stores.warehouse import Warehouse
from tests.flows.stores.test_additions import _do, _standing
from tests.flows.stores.world import DAY, EVENTS, built, create, rows, tidy, visits

LEAF = f"analytics.fct_visits_{DAY.replace('-', '_')}"
MADE = {
    "nothing": ([], "swap", "swap"),
    "a view": ([f"create view public.mine as select page from {LEAF}"], "diff", "equal"),
    "an index": ([f"create index mine on {LEAF} (page)"], "diff", "equal"),
    "a policy": ([f"create policy mine on {LEAF} using (paid > 0)"], "diff", "equal"),
    "a trigger": (
        [
            "create function public.noted() returns trigger language plpgsql as 'begin return null; end'",
            f"create trigger mine after truncate on {LEAF} execute function public.noted()",
        ],
        "diff",
        "equal",
    ),
    "an index of all": (["create index mine on analytics.fct_visits (page)"], "swap", "swap"),
}


@pytest.mark.parametrize("what", MADE)
def test_a_day_of_which_all_differs_is_not_swapped_under_what_others_made_on_it(
    dsn: str, lake: Lake, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(ways, "SWAP_ROWS", 10)
    made, known, unknown = MADE[what]
    create(dsn, EVENTS)
    warehouse = Warehouse(dsn)
    first = built(lake, EVENTS, DAY, visits(DAY, 100), batch="b1")
    publish(EVENTS, [first], warehouse=warehouse, lake=lake)
    _do(dsn, *made)
    before = _standing(dsn, "fct_visits")

    other = built(lake, EVENTS, DAY, visits(DAY, 90, mark="new "), batch="b2")
    done = publish(EVENTS, [other], warehouse=warehouse, lake=lake)

    assert done.ways == {DAY: known}
    assert len(rows(dsn, "fct_visits")) == 90
    _do(dsn, "update ops.partition_state set published_at = null")
    last = built(lake, EVENTS, DAY, visits(DAY, 80, mark="newer "), batch="b3")
    assert publish(EVENTS, [last], warehouse=warehouse, lake=lake).ways == {DAY: unknown}
    assert {row[3][:11] for row in rows(dsn, "fct_visits")} == {"page newer "}
    assert _standing(dsn, "fct_visits") == before
    if what == "a view":
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select count(*), min(left(page, 11)) from public.mine").fetchone() == (
                80,
                "page newer ",
            )
    assert tidy(dsn, lake)["left"] == []


def test_a_day_past_its_retention_that_somebodys_view_reads_stays_and_is_named(
    any_dsn: str, lake: Lake
) -> None:
    warehouse, now = Warehouse(any_dsn), datetime(2025, 10, 9, 12, tzinfo=UTC)
    table = replace(EVENTS, retention=timedelta(days=1))
    create(any_dsn, table)
    days = ("2025-10-05", "2025-10-06", DAY)
    items = [built(lake, table, day, visits(day, 10), batch="b1") for day in days]
    publish(table, items, warehouse=warehouse, lake=lake)
    _do(
        any_dsn,
        "create view public.mine as select page from analytics.fct_visits_2025_10_06",
        "create index of_one_day on analytics.fct_visits_2025_10_05 (paid)",
    )
    said = r"^analytics.fct_visits_2025_10_06 is past its retention, and mine depends on it.*drop it"
    told: list[InTheWay] = []

    assert retire(warehouse, lake, table, now, tell=told.append) == ["2025-10-05", DAY]
    with pytest.raises(InTheWay, match=said):
        retire(warehouse, lake, table, now)

    (error,) = told
    assert str(error).startswith("analytics.fct_visits_2025_10_06 is past its retention, and mine depends")
    assert len(rows(any_dsn, "fct_visits")) == 10
    _do(any_dsn, "drop view public.mine")
    assert retire(warehouse, lake, table, now) == ["2025-10-06"]


def test_a_leaf_of_before_that_a_view_reads_keeps_no_run_from_beginning(dsn: str) -> None:
    """An older version swapped a leaf away under somebody's view."""
    _do(
        dsn,
        "create table unpublished.fct_visits__old_0123abcd (page text)",
        "create view public.mine as select page from unpublished.fct_visits__old_0123abcd",
        "create table unpublished.fct_visits__old_4567abcd (page text)",
    )
    with Warehouse(dsn).connect() as connection:
        assert standalone.sweep(connection) == ["fct_visits__old_4567abcd"]
    _do(dsn, "drop view public.mine")
    with Warehouse(dsn).connect() as connection:
        assert standalone.sweep(connection) == ["fct_visits__old_0123abcd"]
