"""Rows that were looked up in another table: which keys a change of that table reaches.

A row of a table that follows keys may look up one of another table under another column than its key (the
user who has an address now). So what changed there reaches the keys that find it as it is, and those whose
rows found it as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duckdb import DuckDBPyConnection

from flows.build.inputs import News, Reader
from flows.stores import scan
from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from transforms.contract import Table
from transforms.engine import quoted


def touch(
    table: Table,
    connection: DuckDBPyConnection,
    lake: Lake,
    reader: Reader,
    news: Mapping[str, News],
    standing: Sequence[LakeFile],
    touched: str,
) -> None:
    """Add the keys of rows that look up what is new to the table `touched`.

    Others may find the same row by then, or another one: who looks up is computed from all there is.
    """
    if not table.looks_up:
        return
    ((upstream, followed),) = table.by_key.items()
    keys = ", ".join(map(quoted, table.key))
    theirs = ", ".join(
        f"{quoted(name)} as {quoted(key)}" for name, key in zip(followed, table.key, strict=True)
    )
    for name, lookup in table.looks_up.items():
        came = news[name].files
        if not came:
            continue
        (member,) = reader.table(name).key
        # Also the rows of these files that do not count: they are the keys of what went.
        changed = f"select {quoted(member)} from {scan.whole(lake.paths(came))}"
        parts = []
        if standing:
            parts.append(
                f"select {keys} from {lake.scan(standing)} where {quoted(lookup.found)} in ({changed})"
            )
        if files := reader.everything(upstream):
            values = f"select {lookup.by} from {lake.scan(came)} where {lookup.by} is not null"
            parts.append(f"select {theirs} from {lake.scan(files)} where {quoted(lookup.of)} in ({values})")
        for part in parts:
            new = f"select distinct {keys} from ({part}) anti join {touched} using ({keys})"
            connection.execute(f"insert into {touched} {new}")
