"""What a warehouse must say about the world, counted from the generator's own log and from nothing else.

`<sandbox>/truth/measures.parquet` (and .csv, to read) has one row per measure of a group of a table's rows
on a UTC day: table_name, day (null: the table has none), group (null: all rows together), measure, value
decimal(38,2). `<sandbox>/truth/rows/<table>.parquet` has the very rows of the smaller tables, columns named
as in the warehouse, and `rows/dead_letters.parquet` every message that no reader can take, with its
coordinates.

The tables are as they should be after one run at each of the world's stops (after creation and after each
advance): what appeared and went between two stops was seen by nobody. `<sandbox>/truth/newcomer/` says the
same for a warehouse whose first run is at the last stop; it is there once the world has had a second one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from flows.sandbox.world import truth_events, truth_members, truth_money
from flows.sandbox.world.log import Log
from flows.sandbox.world.measures import Measured
from flows.sandbox.world.shape import Shape
from flows.sandbox.world.truth_money import Told

NEWCOMER = "newcomer"
"""Folder of what a warehouse must say that never looked before the last stop."""


def write(folder: Path, shape: Shape, log: Log, periods: int, stops: tuple[int, ...]) -> None:
    """Count everything up to the last stop and replace what the folder says."""
    seen = [truth_money.tables(log, periods, stops[-1])]
    measured = truth_events.measures(shape, log, periods)
    rows = {"dead_letters": truth_events.dead_letters(log, periods)}
    _tell(folder, measured, rows, [*seen, truth_members.tables(shape, log, periods, stops)])
    if len(stops) > 1:
        newly = truth_members.tables(shape, log, periods, stops[-1:])
        _tell(folder / NEWCOMER, measured, rows, [*seen, newly])


def _tell(
    folder: Path,
    measured: Sequence[Measured],
    rows: Mapping[str, pl.DataFrame],
    parts: Sequence[Mapping[str, Told]],
) -> None:
    told = {name: part for tables in parts for name, part in tables.items()}
    frames = {name: frame for name, (frame, _) in told.items() if frame is not None}
    _replace(
        folder, [*measured, *(one for _, several in told.values() for one in several)], {**rows, **frames}
    )


def _replace(folder: Path, measured: Sequence[Measured], rows: Mapping[str, pl.DataFrame]) -> None:
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    for name, frame in rows.items():
        frame.write_parquet(folder / "rows" / f"{name}.parquet")
    everything = pl.concat(measured).sort("table_name", "day", "group", "measure", nulls_last=True)
    everything.write_parquet(folder / "measures.parquet")
    everything.write_csv(folder / "measures.csv")
