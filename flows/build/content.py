"""The new content of partitions: computed once, split by partition, written as files that nobody sees yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duckdb import DuckDBPyConnection

from flows.build.inputs import Inputs, partition_expression
from flows.errors import FlowsError
from flows.planner import WHOLE
from flows.stores.lake import DamagedFile, Lake, partition_folder
from flows.stores.manifest import LakeFile
from transforms import engine
from transforms.contract import Table
from transforms.engine import DEAD_LETTER_REASON, quoted

FRESH = "fresh"
"""Temporary table of the rows a model gave, with their partition key."""

KEY = "_partition"


class ContentError(FlowsError):
    """A model gave rows that can't stand in its table; nothing of it was loaded."""

    exit_code = 1


@dataclass(frozen=True)
class Unreadable:
    """A record that a staging model could not read: which row of which landing, and why."""

    batch_id: str
    seq: int
    reason: str


def compute(table: Table, connection: DuckDBPyConnection, lake: Lake, inputs: Inputs) -> list[Unreadable]:
    """Run the model into the temporary table `fresh`; returns what it could not read.

    Raises ContentError for a row without its partition column, DamagedFile for a file that is not what was
    written.
    """
    sources = {name: lake.paths(files) or None for name, files in inputs.files.items()}
    computed = engine.compute(table, connection, sources)
    key = partition_expression(table.partition) if table.partition else "''"
    computed.rows.project(f"*, {key} as {KEY}").create(FRESH)
    if table.partition is not None:
        lost = _count(connection, f"select count(*) from {FRESH} where {KEY} is null")
        if lost:
            raise ContentError(
                f"{table.name}: {lost:,} rows have no {table.partition.by}, so they belong to no partition. "
                f"Give the column a value in {table.path}, or leave those rows out there."
            )
    if computed.dead_letters is None:
        return []
    rows = computed.dead_letters.project(f"_batch_id, _seq, {DEAD_LETTER_REASON}").fetchall()
    return [Unreadable(str(batch), int(seq), str(reason)) for batch, seq, reason in rows]


def partitions(connection: DuckDBPyConnection) -> dict[str, int]:
    """Partition key → rows of `fresh`."""
    rows = connection.execute(f"select {KEY}, count(*) from {FRESH} group by all order by all").fetchall()
    return {str(key): int(count) for key, count in rows}


def keep_only(connection: DuckDBPyConnection, wanted: Sequence[str]) -> None:
    """Drop rows of partitions that were not asked for: a file that was read may touch more windows."""
    connection.execute(f"delete from {FRESH} where not list_contains(?, {KEY})", [list(wanted)])


def keep_rows_not_given_again(
    table: Table, connection: DuckDBPyConnection, lake: Lake, standing: Sequence[LakeFile]
) -> None:
    """Add the rows that stand and whose key the model did not give this time (it read only news)."""
    if not standing:
        return
    columns = ", ".join(quoted(column.name) for column in table.columns)
    same = " and ".join(f"{FRESH}.{quoted(name)} = standing.{quoted(name)}" for name in table.key)
    lake.read(connection, standing).create_view("standing")
    connection.execute(
        f"insert into {FRESH} ({columns}, {KEY}) select {columns}, '' from standing "
        f"where not exists (select 1 from {FRESH} where {same})"
    )
    connection.execute("drop view standing")


