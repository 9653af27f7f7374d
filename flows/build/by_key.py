"""A table that follows the keys of its upstreams: what is new there, the rows of these keys, and what stands
of them.

The file that a build adds holds the rows of the keys that changed and, behind them, the bare keys of those
that went: rows that never count. So whoever follows the table in turn reads that file and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from flows.build import content, lookups, mentions
from flows.build.as_of import differs_from
from flows.build.content import FRESH, KEY, REMOVED, Unreadable
from flows.build.inputs import Inputs, News, Reader
from flows.build.superseded import Places
from flows.spans import keys_between
from flows.stores import scan
from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from transforms import changes, registry
from transforms.contract import Table
from transforms.engine import quoted
from transforms.registry import Registry

_TOUCHED = "touched"
"""Temporary table of the keys that are new or went upstream, under the names of the table's key."""
_MET = "met"
"""Temporary table of what stands of them: file, position, partition, key."""


@dataclass(frozen=True)
class Followed:
    """What became of the keys that changed: `fresh` holds their rows, `removed` those that went.

    `gone` are the places of what stood of them, `keys` the keys of these rows. `noted`: what else the commit
    says.
    """

    unreadable: Sequence[Unreadable] = ()
    gone: Places = field(default_factory=dict)
    keys: pa.Table | None = None
    noted: Mapping[str, Any] = field(default_factory=dict)


def news_of(reader: Reader, lake: Lake, table: Table, consumed: Mapping[str, str]) -> dict[str, News] | None:
    """Upstream → what came behind the token that was consumed of it; None where that can't be told."""
    found: dict[str, News] = {}
    for name in table.followed:
        since = consumed.get(name)
        news = reader.news(name, str(since)) if since else reader.all_news(name)
        if news is not None and news.replaced and name in table.mentioned_by and not reader.is_raw(name):
            # Who was mentioned stays so: what is there now tells of the others.
            news = News((*news.files, *reader.in_force(name, news.replaced)), news.windows)
        if news is None or not all(Path(lake.root, file.path).exists() for file in news.files):
            return None
        found[name] = news
    return found


def follow(
    table: Table,
    connection: DuckDBPyConnection,
    lake: Lake,
    reader: Reader,
    known: Registry,
    news: Mapping[str, News],
    standing: Mapping[str, Sequence[LakeFile]],
) -> Followed:
    """Run the model over the rows of the keys that are new or went. `standing`: the files, by partition, in
    which these keys can be.
    """
    files = [file for there in standing.values() for file in there]
    _touch(table, connection, lake, reader, news)
    lookups.touch(table, connection, lake, reader, news, files, _TOUCHED)
    mentioned: dict[str, str | None] = {}
    if table.mentioned_by:
        came = {name: news[name].files for name in table.mentioned_by}
        mentioned = mentions.of_touched(table, connection, lake, came, files, _TOUCHED)
    is_compared = not set(table.changed).issuperset(table.by_key)
    under = _under(table)
    _meet(table, connection, lake, files, [c.name for c in table.columns] if is_compared else under)
    sources = {
        name: mentioned[name] if name in mentioned else _source(table, connection, lake, reader, name, news)
        for name in table.upstreams
    }
    unreadable = content.compute(table, connection, sources, known)
    if is_compared:
        _leave_unchanged(table, connection)
    noted = differs_from(connection, table, _MET, FRESH) if table.is_history else {}
    gone = _places(connection, files)
    same = ", ".join(map(quoted, under))
    connection.execute(
        f"create temp table {REMOVED} as select distinct {same}, {KEY} from {_MET} "
        f"anti join {FRESH} using ({same})"
    )
    keys = ", ".join(map(quoted, table.key))
    found = connection.sql(f"select distinct {keys} from {_MET}").to_arrow_table() if gone else None
    connection.execute(f"drop table {_MET}; drop table {_TOUCHED}")
    return Followed(unreadable, gone, found, noted)


def is_told(table: Table, consumed: Mapping[str, Any], based_on: Mapping[str, Any]) -> bool:
    """Whether all that is new upstream says which keys it is about."""
    return all(name in table.followed or consumed.get(name) == token for name, token in based_on.items())


def _under(table: Table) -> list[str]:
    """The columns by which a row is found by those who follow the table: its key, and what others call it."""
    others = {
        column
        for follower in registry.tables().values()
        for column in follower.by_key.get(table.name, ())
        if column not in table.key
    }
    return [*table.key, *sorted(others)]


def _columns(table: Table) -> tuple[str, ...]:
    """The columns of the table's key that its upstreams share with it."""
    return table.key[: len(next(iter(table.by_key.values())))]


