from __future__ import annotations
from pathlib import Path
import polars as pl
from flows.sandbox.world.log import Log
from flows.sandbox.world.shape import Shape


def write(folder: Path, shape: Shape, log: Log, periods: int, stops: tuple[int, ...]) -> None:
    pass
