"""From when on a history says something else: what is joined to it as of an earlier time stays."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from duckdb import DuckDBPyConnection

from transforms.contract import VALID_FROM, Table
from transforms.engine import quoted

AS_OF = "as_of"
"""Key under which a commit of a history keeps the time from which on it differs from the one before."""
_FOLLOWS = ("valid_to", "prev_to", "is_current")
"""Columns that follow from the rows beside: another one there is no other answer as of an earlier time."""


def differs_from(connection: DuckDBPyConnection, table: Table, before: str, after: str) -> dict[str, Any]:
    """What the commit of a changed history keeps: {AS_OF: ISO time}.

    `before` and `after` are what stands after FROM for its rows then, but for rows that are in both.
    """
    own = ", ".join(quoted(column.name) for column in table.columns if column.name not in _FOLLOWS)
    old, new = f"select {own} from {before}", f"select {own} from {after}"
    ((first,),) = connection.execute(
        f"select min({VALID_FROM}) from (({old} except all {new}) union all ({new} except all {old}))"
    ).fetchall()
    if not isinstance(first, datetime):
        return {}
    return {AS_OF: first.astimezone(UTC).isoformat(timespec="microseconds")}
