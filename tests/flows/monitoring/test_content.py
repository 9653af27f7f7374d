"""What was published is compared with what was published before, from figures alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from flows.monitoring.verdict import State
from tests.flows.monitoring.conftest import NOW, Place

YESTERDAY = NOW.date() - timedelta(days=1)
TYPES = {"page_view": 500, "click": 300, "order_placed": 200}


@pytest.fixture(autouse=True)
def _tonight(place: Place) -> None:
    """Tables tell of what happened until the run of last night."""
    place.run(datetime(2025, 11, 3, 2, tzinfo=UTC))


def _history(
    place: Place, table: str, days: int, columns: Callable[[int], Mapping[str, Any]], rows: int = 10_000
) -> None:
    """So many whole days of a table, the last one yesterday."""
    for number in range(days):
        day = YESTERDAY - timedelta(days=days - 1 - number)
        place.profile(table, day, rows + 50 * (number * 7 % 5), columns(number))


def _events(number: int) -> dict[str, Any]:
    return {"user_id": {"nulls": 3_000 + 20 * (number % 3)}, "event_type": {"values": TYPES}}


def test_a_usual_day_is_well_and_is_held_to_its_bounds(place: Place) -> None:
    _history(place, "fct_events", 40, _events)
    rows = place.measure("row_count")["fct_events"]
    assert rows.state is State.OK
    assert rows.limit is not None
    assert rows.observed["of"] == YESTERDAY.isoformat()
    assert place.measure("null_rate")["fct_events.user_id"].state is State.OK
    assert place.measure("distribution_drift")["fct_events.event_type"].state is State.OK


def test_a_fifth_fewer_rows_are_told_with_how_many_are_usual(place: Place) -> None:
    _history(place, "fct_events", 40, _events)
    place.profile("fct_events", YESTERDAY, 8_000, _events(1))
    found = place.measure("row_count")["fct_events"]
    assert (found.state, found.value) == (State.WARNING, 8_000)
    assert found.message.startswith(f"fct_events has 8,000 rows of {YESTERDAY}; about 10,")


def test_a_day_without_any_row_is_told_once_its_table_was_looked_at_after_it(place: Place) -> None:
    _history(place, "fct_events", 40, _events)
    place.execute("delete from ops.partition_profile where day = %s", YESTERDAY)
    found = place.measure("row_count")["fct_events"]
    assert (found.state, found.value) == (State.WARNING, 0)


@pytest.mark.parametrize("empty", [1, 4, 7, 8, 30])
def test_what_has_stopped_is_told_for_as_long_as_no_row_comes(place: Place, empty: int) -> None:
    _history(place, "fct_events", 40 + empty, _events)
    first = YESTERDAY - timedelta(days=empty - 1)
    place.execute("delete from ops.partition_profile where day >= %s", first)
    found = place.measure("row_count")["fct_events"]
    assert (found.state, found.value) == (State.WARNING, 0)
    assert f"has 0 rows {'of' if empty == 1 else 'since'} {first}; about 10," in found.message


def test_a_weekend_without_rows_is_none_and_the_monday_after_it_is_told(place: Place) -> None:
    """Yesterday, 2 November 2025, was a Sunday; tables tell of what happened until the night after Monday."""
    _history(place, "fct_events", 56, _events)
    place.execute("delete from ops.partition_profile where extract(isodow from day) > 5")
    assert place.measure("row_count")["fct_events"].state is State.OK
    for _ in range(2):
        place.later(86_400)
        place.run(place.moment[0] - timedelta(hours=10))
        found = place.measure("row_count")["fct_events"]
        assert (found.state, found.observed["of"]) == (State.WARNING, "2025-11-03")


def test_a_day_that_nobody_has_looked_at_is_not_taken_for_an_empty_one(place: Place) -> None:
    _history(place, "fct_events", 40, _events)
    place.execute("delete from ops.partition_profile where day = %s", YESTERDAY)
    place.execute(
        "insert into ops.partition_state (table_name, partition, token, version, row_count, published_at) "
        "values ('fct_events', %s, 'new', 1, 9000, clock_timestamp())",
        YESTERDAY.isoformat(),
    )
    assert "fct_events" not in place.measure("row_count")


def test_a_backfilled_old_day_is_no_anomaly(place: Place) -> None:
    _history(place, "fct_events", 40, _events)
    place.profile("fct_events", YESTERDAY - timedelta(days=20), 90_000, {"user_id": {"nulls": 89_000}})
    for signal in ("row_count", "null_rate", "distribution_drift"):
        assert {verdict.state for verdict in place.measure(signal).values()} == {State.OK}


def test_three_points_more_nulls_are_told_and_fewer_are_not(place: Place) -> None:
    _history(place, "fct_events", 40, _events, rows=100_000)
    for nulls, state in ((6_000, State.WARNING), (0, State.OK)):
        place.profile("fct_events", YESTERDAY, 100_000, {"user_id": {"nulls": nulls}})
        found = place.measure("null_rate")["fct_events.user_id"]
        assert found.state is state
    place.profile("fct_events", YESTERDAY, 100_000, {"user_id": {"nulls": 33_000}})
    assert (
        "33.0% of its rows of 2025-11-02 have none; 3.0% is usual"
        in place.measure("null_rate")["fct_events.user_id"].message
    )


def test_values_that_move_are_drift(place: Place) -> None:
    _history(place, "fct_events", 40, _events)
    moved = {"event_type": {"values": {"page_view": 300, "click": 300, "order_placed": 200, "unknown": 200}}}
    place.profile("fct_events", YESTERDAY, 10_000, moved)
    found = place.measure("distribution_drift")["fct_events.event_type"]
    assert found.state is State.WARNING
    assert found.value == pytest.approx(0.2)


def test_a_young_table_is_measured_and_not_judged(place: Place) -> None:
    _history(place, "fct_events", 5, _events)
    for signal, subject in (("row_count", "fct_events"), ("null_rate", "fct_events.user_id")):
        found = place.measure(signal)[subject]
        assert (found.state, found.limit, found.observed["judged"]) == (State.OK, None, False)
        assert found.value is not None


def test_rows_that_change_later_are_compared_as_young_as_they_were(place: Place) -> None:
    """Orders of last week are delivered, those of yesterday are not: that is no drift."""
    _history(place, "fct_orders", 40, lambda number: {"status": {"values": {"paid": 90, "pending": 10}}})
    place.execute(
        "update ops.partition_profile set columns_at = %s, "
        'columns = \'{"status": {"values": {"delivered": 100}}}\' '
        "where day < %s",
        NOW,
        YESTERDAY - timedelta(days=4),
    )
    found = place.measure("distribution_drift")["fct_orders.status"]
    assert (found.state, found.observed.get("judged")) == (State.OK, False)


def test_an_hour_without_rows_is_told(place: Place) -> None:
    for number in range(40):
        day = YESTERDAY - timedelta(days=39 - number)
        hours = {str(hour): 500 + 7 * ((number + hour) % 5) for hour in range(24)}
        if day == YESTERDAY:
            hours.pop("14")
        place.profile("fct_events", day, sum(hours.values()), hours=hours)
    place.profile("fct_events", NOW.date(), 510, hours={"0": 510})
    found = place.measure("row_count")["fct_events"]
    assert (found.state, found.observed["unusual"]) == (State.WARNING, ["2025-11-02 14:00"])


def test_of_a_day_that_is_unusual_its_hours_tell_nothing_more(place: Place) -> None:
    for number in range(40):
        day = YESTERDAY - timedelta(days=39 - number)
        of_all = 250 if day == YESTERDAY else 500
        hours = {str(hour): of_all + 7 * ((number + hour) % 5) for hour in range(24)}
        place.profile("fct_events", day, sum(hours.values()), hours=hours)
    found = place.measure("row_count")["fct_events"]
    told = [when for when in found.observed["unusual"] if when.startswith("2025-11-02")]
    assert (found.state, told) == (State.WARNING, ["2025-11-02"])


def test_a_dimension_that_shrinks_is_told(place: Place) -> None:
    for number in range(20):
        day = NOW.date() - timedelta(days=19 - number)
        place.profile("dim_users", day, 5_000 + 10 * number, partition="")
    assert place.measure("row_count")["dim_users"].state is State.OK
    place.profile("dim_users", NOW.date(), 2_000, partition="")
    found = place.measure("row_count")["dim_users"]
    assert (found.state, found.value) == (State.WARNING, 2_000)
    place.later(3 * 86_400)
    assert place.measure("row_count")["dim_users"].state is State.WARNING
    # Nothing has come since that could show otherwise.
    place.later(86_400)
    assert place.measure("row_count") == {}


def test_a_table_that_was_not_looked_at_for_days_is_not_judged_by_old_days(place: Place) -> None:
    _history(place, "fct_events", 40, _events)
    place.profile("fct_events", YESTERDAY, 1, _events(1))
    place.later(5 * 86_400)
    assert place.measure("row_count") == {}


def test_a_table_by_month_has_no_days_to_be_judged(place: Place) -> None:
    for month in range(1, 12):
        place.profile("mart_plan_revenue", date(2025, month, 1), 24, partition=f"2025-{month:02}")
    assert place.measure("row_count") == {}


def test_late_hours_of_today_wait_until_they_have_settled(place: Place) -> None:
    for number in range(40):
        day = NOW.date() - timedelta(days=39 - number)
        last = 11 if day == NOW.date() else 24
        hours = {str(hour): 500 + 7 * ((number + hour) % 5) for hour in range(last)}
        if day == NOW.date():
            hours["10"] = 100  # it has ended an hour and more ago
            hours["11"] = 3  # it is going on
        place.profile("fct_events", day, sum(hours.values()), hours=hours)
    place.run(NOW)
    found = place.measure("row_count")["fct_events"]
    assert found.observed["unusual"] == ["2025-11-03 10:00"]