def drop_known(
    table: Table, connection: DuckDBPyConnection, lake: Lake, standing: Mapping[str, Sequence[LakeFile]]
) -> set[str]:
    """Leave in `fresh` only rows whose key is new; returns the partitions in which a standing row has to go.

    Of two rows with one key the one with the lower tie-break stays, wherever it came from, so the outcome
    does not depend on how arrivals were cut into batches. `standing` holds the partitions within the table's
    lookback.
    """
    if not any(standing.values()):
        return set()
    names = (*table.key, *table.tie_break)
    key = ", ".join(quoted(name) for name in names)
    parts = [
        f"select {key}, {engine.text_literal(window)} as {KEY} from read_parquet([{_listed(lake, files)}], "
        "hive_partitioning = false, union_by_name = true)"
        for window, files in standing.items()
        if files
    ]
    same = " and ".join(f"fresh.{quoted(n)} = standing.{quoted(n)}" for n in table.key)
    order = [
        f"({', '.join(f'{side}.{quoted(n)}' for n in table.tie_break)})" for side in ("fresh", "standing")
    ]
    wins = f"{order[0]} < {order[1]}" if table.tie_break else "false"
    connection.execute(
        f"create temp table met as "
        f"select fresh.rowid as newcomer, standing.{KEY} as stood_in, {wins} as wins, "
        f"{', '.join(f'standing.{quoted(n)} as {quoted(n)}' for n in table.key)} "
        f"from {FRESH} as fresh join ({' union all '.join(parts)}) as standing on {same}"
    )
    # A row is new only if it beats every standing copy; then each of those goes.
    connection.execute(f"delete from {FRESH} where rowid in (select newcomer from met where not wins)")
    beaten = "select newcomer from met group by newcomer having bool_and(wins)"
    connection.execute(f"create temp table superseded as select * from met where newcomer in ({beaten})")
    rows = connection.execute("select distinct stood_in from superseded").fetchall()
    return {str(window) for (window,) in rows}


def take_back_standing(
    table: Table, connection: DuckDBPyConnection, lake: Lake, window: str, files: Sequence[LakeFile]
) -> None:
    """Add to `fresh` what stands in a partition, without the rows that were superseded: it is written
    anew.
    """
    columns = ", ".join(quoted(column.name) for column in table.columns)
    same = " and ".join(f"standing.{quoted(n)} = superseded.{quoted(n)}" for n in table.key)
    lake.read(connection, files).create_view("standing")
    connection.execute(
        f"insert into {FRESH} ({columns}, {KEY}) "
        f"select {columns}, {engine.text_literal(window)} from standing "
        f"where not exists (select 1 from superseded where {same})"
    )
    connection.execute("drop view standing")


def write(table: Table, connection: DuckDBPyConnection, lake: Lake, window: str, batch_id: str) -> LakeFile:
    """Write one partition of `fresh` as a file, sorted so that equal content gives an equal file."""
    columns = ", ".join(quoted(column.name) for column in table.columns)
    by = table.partition.by if table.partition else None
    order = ", ".join(quoted(name) for name in ([by] if by else []) + list(table.key))
    relation = connection.sql(
        f"select {columns} from {FRESH} where {KEY} = {engine.text_literal(window)} order by {order}"
    )
    folder = partition_folder(table) if window != WHOLE else None
    return lake.write(table.layer, table.name, folder, window, batch_id, relation, measured=by)


def is_same(
    connection: DuckDBPyConnection,
    lake: Lake,
    standing: Sequence[LakeFile],
    new: LakeFile,
    *,
    is_suspect: bool = False,
) -> bool:
    """Whether a rebuilt partition holds exactly the rows that stand: then nothing depends on it anew.

    `is_suspect`: what stands may be damaged; then it is not the same.
    """
    if is_suspect:
        try:
            lake.paths(standing)
        except DamagedFile:
            return False
    if sum(file.rows for file in standing) != new.rows:
        return False
    if len(standing) == 1 and standing[0].sha256 == new.sha256:
        return True
    if not standing:
        return False
    before, after = (_digest(connection, lake, files) for files in (standing, [new]))
    return before == after


def _digest(connection: DuckDBPyConnection, lake: Lake, files: Sequence[LakeFile]) -> tuple[object, ...]:
    """Names, types and an order-independent sum of the rows' hashes."""
    relation = lake.read(connection, files)
    shape = tuple(zip(relation.columns, map(str, relation.types), strict=True))
    text = ", ".join(f"hash({quoted(name)})" for name in relation.columns)
    row = relation.aggregate(f"sum(hash({text})::hugeint), bit_xor(hash({text}))").fetchall()
    return (shape, row)


def _listed(lake: Lake, files: Sequence[LakeFile]) -> str:
    return ", ".join(engine.text_literal(path) for path in lake.paths(files))


def _count(connection: DuckDBPyConnection, query: str) -> int:
    # Fetched to the end: a connection with an unfinished result refuses other work.
    ((count,),) = connection.execute(query).fetchall()
    return int(count)
