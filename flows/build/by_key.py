"""A table that follows the keys of its upstreams: what is new there, the rows of these keys, and what stands
of them.

The file that a build adds holds the rows of the keys that changed and, behind them, the bare keys of those
that went: rows that never count. So whoever follows the table in turn reads that file and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from duckdb import DuckDBPyConnection

from flows.build import content
from flows.build.content import FRESH, KEY, REMOVED, Unreadable
from flows.build.inputs import Inputs, News, Reader
from flows.build.superseded import Places
from flows.planner import keys_between
from flows.stores import scan
from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from transforms import changes
from transforms.contract import Layer, Table
from transforms.engine import quoted

_TOUCHED = "touched"
"""Temporary table of the keys that are new or went upstream, under the names of the table's key."""
_MET = "met"
"""Temporary table of what stands of them: file, position, partition, key."""


@dataclass(frozen=True)
class Followed:
    """What became of the keys that changed: `fresh` holds their rows, `removed` those that went.

    `gone` are the places of what stood of them, `keys` the keys of these rows.
    """

    unreadable: Sequence[Unreadable] = ()
    gone: Places = field(default_factory=dict)
    keys: pa.Table | None = None


def news_of(reader: Reader, lake: Lake, table: Table, consumed: Mapping[str, str]) -> dict[str, News] | None:
    """Upstream → what came behind the token that was consumed of it; None where that can't be told."""
    found: dict[str, News] = {}
    for name in table.by_key:
        since = consumed.get(name)
        news = reader.news(name, str(since)) if since else reader.all_news(name)
        if news is None or not all(Path(lake.root, file.path).exists() for file in news.files):
            return None
        found[name] = news
    return found


def follow(
    table: Table,
    connection: DuckDBPyConnection,
    lake: Lake,
    reader: Reader,
    news: Mapping[str, News],
    standing: Mapping[str, Sequence[LakeFile]],
) -> Followed:
    """Run the model over the rows of the keys that are new or went. `standing`: the files, by partition, in
    which these keys can be.
    """
    _touch(table, connection, lake, news)
    sources = {name: _source(table, connection, lake, reader, name, news) for name in table.upstreams}
    unreadable = content.compute(table, connection, sources)
    gone = _meet(table, connection, lake, standing)
    keys = ", ".join(map(quoted, table.key))
    connection.execute(
        f"create temp table {REMOVED} as select distinct {keys}, {KEY} from {_MET} "
        f"anti join {FRESH} using ({keys})"
    )
    found = connection.sql(f"select distinct {keys} from {_MET}").to_arrow_table() if gone else None
    connection.execute(f"drop table {_MET}; drop table {_TOUCHED}")
    return Followed(unreadable, gone, found)


def _columns(table: Table) -> tuple[str, ...]:
    """The columns of the table's key that its upstreams share with it."""
    return table.key[: len(next(iter(table.by_key.values())))]


def _touch(table: Table, connection: DuckDBPyConnection, lake: Lake, news: Mapping[str, News]) -> None:
    types = {column.name: column.type for column in table.columns}
    names = _columns(table)
    nothing = ", ".join(f"null::{types[name]} as {quoted(name)}" for name in names)
    parts = [f"select {nothing} where false"]
    for upstream, theirs in table.by_key.items():
        if news[upstream].files:
            fields = ", ".join(
                f"{quoted(their)}::{types[name]} as {quoted(name)}"
                for name, their in zip(names, theirs, strict=True)
            )
            given = " and ".join(f"{quoted(their)} is not null" for their in theirs)
            # Also the rows of these files that do not count: they are the keys of what went.
            files = scan.whole(lake.paths(news[upstream].files))
            parts.append(f"select {fields} from {files} where {given}")
    connection.execute(f"create temp table {_TOUCHED} as {' union '.join(parts)}")


def sources(
    table: Table, connection: DuckDBPyConnection, lake: Lake, reader: Reader, inputs: Inputs
) -> dict[str, str | None]:
    """What stands after FROM for each upstream, where everything is read."""
    found = content.sources(lake, inputs)
    for name in table.by_key.keys() & set(table.changed):
        if inputs.files[name] and reader.is_raw(name):
            found[name] = newest(connection, lake, inputs.files[name], table.by_key[name])
    return found


def newest(connection: DuckDBPyConnection, lake: Lake, files: Sequence[LakeFile], key: Sequence[str]) -> str:
    """A query for the last row of each key in raw files: where the news alone are read, the ones before say
    nothing, and to take a change record apart is what it costs.
    """
    source = lake.scan(files)
    is_seen = changes.VISIBLE if changes.is_of_changes(connection.sql(f"from {source}").columns) else "true"
    keys = ", ".join(map(quoted, key))
    return (
        f"select * from {source} where (_landed_at, _seq) in (select (last.at, last.seq) from ("
        f"select max({{'at': _landed_at, 'seq': _seq}}) as last from {source} "
        f"where {is_seen} group by {keys}))"
    )


