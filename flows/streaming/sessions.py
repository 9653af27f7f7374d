"""A stream goes on by itself: one session after the other, until somebody stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flows.progress import Progress
from flows.stores.warehouse_errors import NotLetIn
from flows.streaming.tally import Count

_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0


class Lifetime:
    """Until when a stream lives: until `stop` is set, or so many seconds are over (None: for ever)."""

    def __init__(self, stop: threading.Event, seconds: float | None) -> None:
        self.stop = stop
        self._deadline = time.monotonic() + seconds if seconds is not None else None

    def is_over(self) -> bool:
        """Whether it is time to end."""
        return self.stop.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline)


def keep_going(
    name: str,
    session: Callable[[], bool],
    lifetime: Lifetime,
    count: Count,
    errors: tuple[type[Exception], ...],
    progress: Progress | None,
) -> None:
    """Have sessions until the lifetime is over, or one says that nothing is left to do.

    What ends one with one of these errors is away, or belongs to somebody else, for the moment: another
    begins after a pause, which grows while nothing gets done. Other errors are raised, and NotLetIn: a
    process keeps the password that it began with, and a supervisor starts another with that of now.
    """
    pause = _PAUSE_SECONDS
    while not lifetime.is_over():
        before = count.batches
        try:
            if session():
                return
        except NotLetIn:
            raise
        except errors as error:
            count.interruptions += 1
            pause = _PAUSE_SECONDS if count.batches > before else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            if progress is not None:
                progress.say(name, f"{error} Going on in {pause:.1f} s.")
            lifetime.stop.wait(pause)