def _touch(
    table: Table, connection: DuckDBPyConnection, lake: Lake, reader: Reader, news: Mapping[str, News]
) -> None:
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
            if reader.is_raw(upstream) and changes.is_of_changes(connection.sql(f"from {files}").columns):
                given = f"{given} and {changes.VISIBLE}"
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
    files = reader.for_windows(table, name, _windows(reader, table, news))
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
        f"qualify row_number() over (partition by {keys} order by _build desc, _went) = 1) where not _went"
    )


def _meet(
    table: Table,
    connection: DuckDBPyConnection,
    lake: Lake,
    files: Sequence[LakeFile],
    columns: Sequence[str],
) -> None:
    """Fill `met` with the rows that count of the touched keys: these columns of them, and their places."""
    types = {column.name: column.type for column in table.columns}
    listed = ", ".join(map(quoted, columns))
    typed = ", ".join(f"{quoted(name)}::{types[name]} as {quoted(name)}" for name in columns)
    nothing = ", ".join(f"null::{types[name]} as {quoted(name)}" for name in columns)
    if not files:
        connection.execute(
            f"create temp table {_MET} as select 0 as file, 0 as position, '' as {KEY}, {nothing} where false"
        )
        return
    paths = lake.paths(files)
    rows = scan.numbered(*paths, options="filename = true")
    if table.passes:
        # Files from before lack what the source has got since.
        rows = f"(from {rows} union all by name select {nothing} where false)"
    places = ", ".join(
        f"({scan.quoted(path)}, {number}, {scan.quoted(file.partition)})"
        for number, (path, file) in enumerate(zip(paths, files, strict=True))
    )
    same = ", ".join(map(quoted, _columns(table)))
    connection.execute(
        f"create temp table {_MET} as select file, position, {KEY}, {listed} from ("
        f"select {typed}, filename, {scan.POSITION} as position from {rows}) "
        f"semi join {_TOUCHED} using ({same}) "
        f"join (values {places}) as places(filename, file, {KEY}) using (filename)"
    )
    for number, positions in _positions(connection).items():
        if passed := positions.intersection(files[number].gone):
            out = f"delete from {_MET} where file = {number} and position in "
            connection.execute(f"{out} (select unnest({scan.positions(passed)}))")


def _leave_unchanged(table: Table, connection: DuckDBPyConnection) -> None:
    """Leave in `met` and `fresh` what differs. What a row is made of changes more often than the row, where
    more than its newest state is read.
    """
    keys = ", ".join(map(quoted, table.key))
    rest = [quoted(column.name) for column in table.columns if column.name not in table.key]
    same = " and ".join(f"f.{name} is not distinct from m.{name}" for name in rest) or "true"
    connection.execute(
        f"create temp table unchanged as select m.file, m.position, f.rowid as row "
        f"from {_MET} as m join {FRESH} as f using ({keys}) where {same}"
    )
    connection.execute(f"delete from {FRESH} where rowid in (select row from unchanged)")
    connection.execute(
        f"delete from {_MET} where (file, position) in (select (file, position) from unchanged)"
    )
    connection.execute("drop table unchanged")


def _positions(connection: DuckDBPyConnection) -> dict[int, set[int]]:
    """Number of a file → the positions in it of what is in `met`."""
    found: dict[int, set[int]] = {}
    for number, position in connection.execute(f"select file, position from {_MET}").fetchall():
        found.setdefault(int(number), set()).add(int(position))
    return found


def _places(connection: DuckDBPyConnection, files: Sequence[LakeFile]) -> Places:
    return {files[number]: frozenset(positions) for number, positions in _positions(connection).items()}


def reached(reader: Reader, table: Table, news: Mapping[str, News]) -> dict[str, list[LakeFile]]:
    """Partition → files of what stands where the keys of the news can be."""
    windows = _windows(reader, table, news)
    there = reader.overview(table.name).keys()
    states = reader.states(table.name, there if windows is None else windows & there)
    return {window: list(state.files) for window, state in states.items() if state.files}


def _windows(reader: Reader, table: Table, news: Mapping[str, News]) -> set[str] | None:
    """The partitions that the keys of the news can be in; None for any, as of news that do not say their
    window.
    """
    found: set[str] = set()
    for name, came in news.items():
        partition = reader.table(name).partition
        if table.partition is None or partition is None:
            return None
        windows = set(filter(partition.is_window, came.windows))
        if reader.is_raw(name) and len(windows) < len(came.windows):
            return None
        for key in windows:
            found.update(keys_between(table.partition, *partition.span(key)))
    return found


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
            if not partition.is_window(key):
                return None
            found.update(keys_between(table.partition, *partition.span(key)))
    return found
