"""What a micro-batch adds to counts by windows: the table's own model, run over exactly its rows."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection, sql

from flows.streaming.windows import Names
from transforms import engine
from transforms.contract import Table
from transforms.engine import quoted


@dataclass(frozen=True)
class Counts:
    """What one micro-batch adds to one windowed table."""

    table: Table
    upstream: Table
    """The staging table of the one topic it counts."""
    fact: Table
    """The published table whose copies it counts once."""
    added: pa.Table
    """Key, end, what is added."""
    windows: Sequence[str]
    """Partitions of the table that this touches."""
    beaten: Collection[Any]
    """Published rows of the topic that lost against one that is counted here, by identity and tie-break, as
    texts: they have to be taken off. A copy of another topic was never counted here."""


def count(
    cursor: DuckDBPyConnection, table: Table, upstream: Table, rows: DuckDBPyRelation | str
) -> pa.Table:
    """What these rows of the upstream table (a relation, or SQL) add."""
    computed = engine.compute(table, cursor, {upstream.name: rows})
    return computed.select(*Names(table).added_columns).to_arrow_table()


def touched(table: Table, added: pa.Table) -> list[str]:
    """The partitions of a windowed table that additions are in."""
    assert table.partition is not None
    starts = pc.unique(added[table.partition.by]).to_pylist()
    return sorted({table.partition.key(start) for start in starts})


def of_topic(staging: Table, rows: str, fact: Table, fresh: str, identity: Sequence[str]) -> str:
    """SQL for those of a topic's staged rows (SQL) that are among the fact's rows that count."""
    there = {column.name for column in staging.columns}
    return _among(rows, fresh, (*identity, *(name for name in fact.tie_break if name in there)))


def beaten(staging: Table, rows: str, fact: Table, fresh: str, gone: str, identity: Sequence[str]) -> str:
    """SQL for the published rows that went for one of a topic's staged rows (SQL), by identity and tie-break,
    as texts. Only what was of the same topic had been counted: the part of the fact's tie-break that the
    topic has not got tells.
    """
    there = {column.name for column in staging.columns}
    apart = [name for name in fact.tie_break if name not in there]
    newcomers = _among(f"from {fresh}", f"({rows})", identity)
    lost = _among(f"from {gone}", f"({newcomers})", (*identity, *apart))
    listed = ", ".join(f"{quoted(name)}::varchar" for name in (*identity, *fact.tie_break))
    return f"select {listed} from ({lost})"


def _among(rows: str, others: str, columns: Sequence[str]) -> str:
    """SQL for those of some rows (SQL) that equal one of others (what follows FROM) in these columns."""
    same = " and ".join(f"given.{quoted(name)} = counting.{quoted(name)}" for name in columns)
    return f"select given.* from ({rows}) as given semi join {others} as counting on {same}"


def taken_off(cursor: DuckDBPyConnection, counts: Counts, gone: Sequence[Mapping[str, Any]]) -> pa.Table:
    """What published rows that no longer count had added, below zero. `gone` are rows of the fact."""
    names = [name for name in _shared(counts) if gone and name in gone[0]]
    columns = {name: [row[name] for row in gone] for name in names}
    added = count(cursor, counts.table, counts.upstream, cursor.from_arrow(pa.table(columns)))
    name = Names(counts.table).windowed.adds
    negative = pa.array([-value for value in added[name].to_pylist()], added.schema.field(name).type)
    return added.set_column(added.schema.get_field_index(name), name, negative)


def returned(counts: Sequence[Counts]) -> list[sql.Composable]:
    """The columns of the fact's deleted rows that `taken_off` is to be given."""
    found: dict[str, sql.Composable] = {}
    for one in counts:
        for name in _shared(one):
            exact = one.fact.column(name).type in {"UUID", "JSON"}
            column = sql.Identifier(name)
            found[name] = sql.SQL("{}::text AS {}").format(column, column) if exact else column
    return list(found.values())


def enter(connection: Connection[Any], table: Table, added: pa.Table, *, is_correction: bool = False) -> None:
    """Append additions, in the caller's transaction. A correction is right whenever it comes; other additions
    can be too late for their window.
    """
    if not added.num_rows:
        return
    names = Names(table)
    content = io.BytesIO()
    rows = _in_session_time(added.select(list(names.added_columns))).append_column(
        "is_correction", pa.repeat(pa.scalar(is_correction), added.num_rows)
    )
    pa_csv.write_csv(rows, content, pa_csv.WriteOptions(include_header=False))
    listed = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(names.additions, listed)
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(content.getbuffer())


def _in_session_time(rows: pa.Table) -> pa.Table:
    """Times without their zone: PostgreSQL's session is in UTC, and Arrow is slow to write zones."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is not None:
            rows = rows.set_column(place, field.name, rows[place].cast(pa.timestamp(field.type.unit)))
    return rows


def _shared(counts: Counts) -> list[str]:
    there = {column.name for column in counts.upstream.columns}
    return [column.name for column in counts.fact.columns if column.name in there]
