"""Spans of offsets are sets of offsets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flows.streaming.held import Span, condition, merged, overlap, told, without

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair))))


def _offsets(spans: list[Span]) -> set[int]:
    return {offset for first, after in spans for offset in range(first, after)}


@given(SPANS)
def test_merged_spans_hold_the_same_offsets_in_order_and_apart(spans: list[Span]) -> None:
    found = merged(spans)
    assert _offsets(found) == _offsets(spans)
    assert all(before[1] < after[0] for before, after in pairwise(found))


@given(SPANS, SPANS)
def test_what_is_left_are_the_offsets_that_are_not_gone(ours: list[Span], gone: list[Span]) -> None:
    left = list(without(merged(ours), merged(gone)))
    assert _offsets(left) == _offsets(ours) - _offsets(gone)
    assert merged(left) == left


@given(SPANS, SPANS)
def test_two_overlap_when_they_share_an_offset(ours: list[Span], theirs: list[Span]) -> None:
    ours, theirs = merged(ours), merged(theirs)
    assert overlap({0: ours}, {0: theirs}) == bool(_offsets(ours) & _offsets(theirs))
    assert not overlap({0: ours}, {1: theirs})


def test_offsets_are_told_with_both_ends() -> None:
    assert told([(3, 4)]) == "3"
    assert told([(0, 10), (20, 21)]) == "0 to 9 and 20"
    assert told([(n, n + 1) for n in range(0, 20, 2)]) == "0, 2, 4, 6, 8 and 5 more"


def test_no_offset_is_no_row() -> None:
    assert condition({0: []}) == "false"
