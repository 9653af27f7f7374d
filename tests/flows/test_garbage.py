"""A run looks for garbage rarely, and still finds it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from flows import garbage


class _Circle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def _looks_while_making(count: int) -> int:
    looks = 0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal looks
        looks += phase == "start"

    gc.collect()
    gc.callbacks.append(note)
    try:
        kept = [[number] for number in range(count)]
    finally:
        gc.callbacks.remove(note)
    assert len(kept) == count
    return looks


def test_a_batch_of_records_is_not_looked_through_again_and_again() -> None:
    garbage.look_rarely()
    assert _looks_while_making(40_000) == 0


def test_what_refers_to_itself_is_freed_within_a_few_batches() -> None:
    garbage.look_rarely()
    lost = weakref.ref(_Circle())
    _looks_while_making(120_000)
    assert lost() is None


def test_nothing_is_looked_for_while_anybody_asks_for_it_and_is_afterwards() -> None:
    with garbage.not_looked_for():
        with garbage.not_looked_for():
            both = gc.isenabled()
        one = gc.isenabled()
    assert (both, one, gc.isenabled()) == (False, False, True)
