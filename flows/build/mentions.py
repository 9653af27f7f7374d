"""Members that other tables mention: who was ever named has a row, whatever else is told of it.

A table of such members (`mentioned_by`) stands for all that was mentioned before, so only what came names
anybody new: the model is given these names, and those that stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duckdb import DuckDBPyConnection

from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from transforms import engine
from transforms.contract import Table
from transforms.engine import quoted

_MEMBERS = "members"
"""Temporary table of the names that the model is given."""

Came = Mapping[str, Sequence[LakeFile]]
"""Upstream → files that came."""


def of_touched(
    table: Table,
    connection: DuckDBPyConnection,
    lake: Lake,
    came: Came,
    standing: Sequence[LakeFile],
    touched: str,
) -> dict[str, str | None]:
    """What stands after FROM for the upstreams that mention keys: of the `touched` those that stand, or are
    named for the first time. The latter join the table `touched`; who stands and is named again is no news.
    """
    key = quoted(table.key[0])
    _fill(table, connection, lake, standing, f"semi join {touched} using ({key})")
    named, known = _named(table, connection, lake, came), _known(table, lake, standing)
    new = f"select distinct {key} from ({named}) anti join ({known}) using ({key})"
    connection.execute(f"create temp table newcomers as {new}")
    connection.execute(f"insert into {_MEMBERS} from newcomers")
    connection.execute(f"insert into {touched} select {key} from newcomers anti join {touched} using ({key})")
    connection.execute("drop table newcomers")
    return _sources(table)


def of_all(
    table: Table, connection: DuckDBPyConnection, lake: Lake, came: Came, standing: Sequence[LakeFile]
) -> dict[str, str | None]:
    """The same for all members: those that stand, and those that are named in what came."""
    _fill(table, connection, lake, standing, "")
    connection.execute(
        f"insert into {_MEMBERS} select distinct * from ({_named(table, connection, lake, came)})"
    )
    return _sources(table)


def _fill(
    table: Table, connection: DuckDBPyConnection, lake: Lake, standing: Sequence[LakeFile], among: str
) -> None:
    connection.execute(
        f"create or replace temp table {_MEMBERS} as from ({_known(table, lake, standing)}) {among}"
    )


def _known(table: Table, lake: Lake, standing: Sequence[LakeFile]) -> str:
    name, kind = table.key[0], table.column(table.key[0]).type
    if not standing:
        return f"select null::{kind} as {quoted(name)} where false"
    return f"select {quoted(name)}::{kind} as {quoted(name)} from {lake.scan(standing)}"


def _named(table: Table, connection: DuckDBPyConnection, lake: Lake, came: Came) -> str:
    name, kind = table.key[0], table.column(table.key[0]).type
    parts = [f"select null::{kind} as {quoted(name)} where false"]
    for upstream, column in table.mentioned_by.items():
        if files := came.get(upstream):
            rows = engine.typed(upstream, connection, lake.scan(files))
            given = quoted(column)
            parts.append(f"select {given}::{kind} as {quoted(name)} from ({rows}) where {given} is not null")
    return " union all ".join(parts)


def _sources(table: Table) -> dict[str, str | None]:
    key = quoted(table.key[0])
    return {
        upstream: f"(select {key} as {quoted(column)} from {_MEMBERS})"
        for upstream, column in table.mentioned_by.items()
    }
