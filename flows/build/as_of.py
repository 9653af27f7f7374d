"""From when on a history says something else: what is joined to it as of an earlier time stays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from duckdb import DuckDBPyConnection

from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from transforms.contract import VALID_FROM, Table
from transforms.engine import quoted

AS_OF = "as_of"
"""Key under which a commit of a history keeps the time from which on it differs from the one before."""
_FOLLOWS = ("valid_to", "prev_to", "is_current")
"""Columns that follow from the rows beside: another one there is no other answer as of an earlier time."""


def differs_from(
    connection: DuckDBPyConnection,
    lake: Lake,
    table: Table,
    before: Sequence[LakeFile],
    after: Sequence[LakeFile],
) -> dict[str, Any]:
    """What the commit of a changed history keeps: {AS_OF: ISO time}; nothing for other tables, and where all
    of it is new.
    """
    if not table.is_history or not before or not after:
        return {}
    own = ", ".join(quoted(column.name) for column in table.columns if column.name not in _FOLLOWS)
    old, new = (f"select {own} from {lake.scan(files)}" for files in (before, after))
    ((first,),) = connection.execute(
        f"select min({VALID_FROM}) from (({old} except all {new}) union all ({new} except all {old}))"
    ).fetchall()
    if not isinstance(first, datetime):
        return {}
    return {AS_OF: first.astimezone(UTC).isoformat(timespec="microseconds")}
