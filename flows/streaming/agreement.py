"""One partition that the stream wrote, against the lake's content: which rows, which counts differ, and from
which topic they are.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import pyarrow as pa
import pyarrow.csv as pa_csv
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection, sql

from flows.failpoints import failpoint
from flows.services import Services
from flows.stores import apply, binary_copy
from flows.stores.difference import content
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.warehouse import PostgresColumn
from flows.streaming import counts
from flows.streaming.route import Route
from flows.streaming.windows import Names
from transforms import engine
from transforms.contract import Table
from transforms.engine import quoted
from warehouse_ddl.statements import bounds, home

Place = tuple[Any, ...]
"""A row's key and tie-break."""


@dataclass(frozen=True)
class Changed:
    """A row that is published with other values than the batch computed."""

    published: Place
    computed: Place
    columns: Sequence[str]
    """Those in which the two differ."""


@dataclass(frozen=True)
class Rows:
    """How what is published of a fact's window differs from what the batch computed."""

    surplus: Sequence[Place]
    """Published, and not computed."""
    missing: Sequence[Place]
    """Computed, and not published."""
    changed: Sequence[Changed]

    @property
    def count(self) -> int:
        """All of them."""
        return len(self.surplus) + len(self.missing) + len(self.changed)


def compare_rows(
    services: Services, connection: Connection[Any], table: Table, window: str, state: PartitionState
) -> Rows:
    """A fact's leaf against the lake, every column of every row, in the caller's transaction and snapshot.

    PostgreSQL compares: it knows when two documents are equal. Some seconds for 500,000 events.
    """
    place = compared(table)
    leaf = sql.Identifier(home(table), table.leaf(window))
    columns = services.warehouse.columns(connection, home(table), table.name)
    with services.lake.duckdb() as session:
        _load(services, connection, leaf, columns, content(session, services.lake, table, state.files))
    others = [column.name for column in columns if column.name not in table.key]
    found = connection.execute(
        sql.SQL(
            "SELECT p.tableoid IS NOT NULL, c.tableoid IS NOT NULL, {p_place}, {c_place}, "
            "array_remove(ARRAY[{differing}]::text[], NULL) FROM {leaf} p FULL JOIN computed c ON {same} "
            "WHERE p.tableoid IS NULL OR c.tableoid IS NULL OR ROW({ours}) IS DISTINCT FROM ROW({theirs})"
        ).format(
            p_place=_each("p.{n}", place),
            c_place=_each("c.{n}", place),
            differing=_each("CASE WHEN p.{n} IS DISTINCT FROM c.{n} THEN {t} END", others),
            leaf=leaf,
            same=_each("p.{n} = c.{n}", table.key, " AND "),
            ours=_each("p.{n}", others),
            theirs=_each("c.{n}", others),
        )
    ).fetchall()
    connection.execute("DROP TABLE computed")
    rows = [(*row[:2], row[2 : 2 + len(place)], row[2 + len(place) : -1], row[-1]) for row in found]
    return Rows(
        surplus=[ours for is_published, is_computed, ours, _, _ in rows if not is_computed],
        missing=[theirs for is_published, is_computed, _, theirs, _ in rows if not is_published],
        changed=[Changed(*rest) for is_published, is_computed, *rest in rows if is_published and is_computed],
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
    columns = services.warehouse.columns(connection, home(table), table.name)
    beside = [name for name in compared(table) if name not in table.key]
    lacking = [row[: len(table.key)] for row in (*found.missing, *(one.computed for one in found.changed))]
    with connection.transaction():
        with connection.cursor() as cursor:
            # A row with other values is taken out, and put back as it was computed.
            cursor.executemany(
                sql.SQL("DELETE FROM {} WHERE {}").format(
                    leaf,
                    sql.SQL(" AND ").join(
                        [
                            _each("{n} = %s", table.key, " AND "),
                            *(_each("{n} IS NOT DISTINCT FROM %s", [name]) for name in beside),
                        ]
                    ),
                ),
                [*found.surplus, *(one.published for one in found.changed)],
            )
        if lacking:
            with services.lake.duckdb() as session:
                computed = content(session, services.lake, table, state.files)
                rows = _among(session, computed, table, table.key, lacking)
                _load(services, connection, leaf, columns, rows)
            connection.execute(
                sql.SQL(
                    "INSERT INTO {leaf} ({all}) SELECT {all} FROM computed ON CONFLICT DO NOTHING"
                ).format(leaf=leaf, all=_each("{n}", [column.name for column in columns]))
            )
        apply.note_written(connection, table, [window], f"corrected-{secrets.token_hex(8)}")
        failpoint("agreement.written")


def topics(
    services: Services, connection: Connection[Any], way: Route, table: Table, window: str, found: Rows
) -> dict[Place, str]:
    """Row that was found → the topic whose staged records hold it; what no topic holds is not there."""
    names = (*way.identity, *table.tie_break)
    columns = compared(table)
    rows = [*found.surplus, *found.missing, *(one.computed for one in found.changed)]
    wanted = {tuple(row[columns.index(name)] for name in names): row for row in rows}
    by_topic: dict[Place, str] = {}
    for raw, staged in way.staging.items() if wanted else ():
        state = Ledger(connection).states([staged.name], [window]).get((staged.name, window))
        if state is None:
            continue
        with services.lake.duckdb() as session:
            records = content(session, services.lake, staged, state.files)
            alone = {name: records if name == staged.name else None for name in table.upstreams}
            made = engine.compute(table, session, alone).rows
            there = _among(session, made, table, names, list(wanted))
            for record in there.project(", ".join(map(quoted, names))).fetchall():
                by_topic[wanted[record]] = way.topic(raw)
    return by_topic


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
    with services.lake.duckdb() as session:
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
    """Hand to the keeper what has to be added, and what came too late for its window: the lake counts it.
    What waits for the keeper can't be too late any more either: it was compared as if it were counted.
    """
    low, high = map(sql.Literal, bounds(table, window))
    listed = sql.SQL(", ").join(map(sql.Identifier, Names(table).added_columns))
    with connection.transaction():
        connection.execute(
            sql.SQL(
                "WITH late AS (DELETE FROM {late} WHERE {start} >= {low} AND {start} < {high} RETURNING *) "
                "INSERT INTO {additions} ({listed}, is_correction) SELECT {listed}, true FROM late"
            ).format(low=low, high=high, listed=listed, **Names(table).parts())
        )
        connection.execute(
            sql.SQL(
                "UPDATE {additions} SET is_correction = true "
                "WHERE {start} >= {low} AND {start} < {high} AND NOT is_correction"
            ).format(low=low, high=high, **Names(table).parts())
        )
        counts.enter(connection, table, added, is_correction=True)


def _among(
    session: DuckDBPyConnection,
    rows: DuckDBPyRelation,
    table: Table,
    names: Sequence[str],
    wanted: Sequence[Place],
) -> DuckDBPyRelation:
    """The rows of a relation of `table` that have these values in the columns `names`."""
    columns = zip(names, zip(*wanted, strict=True), strict=True)
    given = {
        name: [str(value) if isinstance(value, UUID) else value for value in values]
        for name, values in columns
    }
    session.register("wanted", pa.table(given))
    rows.create_view("among")
    same = " and ".join(
        f"among.{quoted(name)} = wanted.{quoted(name)}::{table.column(name).type}" for name in names
    )
    return session.sql(f"select among.* from among semi join wanted on {same}")


def _load(
    services: Services,
    connection: Connection[Any],
    leaf: sql.Identifier,
    columns: Sequence[PostgresColumn],
    rows: DuckDBPyRelation,
) -> None:
    """Make the temporary table `computed` of these rows; the caller's own snapshot sees it."""
    connection.execute(sql.SQL("CREATE TEMP TABLE computed (LIKE {}) ON COMMIT DROP").format(leaf))
    exact = services.warehouse.exact(list(columns), rows).to_arrow_reader(binary_copy.BATCH_ROWS)
    binary_copy.copy(connection, sql.Identifier("computed"), columns, exact)
    connection.execute("ANALYZE computed")


def _each(form: LiteralString, names: Sequence[str], between: LiteralString = ", ") -> sql.Composable:
    """`form` for each column: {n} is the column, {t} its name as a text."""
    items = (sql.SQL(form).format(n=sql.Identifier(name), t=sql.Literal(name)) for name in names)
    return sql.SQL(between).join(items)


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
