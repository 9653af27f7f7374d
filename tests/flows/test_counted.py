"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from flows.counted import counted


@pytest.mark.parametrize(
    ("number", "seen"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1200, "1,200 rows")]
)
def test_one_thing_is_one_and_others_are_more(number: int, seen: str) -> None:
    assert counted(number, "row") == seen
