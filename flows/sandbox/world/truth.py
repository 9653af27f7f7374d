"""What a warehouse must say about the world, counted from the generator's own log and from nothing else.

`<sandbox>/truth/measures.parquet` (and .csv, to read) has one row per measure of a group of a table's rows
on a UTC day: table_name, day (null: the table has none), group (null: all rows together), measure, value
decimal(38,2). `<sandbox>/truth/rows/<table>.parquet` has the very rows of the smaller tables, columns named
as in the warehouse, and `rows/dead_letters.parquet` every message that no reader can take, with its
coordinates.

The application is captured since its creation: every advance of the world is a commit of it, whose changes
hold from that moment on, whether or not a run was in between. What appeared and went within one advance was
seen by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from flows.sandbox.world import truth_events, truth_members, truth_money
from flows.sandbox.world.log import Log
from flows.sandbox.world.measures import Measured
from flows.sandbox.world.shape import Shape


def write(
    folder: Path, shape: Shape, log: Log, periods: int, stops: tuple[int, ...], commits: tuple[int, ...]
) -> None:
    """Count everything up to the last stop and replace what the folder says."""
    # Also keeps the users whom events mention, which the members ask for.
    measured = truth_events.measures(shape, log, periods)
    told = truth_money.tables(log, periods, stops[-1])
    told |= truth_members.tables(shape, log, periods, stops, commits)
    rows = {"dead_letters": truth_events.dead_letters(log, periods)}
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
