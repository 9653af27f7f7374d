"""What is lent to threads of this process, and how all of it is called back when that is told to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Generic, TypeVar

from flows.errors import FlowsError

EVERY_SECONDS = 0.2
"""So often what is lent is interrupted until it has come back."""
T = TypeVar("T")


class Stopped(FlowsError):
    """This process was told to end, and does nothing more in warehouse and lake."""


class Lending(Generic[T]):
    """Things that are lent for a while. `interrupt` ends what one of them is at; it does not wait long, and
    raises nothing.
    """

    def __init__(self, interrupt: Callable[[T], None]) -> None:
        self._interrupt = interrupt
        self._lent: dict[int, T] = {}
        self._changing = Lock()
        self._is_stopped = False

    @contextmanager
    def lent(self, one: T) -> Iterator[None]:
        """Lend it for this block. Raises Stopped after `stop`."""
        with self._changing:
            if self._is_stopped:
                raise Stopped("It was stopped: nothing more is done in warehouse and lake.")
            self._lent[id(one)] = one
        try:
            yield
        finally:
            with self._changing:
                del self._lent[id(one)]

    def stop(self) -> None:
        """Lend nothing any more, and interrupt what is lent, again until it has come back: a query may have
        no end, a lock may never come. Waits for nobody itself.
        """
        with self._changing:
            self._is_stopped = True
        Thread(target=self._call_back, name="call-back", daemon=True).start()

    def _call_back(self) -> None:
        while True:
            # Whoever gives one back waits meanwhile: one that is closed can't be interrupted.
            with self._changing:
                if not self._lent:
                    return
                for one in self._lent.values():
                    self._interrupt(one)
            time.sleep(EVERY_SECONDS)
