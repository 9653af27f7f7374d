"""A call that does not keep to its time holds nobody up."""

from __future__ import annotations

import threading

import pytest

from flows.hung import within


def test_a_call_gives_what_it_returns_and_what_it_raises() -> None:
    assert within(60, lambda: 7) == 7
    nothing: dict[str, int] = {}
    with pytest.raises(KeyError, match="gone"):
        within(60, lambda: nothing["gone"])


def test_a_call_that_hangs_is_left_to_itself() -> None:
    let_go = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            within(0.01, let_go.wait)
        assert [thread.daemon for thread in threading.enumerate() if thread.name == "within"] == [True]
    finally:
        let_go.set()
