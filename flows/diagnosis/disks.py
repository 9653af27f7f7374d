"""The folders that runs write into, and what room there is."""

from __future__ import annotations

import shutil
import tempfile

from flows.diagnosis import Finding
from flows.settings import Settings

_LEAST_FREE_BYTES = 2 << 30


def lake(settings: Settings) -> list[Finding]:
    """Whether it can be written, and has room for a run."""
    root = settings.lake_root
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        return [
            Finding(
                "lake",
                False,
                f"{root}: {error.strerror}",
                "Give this user the right to write, or set ANALYTICS_LAKE.",
            )
        ]
    free = shutil.disk_usage(root).free
    advice = f"Less than {_LEAST_FREE_BYTES >> 30} GiB are free at {root}: make room before the next run."
    return [
        Finding("lake", free >= _LEAST_FREE_BYTES, f"{root} is writable, {free / 1e9:.0f} GB free", advice)
    ]
