"""Rows that stand and have to go: a copy that counts more came late, or what they were made of went upstream.

They stay in their files and no longer count there (see flows.stores.scan).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from duckdb import DuckDBPyConnection

from flows.build.content import FRESH
from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from flows.stores.scan import MAX_GONE, POSITION
from flows.stores.scan import listed as positions
from transforms import engine
from transforms.contract import Table
from transforms.engine import quoted
from transforms.registry import Registry

Places = Mapping[LakeFile, frozenset[int]]
"""Rows by their positions in their files."""


def both(one: Places, other: Places) -> Places:
    """The rows of either."""
    return {file: one.get(file, frozenset()) | other.get(file, frozenset()) for file in {*one, *other}}


def without(
    standing: Mapping[str, Sequence[LakeFile]], gone: Places
) -> tuple[dict[str, list[LakeFile]], set[str]]:
    """The files of every partition that loses rows, as they are then; and the partitions that lose so many
    that they had better be written anew.
    """
    left = {
        window: [file.without(gone.get(file, ())) for file in files]
        for window, files in standing.items()
        if any(file in gone for file in files)
    }
    crowded = {window for window, files in left.items() if any(len(file.gone) > MAX_GONE for file in files)}
    return left, crowded


def drop_known(
    table: Table, connection: DuckDBPyConnection, lake: Lake, standing: Mapping[str, Sequence[LakeFile]]
) -> Places:
    """Leave in `fresh` only rows whose key is new; returns the standing rows that have to go for them.

    Of two rows with one key the one with the lower tie-break stays, wherever it came from, so the outcome
    does not depend on how arrivals were cut into batches. `standing` holds the partitions within the table's
    lookback of any row: for each those count that are within it of its own.
    """
    files = [file for there in standing.values() for file in there]
    if not files:
        return {}
    same = " and ".join(f"fresh.{quoted(n)} = standing.{quoted(n)}" for n in table.key)
    if table.partition is not None:
        same += f" and {apart('fresh', 'standing', table.partition.by)} <= {table.lookback.days}"
    order = [
        f"({', '.join(f'{side}.{quoted(n)}' for n in table.tie_break)})" for side in ("fresh", "standing")
    ]
    wins = f"{order[0]} < {order[1]}" if table.tie_break else "false"
    with numbered(table, connection, lake, files):
        connection.execute(
            f"create temp table met as "
            f"select fresh.rowid as newcomer, standing.filename, standing.{POSITION}, {wins} as wins "
            f"from {FRESH} as fresh join standing on {same}"
        )
    # A row is new only if it beats every standing copy; then each of those goes.
    connection.execute(f"delete from {FRESH} where rowid in (select newcomer from met where not wins)")
    beaten = "select newcomer from met group by newcomer having bool_and(wins)"
    found = places(
        connection, lake, files, f"select filename, {POSITION} from met where newcomer in ({beaten})"
    )
    connection.execute("drop table met")
    return found


def find_withdrawn(
    table: Table,
    connection: DuckDBPyConnection,
    lake: Lake,
    withdrawn: Mapping[str, Places],
    standing: Mapping[str, Sequence[LakeFile]],
    known: Registry,
) -> Places | None:
    """The rows of a continued table that came from rows that no longer count upstream.

    `withdrawn` has the latter, by upstream. What the model makes of them is looked for by key and tie-break:
    a copy of another upstream can stand under the key. None when that is not exactly what stands: then
    nothing but building anew tells.
    """
    if not any(withdrawn.values()):
        return {}
    files = [file for there in standing.values() for file in there]
    sources = {name: lake.scan_at(places) if places else None for name, places in withdrawn.items()}
    rows = engine.compute(table, connection, sources, registry=known).rows
    listed = ", ".join(quoted(name) for name in dict.fromkeys((*table.key, *table.tie_break)))
    rows.project(listed).create("withdrawn")
    expected = int(connection.execute("select count(*) from withdrawn").fetchall()[0][0])
    found: Places = {}
    if expected and files:
        with numbered(table, connection, lake, files):
            found = places(
                connection,
                lake,
                files,
                f"select filename, {POSITION} from standing "
                f"where ({listed}) in (select ({listed}) from withdrawn)",
            )
    connection.execute("drop table withdrawn")
    return found if sum(map(len, found.values())) == expected else None


@contextmanager
def numbered(
    table: Table, connection: DuckDBPyConnection, lake: Lake, files: Sequence[LakeFile]
) -> Iterator[None]:
    """While the block lasts, `standing` is a view of the keys, times and tie-breaks of the rows that count in
    some files of the table, with the file and position of each.
    """
    by = [table.partition.by] if table.partition else []
    keys = ", ".join(quoted(name) for name in dict.fromkeys((*table.key, *by, *table.tie_break)))
    paths = lake.paths(files)
    listed = ", ".join(map(engine.text_literal, paths))
    gone = " ".join(
        f"and not (filename = {engine.text_literal(path)} and {POSITION} in ({positions(file.gone)}))"
        for path, file in zip(paths, files, strict=True)
        if file.gone
    )
    connection.execute(
        f"create temp view standing as select {keys}, filename, {POSITION} from read_parquet([{listed}], "
        f"hive_partitioning = false, union_by_name = true, filename = true, {POSITION} = true) "
        f"where true {gone}"
    )
    yield
    connection.execute("drop view standing")


def apart(one: str, other: str, by: str) -> str:
    """SQL: how many days lie between a row of the one and of the other."""
    return f"abs(date_diff('day', {one}.{quoted(by)}::date, {other}.{quoted(by)}::date))"


def places(
    connection: DuckDBPyConnection, lake: Lake, files: Sequence[LakeFile], query: str
) -> dict[LakeFile, frozenset[int]]:
    """What a select of file names and positions gives, by file."""
    by_path = {str(lake.root / file.path): file for file in files}
    found: dict[LakeFile, set[int]] = {}
    for path, position in connection.execute(query).fetchall():
        found.setdefault(by_path[path], set()).add(int(position))
    return {file: frozenset(positions) for file, positions in found.items()}
