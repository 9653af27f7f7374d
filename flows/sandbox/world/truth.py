"""What a warehouse must say about the world, counted from the generator's own log and from nothing else.

`<sandbox>/truth/measures.parquet` (and .csv, to read) has one row per measure of a group of a table's rows
on a UTC day: table_name, day (null: the table has none), group (null: all rows together), measure, value
decimal(38,2). `<sandbox>/truth/rows/<table>.parquet` has the very rows of the smaller tables, columns named
as in the warehouse, and `rows/dead_letters.parquet` every message that no reader can take, with its
coordinates.

The tables are as they should be after one run at each of the world's stops (after creation and after each
advance): what appeared and went between two stops was seen by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from flows.sandbox.world import truth_events, truth_members, truth_money
from flows.sandbox.world.log import Log
from flows.sandbox.world.measures import Measured
from flows.sandbox.world.shape import Shape


def write(folder: Path, shape: Shape, log: Log, periods: int, stops: tuple[int, ...]) -> None:
    """Count everything up to the last stop and replace what the folder says."""
    measured: list[Measured] = []
    rows: dict[str, pl.DataFrame] = {}
    measured += truth_events.measures(shape, log, periods)
    rows["dead_letters"] = truth_events.dead_letters(log, periods)
    for parts in (
        truth_money.tables(log, periods, stops[-1]),
        truth_members.tables(shape, log, periods, stops),
    ):
        for name, (frame, measures) in parts.items():
            if frame is not None:
                rows[name] = frame
            measured += measures
    _replace(folder, measured, rows)


def _replace(folder: Path, measured: list[Measured], rows: Mapping[str, pl.DataFrame]) -> None:
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    for name, frame in rows.items():
        frame.write_parquet(folder / "rows" / f"{name}.parquet")
    everything = pl.concat(measured).sort("table_name", "day", "group", "measure", nulls_last=True)
    everything.write_parquet(folder / "measures.parquet")
    everything.write_csv(folder / "measures.csv")
