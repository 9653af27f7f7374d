"""The new content of partitions: computed once, split by partition, written as files that nobody sees yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from duckdb import DuckDBPyConnection

from flows.build.inputs import Inputs
from flows.errors import FlowsError
from flows.planner import WHOLE
from flows.spans import partition_expression
from flows.stores.lake import Lake, LakeError, partition_folder
from flows.stores.manifest import LakeFile
from transforms import engine
from transforms.contract import Table
from transforms.engine import quoted
from transforms.model import DEAD_LETTER_REASON
from transforms.registry import Registry

FRESH = "fresh"
"""Temporary table of the rows a model gave, with their partition key."""

KEY = "_partition"

REMOVED = "removed"
"""Temporary table of the keys that went, with their partition key, where a table follows keys. Beside them is
what they were under to those who follow the table by another column."""


class ContentError(FlowsError):
    """A model gave rows that can't stand in its table; nothing of it was loaded."""

    exit_code = 1


@dataclass(frozen=True)
class Unreadable:
    """A record that a staging model could not read: which row of which landing, and why."""

    batch_id: str
    seq: int
    reason: str


def sources(lake: Lake, inputs: Inputs) -> dict[str, str | None]:
    """What stands after FROM for each upstream; None for one without a file."""
    return {name: lake.scan(files) if files else None for name, files in inputs.files.items()}


def compute(
    table: Table, connection: DuckDBPyConnection, sources: Mapping[str, str | None], known: Registry
) -> list[Unreadable]:
    """Run the model that `known` has into the temporary table `fresh`; returns what it could not read.

    Raises ContentError for a row without its partition column, DamagedFile for a file that is not what was
    written.
    """
    key = partition_expression(table.partition) if table.partition else "''"
    placed = f"{key} as {KEY}"
    computed = engine.compute(table, connection, sources, registry=known, beside=placed)
    unreadable = _take_over(table, connection, computed)
    if unreadable is None:
        connection.execute(
            f"create temp table {FRESH} as {computed.rows.project(f'*, {placed}').sql_query()}"
        )
    if table.partition is not None:
        lost = _count(connection, f"select count(*) from {FRESH} where {KEY} is null")
        if lost:
            raise ContentError(
                f"{table.name}: {lost:,} rows have no {table.partition.by}, so they belong to no partition. "
                f"Give the column a value in {table.path}, or leave those rows out there."
            )
    return unreadable or []


def _take_over(
    table: Table, connection: DuckDBPyConnection, computed: engine.Computed
) -> list[Unreadable] | None:
    """Make `fresh` of the table that a model was computed into, its dead letters and what only they need
    taken out: a copy would take as long as a third of reading the records. None where there is no such table.
    """
    if computed.held is None or computed.dead_letters is None:
        return None
    held = quoted(computed.held)
    letters = computed.dead_letters.project(f"_batch_id, _seq, {DEAD_LETTER_REASON}").fetchall()
    there = {column.name for column in table.columns} | {KEY}
    reserved = [name for name in computed.dead_letters.columns if name not in there]
    connection.execute(f"delete from {held} where {DEAD_LETTER_REASON} is not null")
    for name in reserved:
        connection.execute(f"alter table {held} drop column {quoted(name)}")
    connection.execute(f"alter table {held} rename to {FRESH}")
    return [Unreadable(str(batch), int(seq), str(reason)) for batch, seq, reason in letters]


def partitions(connection: DuckDBPyConnection, of: str = FRESH) -> dict[str, int]:
    """Partition key → rows of `fresh`."""
    rows = connection.execute(f"select {KEY}, count(*) from {of} group by all order by all").fetchall()
    return {str(key): int(count) for key, count in rows}


def keep_only(connection: DuckDBPyConnection, wanted: Sequence[str]) -> None:
    """Drop rows of partitions that were not asked for: a file that was read may touch more windows."""
    connection.execute(f"delete from {FRESH} where not list_contains(?, {KEY})", [list(wanted)])


def leave_out(connection: DuckDBPyConnection, windows: Collection[str]) -> None:
    """Drop rows of these partitions."""
    if windows:
        connection.execute(f"delete from {FRESH} where list_contains(?, {KEY})", [list(windows)])


def take_back_standing(
    table: Table, connection: DuckDBPyConnection, lake: Lake, window: str, files: Sequence[LakeFile]
) -> None:
    """Add to `fresh` what counts of the files of a partition: it is written anew."""
    columns = ", ".join(quoted(column.name) for column in table.columns)
    connection.execute(
        f"insert into {FRESH} ({columns}, {KEY}) "
        f"select {columns}, {engine.text_literal(window)} from {lake.scan(files)}"
    )


def write(
    table: Table, connection: DuckDBPyConnection, lake: Lake, window: str, batch_id: str, removed: int = 0
) -> LakeFile:
    """Write one partition of `fresh` as a file, sorted so that equal content gives an equal file.

    Its `removed` keys come last and do not count.
    """
    columns = ", ".join(quoted(column.name) for column in table.columns)
    by = table.partition.by if table.partition else None
    order = ", ".join(quoted(name) for name in ([by] if by else []) + list(table.key))
    there = f"where {KEY} = {engine.text_literal(window)}"
    query = f"select {columns} from {FRESH} {there} order by {order}"
    if removed:
        query = (
            f"select {columns} from (select *, false as _went from {FRESH} {there} union all by name "
            f"select *, true as _went from {REMOVED} {there}) order by _went, {order}"
        )
    folder = partition_folder(table) if window != WHOLE else None
    file = lake.write(table.layer, table.name, folder, window, batch_id, connection.sql(query), measured=by)
    return file.without(range(file.rows - removed, file.rows)) if removed else file


def is_same(
    connection: DuckDBPyConnection,
    lake: Lake,
    standing: Sequence[LakeFile],
    new: LakeFile,
    *,
    is_suspect: bool = False,
) -> bool:
    """Whether a rebuilt partition holds exactly the rows that stand: then nothing depends on it anew.

    `is_suspect`: what stands may be damaged, or can't be read; then it is not the same.
    """
    if is_suspect:
        try:
            lake.scan(standing)
        except LakeError:
            return False
    if sum(file.rows for file in standing) != new.rows:
        return False
    if len(standing) == 1 and standing[0].sha256 == new.sha256 and not standing[0].gone:
        return True
    if not standing:
        return True  # a window that was emptied, and has no row now either
    before, after = (_digest(connection, lake, files) for files in (standing, [new]))
    return before == after


def _digest(connection: DuckDBPyConnection, lake: Lake, files: Sequence[LakeFile]) -> tuple[object, ...]:
    """Names, types and an order-independent sum of the rows' hashes."""
    relation = lake.read(connection, files)
    shape = tuple(zip(relation.columns, map(str, relation.types), strict=True))
    text = ", ".join(f"hash({quoted(name)})" for name in relation.columns)
    row = relation.aggregate(f"sum(hash({text})::hugeint), bit_xor(hash({text}))").fetchall()
    return (shape, row)


def _count(connection: DuckDBPyConnection, query: str) -> int:
    # Fetched to the end: a connection with an unfinished result refuses other work.
    ((count,),) = connection.execute(query).fetchall()
    return int(count)
