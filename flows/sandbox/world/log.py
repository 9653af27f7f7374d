"""What the generator did, on disk: `<sandbox>/truth/log/<kind>/<period>.parquet`.

Kinds: users, changes, orders and mails (one row each, with their whole future), deliveries (every message
sent to a topic, with its partition and offset), late (messages that still wait to be sent) and mentioned
(users in the events up to a stop).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from flows.sandbox.world.shape import BASE

Kind = Literal["users", "changes", "orders", "mails", "deliveries", "late", "mentioned"]


class Log:
    """The log of one world. Writing a period again replaces it, so an interrupted advance leaves nothing
    twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, kind: Kind, period: int) -> Path:
        return self.folder / kind / f"{period - BASE:05d}.parquet"

    def write(self, kind: Kind, period: int, rows: pl.DataFrame) -> None:
        """Keep the rows of a period."""
        path = self._path(kind, period)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(path, compression="zstd", compression_level=1)

    def scan(self, kind: Kind, first: int, end: int) -> pl.LazyFrame:
        """The rows of the periods [first, end) that were written."""
        paths = [path for path in (self._path(kind, period) for period in range(first, end)) if path.exists()]
        if not paths:
            raise FileNotFoundError(
                f"The world's log {self.folder / kind} is gone; `sandbox reset` makes a new world."
            )
        return pl.scan_parquet(paths)

    def read(self, kind: Kind, end: int) -> pl.DataFrame:
        """All rows of the periods before `end`."""
        return self.scan(kind, BASE, end).collect()
