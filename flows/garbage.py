"""How often Python looks for garbage that refers to itself, in a process that runs a flow."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS = 50_000
"""After Python's own 700, records, pages and imports make it look thousands of times in a run."""

_asking: set[object] = set()
_change = threading.Lock()


def look_rarely() -> None:
    """Look after 50,000 new objects: to look at what is about to be freed anyway was a tenth of a run's work.

    What no circle holds is freed at once, as ever.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


@contextmanager
def not_looked_for() -> Iterator[None]:
    """Don't look while many objects are alive that refer to nothing, as messages are: Python would go through
    all of them time and again, which takes as long as reading them does. Threads may overlap.
    """
    me = object()
    with _change:
        _asking.add(me)
        gc.disable()
    try:
        yield
    finally:
        with _change:
            _asking.remove(me)
            if not _asking:
                gc.enable()
