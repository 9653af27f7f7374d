"""How often Python looks for garbage that refers to itself, in a process that runs a flow."""

from __future__ import annotations

import gc

_NEW_OBJECTS = 50_000
"""After Python's own 700, records, pages and imports make it look thousands of times in a run."""


def look_rarely() -> None:
    """Look after 50,000 new objects: to look at what is about to be freed anyway was a tenth of a run's work.

    What no circle holds is freed at once, as ever.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
