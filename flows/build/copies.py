"""Copies of one record that came through several upstreams: the lowest tie-break counts, as in the stream.

An upstream has each of its records once; a table that is continued from several of them sees to the copies
across them. Which of them counts is told by what the upstreams hold within the lookback, and never by what
stands: so it depends neither on how arrivals were cut nor on which day was built first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duckdb import DuckDBPyConnection

from flows.build import content, superseded
from flows.build.content import FRESH, KEY
from flows.build.inputs import Inputs, Reader
from flows.build.superseded import Places
from flows.spans import partition_expression
from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from flows.stores.scan import POSITION
from transforms import engine
from transforms.contract import Table, Write, moved
from transforms.engine import quoted
from transforms.registry import Registry


@dataclass(frozen=True)
class Across:
    """By which columns of a table copies are told: `identity`, the upstreams' key, is the same in them;
    `apart` is of the tie-break and says from which upstream a row is.
    """

    identity: tuple[str, ...]
    apart: tuple[str, ...]


def across(table: Table, catalog: Mapping[str, Table]) -> Across | None:
    """How copies across the upstreams of a table are told; None for one that can have none."""
    upstreams = [catalog[name] for name in table.upstreams]
    keys = {upstream.key for upstream in upstreams}
    if table.write is not Write.APPEND or len(upstreams) < 2 or len(keys) != 1:
        return None
    (identity,) = keys
    theirs = {column.name for upstream in upstreams for column in upstream.columns}
    apart = tuple(name for name in table.tie_break if name not in theirs)
    return Across(identity, apart) if apart and {*identity} <= {*table.key} else None


class Copies:
    """What a build's `fresh` and the upstreams within the lookback hold of one record twice."""

    def __init__(
        self, table: Table, by: Across, connection: DuckDBPyConnection, lake: Lake, known: Registry
    ) -> None:
        self._table = table
        self._by = by
        self._connection = connection
        self._lake = lake
        self._registry = known
        self._place = tuple(dict.fromkeys((*by.identity, *table.tie_break)))

    def settle(self, reader: Reader, inputs: Inputs) -> set[str]:
        """Leave in `fresh` only rows that count; returns the windows of records that count less than one that
        came. `inputs` is what `fresh` was made of.

        Where nothing was sent twice that costs one look at the identities within the lookback, read from the
        lake and sorted by nobody.
        """
        sources = self._in_reach(reader, inputs)
        if not any(sources.values()):
            return set()
        there = engine.compute(self._table, self._connection, sources, registry=self._registry).query
        same = _same("there", "fresh", self._by.identity)
        apart = f"{_tuple('there', self._by.apart)} <> {_tuple('fresh', self._by.apart)}"
        self._connection.execute(
            f"create temp table twice as select distinct {_listed('there', self._by.identity)} "
            f"from ({there}) as there semi join {FRESH} as fresh on {same} and {apart}"
        )
        if not self._connection.execute("select 1 from twice limit 1").fetchall():
            self._connection.execute("drop table twice")
            return set()
        assert self._table.partition is not None
        days = superseded.apart("fresh", "there", self._table.partition.by)
        order = [_tuple(side, self._table.tie_break) for side in ("there", "fresh")]
        self._connection.execute(
            f"create temp table copies as select fresh.rowid as newcomer, {order[0]} < {order[1]} as loses, "
            f"{_listed('there', self._place)}, there.{KEY} "
            f"from (select *, {partition_expression(self._table.partition)} as {KEY} from ({there}) as there "
            f"semi join twice on {_same('there', 'twice', self._by.identity)}) as there "
            f"join {FRESH} as fresh on {same} "
            f"where {apart} and {days} <= {self._table.lookback.days}"
        )
        self._connection.execute(
            f"drop table twice; delete from {FRESH} where rowid in (select newcomer from copies where loses)"
        )
        found = self._connection.execute(f"select distinct {KEY} from copies where not loses").fetchall()
        return {str(window) for (window,) in found}

    def beaten(self, files: Sequence[LakeFile]) -> Places:
        """Which rows of these files of the table are records that `settle` found to count less."""
        if not files:
            return {}
        with superseded.numbered(self._table, self._connection, self._lake, files):
            same = _same("standing", "copies", self._place)
            return superseded.places(
                self._connection,
                self._lake,
                files,
                f"select filename, {POSITION} from standing semi join copies on not copies.loses and {same}",
            )

    def _in_reach(self, reader: Reader, inputs: Inputs) -> dict[str, str | None]:
        """What stands after FROM for each upstream that can hold a copy of what came of another one."""
        assert self._table.partition is not None
        lookback = self._table.lookback
        spans = [
            (moved(start, -lookback), moved(end, lookback))
            for start, end in map(self._table.partition.bounds, content.partitions(self._connection))
        ]
        came = {name for name, files in inputs.files.items() if files}
        sources: dict[str, str | None] = {}
        for name in self._table.upstreams:
            windows = reader.overlapping(reader.table(name), spans) if came - {name} else set()
            files = reader.in_force(name, windows)
            sources[name] = self._lake.scan(files) if files else None
        return sources


def _tuple(side: str, names: Sequence[str]) -> str:
    return f"({_listed(side, names)})"


def _listed(side: str, names: Sequence[str]) -> str:
    return ", ".join(f"{side}.{quoted(name)}" for name in names)


def _same(one: str, other: str, names: Sequence[str]) -> str:
    return " and ".join(f"{one}.{quoted(name)} = {other}.{quoted(name)}" for name in names)
