"""A set of hashes that only knows whom it does not hold."""

from __future__ import annotations

import duckdb
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.streaming.membership import Hashes, Membership, Probes

ANY_HASH = st.integers(0, 2**64 - 1)


def _hashes(first: int, last: int) -> Hashes:
    """Of numbers, as DuckDB makes them."""
    with duckdb.connect() as session:
        hashed = session.execute("select hash(n) from range(?, ?) as t(n)", [first, last])
        return np.asarray(hashed.fetchnumpy()["hash(n)"])


@settings(max_examples=100)
@given(st.lists(st.lists(ANY_HASH, max_size=200), max_size=20), st.lists(ANY_HASH))
def test_whoever_was_added_is_found_in_whatever_pieces_they_came(
    pieces: list[list[int]], others: list[int]
) -> None:
    known = Membership()
    for piece in pieces:
        known.add(np.array(piece, np.uint64))
    added = [value for piece in pieces for value in piece]
    found = known.may_hold(Probes.of(np.array([*added, *others], np.uint64)))
    assert found[: len(added)].all()
    if not added:
        assert not found.any()


def test_one_in_a_thousand_others_at_most_is_taken_for_one_at_a_few_bytes_each() -> None:
    known, size = Membership(), 300_000
    for first in range(0, size, 70_000):
        known.add(_hashes(first, min(first + 70_000, size)))
    assert known.may_hold(Probes.of(_hashes(0, size))).all()
    assert known.may_hold(Probes.of(_hashes(size, 3 * size))).mean() < 0.001
    assert known.bytes < 7 * size


def test_nobody_is_found_where_nobody_was_added() -> None:
    known = Membership()
    known.add(_hashes(0, 0))
    assert known.bytes == 0
    assert not known.may_hold(Probes.of(_hashes(0, 1_000))).any()
    assert known.may_hold(Probes.of(_hashes(0, 0))).size == 0
