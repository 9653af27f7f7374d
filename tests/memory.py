"""Where a test run keeps what it throws away: in memory where there is plenty, else on disk. Half of what
hundreds of databases cost is their files.
"""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

SHARED = Path("/dev/shm")
_ROOM = 8 << 30
"""Bytes: some three times what a whole run holds at once."""


@cache
def folder() -> Path | None:
    """A folder in memory with enough room; None: there is none, temporary files go where they always go."""
    try:
        available = re.search(r"(?m)^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        free = shutil.disk_usage(SHARED).free
    except OSError:
        return None
    has_room = available is not None and min(free, int(available[1]) << 10) >= _ROOM
    return SHARED if has_room else None
