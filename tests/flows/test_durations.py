"""Times and lengths of time, as people type and read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.durations import BadRange, days_between, length_of_time, spoken
from flows.errors import FlowsError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (2.34, "2.3 s"),
        (45.2, "45 s"),
        (59.9, "1 min"),
        (250, "4 min 10 s"),
        (3599.8, "1 h"),
        (11_100, "3 h 5 min"),
        (86_399.7, "1 d"),
        (187_200, "2 d 4 h"),
        (-1, "0 s"),
    ],
)
def test_a_length_of_time_is_read_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


@given(st.floats(10, 10**9))
def test_what_is_read_is_what_it_is_to_the_smaller_of_its_units(seconds: float) -> None:
    units = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}
    words = spoken(seconds).split()
    pairs = list(zip(map(int, words[::2]), words[1::2], strict=True))
    order = list(units)
    smallest = order[min(order.index(pairs[0][1]) + 1, len(order) - 1)]
    told = sum(number * units[unit] for number, unit in pairs)
    assert -1 <= seconds - told <= units[smallest]


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("10m", 600), ("2h", 7200), ("7", 7)])
def test_a_length_of_time_is_typed_with_a_unit_or_in_seconds(text: str, seconds: float) -> None:
    assert length_of_time(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "inf", "nan", "2 days"])
def test_anything_else_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(FlowsError, match="write it like 45s, 10m or 2h"):
        length_of_time(text)


@pytest.mark.parametrize(
    "text", ["tomorrow", "2025-W41", "2025-W41-2", "0001-01-01T00:00+14:00", "9999-12-31T23:00-14:00"]
)
def test_what_is_no_day_or_none_in_utc_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(BadRange, match=re.escape(f"--to '{text}' is no day; write it like 2025-10-07")):
        days_between("2025-10-07", text)
