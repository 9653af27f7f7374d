"""What is usual does not depend on units, and a few wild figures do not move it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.monitors import (
    HIGH,
    LOW,
    NORMAL,
    Numbers,
    Share,
    Shares,
    Volumes,
    drift,
    judge_change,
    judge_share,
    usual,
)
from quality.monitors.usual import scatter

FIRST = date(2025, 9, 1)
FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=60)


def _days(count: int) -> list[date]:
    return [FIRST + timedelta(days=number) for number in range(count)]


@settings(max_examples=30)
@given(FIGURES, st.floats(-1e5, 1e5), st.floats(0.01, 100))
def test_scatter_follows_the_unit_and_not_where_figures_lie(
    figures: list[float], away: float, unit: float
) -> None:
    moved = [figure * unit + away for figure in figures]
    assert scatter(moved) == pytest.approx(scatter(figures) * unit, rel=1e-3, abs=1e-3 * unit + 1e-6)


@settings(max_examples=30)
@given(FIGURES, st.data())
def test_a_few_wild_figures_leave_the_usual_among_the_others(
    figures: list[float], data: st.DataObject
) -> None:
    wild = data.draw(st.lists(st.sampled_from([-1e12, 1e12]), max_size=len(figures) // 3))
    found = usual([("", figure) for figure in [*figures, *wild]], "")
    assert found is not None
    assert min(figures) <= found.expected <= max(figures)
    # In half of the figures' range lie all that are no further from the middle than most.
    assert found.scatter <= 12 * (max(figures) - min(figures)) + 1e-6


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), max_size=6))
def test_fewer_than_seven_figures_say_nothing(figures: list[float]) -> None:
    assert usual([("", figure) for figure in figures], "") is None


@settings(max_examples=30)
@given(FIGURES)
def test_the_usual_is_the_middle_of_its_season(figures: list[float]) -> None:
    history = [(number % 2, figure) for number, figure in enumerate(figures)]
    found = usual(history, 0)
    assert found is not None
    assert found.expected == median(figures[::2])


@settings(max_examples=30)
@given(st.integers(100, 1_000_000), st.floats(0.98, 1.03), st.integers(30, 70))
def test_steady_growth_is_no_anomaly(level: int, growth: float, length: int) -> None:
    rows = {day: round(level * growth**number) for number, day in enumerate(_days(length))}
    judged = Volumes(rows).day(_days(length)[-1], NORMAL)
    assert judged is not None
    assert not judged.is_unusual


@settings(max_examples=30)
@given(st.integers(200, 1_000_000), st.lists(st.floats(0.2, 3), min_size=7, max_size=7))
def test_a_weekend_is_none_and_a_weekday_without_rows_is_one(level: int, week: list[float]) -> None:
    days = _days(57)
    rows = {day: round(level * week[day.weekday()]) for day in days}
    for day in days[-7:]:
        judged = Volumes(rows).day(day, NORMAL)
        assert judged is not None
        assert not judged.is_unusual
    judged = Volumes({**rows, days[-1]: 0}).day(days[-1], NORMAL)
    assert judged is not None
    assert judged.is_unusual


@settings(max_examples=30)
@given(st.integers(50, 100_000), st.floats(0, 4))
def test_what_comes_after_a_day_has_no_say_in_it(level: int, later: float) -> None:
    days = _days(40)
    rows = dict.fromkeys(days[:30], level)
    after = {day: round(level * later) for day in days[30:]}
    assert Volumes(rows).day(days[29], NORMAL) == Volumes({**rows, **after}).day(days[29], NORMAL)


def test_a_day_of_a_fifth_fewer_rows_is_unusual_and_one_of_a_twentieth_fewer_is_not() -> None:
    days = _days(57)
    rows = {day: 50_000 + 700 * (number * 7 % 5 - 2) for number, day in enumerate(days)}
    for share, is_unusual in ((0.8, True), (0.95, False), (1.0, False), (1.3, True)):
        judged = Volumes({**rows, days[-1]: round(50_000 * share)}).day(days[-1], NORMAL)
        assert judged is not None
        assert judged.is_unusual is is_unusual, share


def test_a_lasting_change_is_usual_within_a_week() -> None:
    days = _days(70)
    rows = {day: 10_000 if number < 50 else 6_000 for number, day in enumerate(days)}
    volumes = Volumes(rows)
    judged = [volumes.day(day, NORMAL) for day in days[50:60]]
    assert [found is not None and found.is_unusual for found in judged] == [True] * 4 + [False] * 6


def test_an_hour_is_held_to_the_same_hour_of_its_weekday() -> None:
    days = _days(50)
    hours = {
        datetime(day.year, day.month, day.day, hour, tzinfo=UTC): 1_000
        + 400 * (hour > 8)
        - 300 * (day.weekday() > 4)
        for day in days
        for hour in range(24)
    }
    counts = {day: sum(rows for moment, rows in hours.items() if moment.date() == day) for day in days}
    at = datetime(days[-1].year, days[-1].month, days[-1].day, 3, tzinfo=UTC)
    judged = Volumes(counts, hours).hour(at, NORMAL)
    assert judged is not None
    assert (judged.is_unusual, round(judged.expected)) == (False, 1_000)
    judged = Volumes(counts, {**hours, at: 500}).hour(at, NORMAL)
    assert judged is not None
    assert judged.is_unusual


def test_of_a_young_table_only_what_never_happened_before_is_unusual() -> None:
    days = _days(13)
    rows = {day: 10_000 - 6_000 * (day.weekday() > 4) for day in days}
    saturday = next(day for day in days[7:] if day.weekday() == 5)
    judged = Volumes({day: count for day, count in rows.items() if day <= saturday}).day(saturday, NORMAL)
    assert judged is None or not judged.is_unusual
    judged = Volumes({**rows, days[-1]: 10}).day(days[-1], NORMAL)
    assert judged is not None
    assert judged.is_unusual


def test_the_time_before_a_long_gap_says_nothing() -> None:
    recent = _days(60)[40:]
    rows = dict.fromkeys(recent, 1000)
    assert Volumes({**rows, FIRST: 1}).day(recent[-1], NORMAL) == Volumes(rows).day(recent[-1], NORMAL)
    few = dict.fromkeys(recent[-6:], 1000)
    assert Volumes({**dict.fromkeys(_days(30), 1000), **few}).day(recent[-1], NORMAL) is None


def test_of_few_rows_twice_as_many_are_chance() -> None:
    days = _days(28)
    for usually, today, is_unusual in ((4, 8, False), (4_000, 8_000, True)):
        judged = Volumes({**dict.fromkeys(days, usually), days[-1]: today}).day(days[-1], NORMAL)
        assert judged is not None
        assert judged.is_unusual is is_unusual


@settings(max_examples=30)
@given(st.integers(1_000, 100_000), st.floats(0, 1), st.floats(0, 1))
def test_a_rate_that_falls_is_never_unusual_and_a_higher_one_is_no_less_so(
    whole: int, usual_rate: float, rate: float
) -> None:
    history = [Share(day, round(whole * usual_rate), whole) for day in _days(28)]
    today = FIRST + timedelta(days=28)
    judged = judge_share(history, Share(today, round(whole * rate), whole), NORMAL)
    assert judged is not None
    if rate <= usual_rate:
        assert not judged.is_unusual
    more = judge_share(history, Share(today, whole, whole), NORMAL)
    assert more is not None
    assert more.is_unusual or not judged.is_unusual


@pytest.mark.parametrize(
    ("sensitivity", "points", "is_unusual"),
    [(NORMAL, 0.03, True), (NORMAL, 0.004, False), (HIGH, 0.008, True), (LOW, 0.02, False)],
)
def test_points_of_nulls_are_unusual_as_the_sensitivity_says(
    sensitivity: object, points: float, is_unusual: bool
) -> None:
    history = [Share(day, 2_000, 100_000) for day in _days(28)]
    today = Share(FIRST + timedelta(days=28), round(100_000 * (0.02 + points)), 100_000)
    judged = judge_share(history, today, sensitivity)  # type: ignore[arg-type]
    assert judged is not None
    assert judged.is_unusual is is_unusual


def test_one_null_among_few_rows_is_chance() -> None:
    history = [Share(day, 0, 20) for day in _days(28)]
    judged = judge_share(history, Share(FIRST + timedelta(days=28), 1, 20), NORMAL)
    assert judged is not None
    assert not judged.is_unusual


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1))
def test_the_same_distribution_is_no_drift_however_many_rows_it_has(counts: dict[str, int]) -> None:
    history = [Shares(day, counts) for day in _days(20)]
    more = {value: count * 3 for value, count in counts.items()}
    judged = drift(history, Shares(FIRST + timedelta(days=20), more), NORMAL)
    assert judged is not None
    assert judged.value == pytest.approx(0)
    elsewhere = drift(history, Shares(FIRST + timedelta(days=20), {"new": 10}), NORMAL)
    assert elsewhere is not None
    assert elsewhere.value == pytest.approx(1)
    assert elsewhere.is_unusual


def test_prices_half_as_high_again_are_drift() -> None:
    prices = (8.0, 31.0, 74.0, 160.0, 420.0)
    history = [Numbers(day, prices) for day in _days(20)]
    for factor, is_unusual in ((1.0, False), (1.02, False), (1.5, True)):
        today = Numbers(FIRST + timedelta(days=20), tuple(price * factor for price in prices))
        judged = drift(history, today, NORMAL)
        assert judged is not None
        assert judged.is_unusual is is_unusual, factor


def test_the_first_amount_in_a_column_that_was_always_zero_is_a_finite_drift() -> None:
    for highest in (0.0, 5e-324, 2.2250738585072014e-308):
        history = [Numbers(day, (0.0, 0.0, 0.0, 0.0, highest)) for day in _days(20)]
        judged = drift(history, Numbers(FIRST + timedelta(days=20), (1.0, 2.0, 2.0, 2.0, 3.0)), NORMAL)
        assert judged is not None
        assert judged.value == pytest.approx(2)
        assert judged.is_unusual


def test_a_table_that_shrinks_at_once_is_unusual_and_one_that_grows_as_ever_is_not() -> None:
    past = [1_000 + 20 * number for number in range(12)]
    for rows, is_unusual in ((1_240, False), (1_300, False), (900, True), (0, True)):
        judged = judge_change(past, rows, NORMAL)
        assert judged is not None
        assert judged.is_unusual is is_unusual, rows
    assert judge_change(past[:7], 0, NORMAL) is None
