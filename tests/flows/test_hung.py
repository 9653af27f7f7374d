"""A call that does not keep to its time holds nobody up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from flows.hung import stop_when_told, within


@pytest.fixture
def handlers() -> Iterator[None]:
    """What the signals did before is what they do afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


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


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("at", ["the timer's start", "the event's setting"])
def test_a_second_signal_in_the_midst_of_the_first_changes_nothing(at: str) -> None:
    being_set = threading.Lock()

    class Event(threading.Event):
        def set(self) -> None:
            assert being_set.acquire(blocking=False), "it waits for the lock that it holds itself"
            if at == "the event's setting":
                signal.raise_signal(signal.SIGTERM)
            super().set()
            being_set.release()

    class Timer(threading.Timer):
        def start(self) -> None:
            if at == "the timer's start":
                signal.raise_signal(signal.SIGINT)
            super().start()

    stop, leaving = Event(), Timer(3600, lambda: None)
    leaving.daemon = True
    stop_when_told(stop, leaving)
    try:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        assert leaving.is_alive()
    finally:
        leaving.cancel()
