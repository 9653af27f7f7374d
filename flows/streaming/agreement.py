"""One partition that the stream wrote, against the lake's content: which rows, which counts differ."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg import Connection, sql

from flows.services import Services
from flows.stores.difference import content, duckdb_session
from flows.stores.ledger import PartitionState
from flows.stores.standalone import workshop
from flows.stores.warehouse import UNPUBLISHED
from flows.streaming import counts
from flows.streaming.windows import Names
from transforms.contract import Table
from transforms.engine import quoted
from warehouse_ddl.statements import bounds, home


@dataclass(frozen=True)
class Rows:
    """Keys and tie-breaks of rows that only one side holds."""

    surplus: Sequence[tuple[Any, ...]]
    """Only the stream wrote them."""
    missing: Sequence[tuple[Any, ...]]
    """Only the batch computed them."""


def compare_rows(
    services: Services, connection: Connection[Any], table: Table, window: str, state: PartitionState
) -> Rows:
    """A fact's leaf against the lake, row by row, in the caller's snapshot."""
    names = compared(table)
    listed = sql.SQL(", ").join(_in_postgres(table, name) for name in names)
    query = sql.SQL("SELECT {} FROM {}").format(listed, sql.Identifier(home(table), table.leaf(window)))
    with duckdb_session() as session:
        session.register("published", _copied(connection, table, names, query))
        content(session, services.lake, table, state.files).create_view("lake")
        session.execute(f"create temp table computed as select {_listed_in_lake(table, names)} from lake")
        return Rows(
            session.execute("from published except all from computed").fetchall(),
            session.execute("from computed except all from published").fetchall(),
        )


def correct_rows(
    services: Services,
    connection: Connection[Any],
    table: Table,
    window: str,
    state: PartitionState,
    found: Rows,
) -> None:
    """Make the leaf what the lake says, in one transaction; nothing but these rows is touched: what the
    stream wrote since they were found stays.
    """
    leaf = sql.Identifier(home(table), table.leaf(window))
    names = compared(table)
    same = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(_in_postgres(table, name)) for name in names)
    with workshop(services.warehouse, connection, table) as shop, duckdb_session() as session:
        loaded = ""
        if found.missing:
            columns = {name: list(values) for name, *values in zip(names, *found.missing, strict=True)}
            session.register("missing", pa.table(columns))
            content(session, services.lake, table, state.files).create_view("lake")
            ours = ", ".join(_in_lake(table, name) for name in names)
            theirs = ", ".join(map(quoted, names))
            rows = session.sql(f"from lake where ({ours}) in (select ({theirs}) from missing)")
            loaded = shop.load(table.leaf(window), "agreed", rows)
        with connection.transaction():
            with connection.cursor() as cursor:
                cursor.executemany(sql.SQL("DELETE FROM {} WHERE {}").format(leaf, same), found.surplus)
            if loaded:
                listed = sql.SQL(", ").join(sql.Identifier(column.name) for column in shop.columns)
                connection.execute(
                    sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING").format(
                        leaf, listed, listed, sql.Identifier(UNPUBLISHED, loaded)
                    )
                )


def compare_counts(
    services: Services, connection: Connection[Any], table: Table, window: str, state: PartitionState
) -> pa.Table:
    """What has to be added to a windowed table's partition, so that it counts what the lake counts.

    In the caller's snapshot. What was added and is not merged yet counts as published, also what came too
    late for its window.
    """
    names = Names(table)
    columns = names.added_columns
    parts = names.parts()
    low, high = map(sql.Literal, bounds(table, window))
    query = sql.SQL(
        "SELECT {shown} FROM (SELECT {listed} FROM {leaf} UNION ALL (SELECT {listed} FROM {additions} "
        "UNION ALL SELECT {listed} FROM {late}) ) AS added WHERE {start} >= {low} AND {start} < {high}"
    ).format(
        shown=sql.SQL(", ").join(_in_postgres(table, name) for name in columns),
        listed=sql.SQL(", ").join(map(sql.Identifier, columns)),
        leaf=sql.Identifier(home(table), table.leaf(window)),
        low=low,
        high=high,
        **parts,
    )
    adds, kept = quoted(names.windowed.adds), [name for name in columns if name != names.windowed.adds]
    with duckdb_session() as session:
        session.register("published", _copied(connection, table, columns, query))
        content(session, services.lake, table, state.files).create_view("lake")
        shown = ", ".join(_from_lake(table, name) for name in kept)
        return session.sql(
            f"select {shown}, sum({adds})::bigint as {adds} from ("
            f"select {_listed_in_lake(table, columns)} from lake union all by name "
            f"select * replace (-{adds} as {adds}) from published) "
            f"group by {', '.join(map(quoted, kept))} having sum({adds}) <> 0 "
            f"order by {', '.join(map(quoted, kept))}"
        ).to_arrow_table()


def correct_counts(connection: Connection[Any], table: Table, window: str, added: pa.Table) -> None:
    """Hand to the keeper what has to be added, and what came too late for its window: the lake counts it."""
    low, high = map(sql.Literal, bounds(table, window))
    listed = sql.SQL(", ").join(map(sql.Identifier, Names(table).added_columns))
    with connection.transaction():
        connection.execute(
            sql.SQL(
                "WITH late AS (DELETE FROM {late} WHERE {start} >= {low} AND {start} < {high} RETURNING *) "
                "INSERT INTO {additions} ({listed}, is_correction) SELECT {listed}, true FROM late"
            ).format(low=low, high=high, listed=listed, **Names(table).parts())
        )
        counts.enter(connection, table, added, is_correction=True)


def compared(table: Table) -> tuple[str, ...]:
    """The columns of a fact that tell its rows apart."""
    return tuple(dict.fromkeys((*table.key, *table.tie_break)))


def _copied(
    connection: Connection[Any], table: Table, names: Sequence[str], query: sql.Composable
) -> pa.Table:
    """The rows of a query as Arrow: by COPY, whose rows need no object each."""
    text = io.BytesIO()
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)) as copy,
    ):
        for block in copy:
            text.write(block)
    text.seek(0)
    types = {name: pa.string() if _is_text(table, name) else pa.int64() for name in names}
    if not text.getbuffer().nbytes:
        return pa.schema(types.items()).empty_table()
    return pa_csv.read_csv(
        text,
        pa_csv.ReadOptions(column_names=list(names)),
        convert_options=pa_csv.ConvertOptions(column_types=types),
    )


def _is_text(table: Table, name: str) -> bool:
    return table.column(name).type.upper() in {"UUID", "VARCHAR"}


def _is_time(table: Table, name: str) -> bool:
    return table.column(name).type.upper().startswith("TIMESTAMP")


def _in_postgres(table: Table, name: str) -> sql.Composable:
    column = sql.Identifier(name)
    if _is_text(table, name):
        return sql.SQL("{}::text").format(column)
    if _is_time(table, name):
        return sql.SQL("(extract(epoch from {}) * 1000000)::bigint").format(column)
    return sql.SQL("{}::bigint").format(column)


def _in_lake(table: Table, name: str) -> str:
    if _is_text(table, name):
        return f"{quoted(name)}::varchar"
    return f"epoch_us({quoted(name)})::bigint" if _is_time(table, name) else f"{quoted(name)}::bigint"


def _listed_in_lake(table: Table, names: Sequence[str]) -> str:
    return ", ".join(f"{_in_lake(table, name)} as {quoted(name)}" for name in names)


def _from_lake(table: Table, name: str) -> str:
    """The column as its table has it, of what `_in_lake` made of it."""
    value = f"make_timestamptz({quoted(name)})" if _is_time(table, name) else quoted(name)
    return f"{value}::{table.column(name).type} as {quoted(name)}"