def _source(
    table: Table,
    connection: DuckDBPyConnection,
    lake: Lake,
    reader: Reader,
    name: str,
    news: Mapping[str, News],
) -> str | None:
    """A query for what the model reads of an upstream: of the touched keys what is new, or all there is."""
    if name not in table.by_key:
        files = reader.everything(name)
        return f"from {lake.scan(files)}" if files else None
    if name in table.changed:
        came = news[name].files
        if not came:
            return None
        if reader.is_raw(name):
            return newest(connection, lake, came, table.by_key[name])
        if len(came) == 1:
            return f"from {lake.scan(came)}"
        return _latest(lake, came, table.by_key[name])
    files = reader.everything(name)
    if not files:
        return None
    theirs = ", ".join(map(quoted, table.by_key[name]))
    names = ", ".join(map(quoted, _columns(table)))
    return f"select * from {lake.scan(files)} where ({theirs}) in (select ({names}) from {_TOUCHED})"


def _latest(lake: Lake, files: Sequence[LakeFile], key: Sequence[str]) -> str:
    """What the newest of several builds says of each key: its row, or nothing where it went."""
    numbered = [
        f"select *, {number} as _build, {scan.POSITION} in (select unnest({scan.positions(file.gone)})) "
        f"as _went from {scan.numbered(path)}"
        for number, (path, file) in enumerate(zip(lake.paths(files), files, strict=True))
    ]
    keys = ", ".join(map(quoted, key))
    return (
        f"select * exclude (_build, _went, {scan.POSITION}) from (select * from "
        f"({' union all by name '.join(numbered)}) "
        f"qualify row_number() over (partition by {keys} order by _build desc) = 1) where not _went"
    )


def _meet(
    table: Table, connection: DuckDBPyConnection, lake: Lake, standing: Mapping[str, Sequence[LakeFile]]
) -> Places:
    """Fill `met` with the rows that count of the touched keys, and return their places."""
    types = {column.name: column.type for column in table.columns}
    files = [file for there in standing.values() for file in there]
    keys = ", ".join(map(quoted, table.key))
    typed = ", ".join(f"{quoted(name)}::{types[name]} as {quoted(name)}" for name in table.key)
    if not files:
        nothing = ", ".join(f"null::{types[name]} as {quoted(name)}" for name in table.key)
        connection.execute(
            f"create temp table {_MET} as select 0 as file, 0 as position, '' as {KEY}, {nothing} where false"
        )
        return {}
    paths = lake.paths(files)
    places = ", ".join(
        f"({scan.quoted(path)}, {number}, {scan.quoted(file.partition)})"
        for number, (path, file) in enumerate(zip(paths, files, strict=True))
    )
    same = ", ".join(map(quoted, _columns(table)))
    connection.execute(
        f"create temp table {_MET} as select file, position, {KEY}, {keys} from ("
        f"select {typed}, filename, {scan.POSITION} as position from "
        f"{scan.numbered(*paths, options='filename = true')}) semi join {_TOUCHED} using ({same}) "
        f"join (values {places}) as places(filename, file, {KEY}) using (filename)"
    )
    found: dict[int, list[int]] = {}
    for number, position in connection.execute(f"select file, position from {_MET}").fetchall():
        found.setdefault(int(number), []).append(int(position))
    gone: dict[LakeFile, frozenset[int]] = {}
    for number, positions in found.items():
        file = files[number]
        counting = frozenset(positions).difference(file.gone)
        if counting:
            gone[file] = counting
        if passed := sorted(set(positions) - counting):
            out = f"delete from {_MET} where file = {number} and position in "
            connection.execute(f"{out} (select unnest({scan.positions(passed)}))")
    return gone


def reached(reader: Reader, table: Table, news: Mapping[str, News]) -> dict[str, list[LakeFile]]:
    """Partition → files of what stands where the keys of the news can be.

    News that do not say their window can be about any.
    """
    windows: set[str] = set()
    for name, came in news.items():
        upstream = reader.table(name)
        is_anywhere = "" in came.windows and (upstream.layer is Layer.RAW or upstream.partition is None)
        if table.partition is None or upstream.partition is None or is_anywhere:
            windows = set(reader.overview(table.name))
            break
        windows |= reader.overlapping(table, [upstream.partition.bounds(key) for key in came.windows if key])
    states = reader.states(table.name, windows)
    return {window: list(state.files) for window, state in states.items() if state.files}


def replaced_windows(reader: Reader, table: Table, news: Mapping[str, News]) -> set[str] | None:
    """The partitions that have to be built from all they read, because that was built anew; None: all."""
    found: set[str] = set()
    for name, came in news.items():
        if not came.replaced:
            continue
        partition = reader.table(name).partition
        if table.partition is None or partition is None:
            return None
        for key in came.replaced:
            found.update(keys_between(table.partition, *partition.bounds(key)))
    return found
