"""Whether the stream and the batch agree: what the stream wrote, against what the batch computed from raw.

A partition that the stream writes into is hot. Once the batch has computed it from everything that was landed
for it, both must hold the same rows. What differs is a finding, is corrected, and the partition belongs to
the batch from then on: it is hot no more, until the stream reaches it again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.csv as pa_csv
from psycopg import Connection, IsolationLevel, sql

from flows.build.states import planner_states
from flows.failpoints import failpoint
from flows.planner import States, plan
from flows.services import Services
from flows.stores import apply
from flows.stores.difference import content, duckdb_session
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.standalone import workshop
from flows.stores.warehouse import PUBLISHED, UNPUBLISHED
from flows.streaming.route import Route, route
from quality import CheckResult
from transforms import catalog, registry
from transforms.contract import RuleKind, SourceEntity, Table
from transforms.engine import quoted

RULE = "stream_agrees"
_SHOWN_KEYS = 20


@dataclass(frozen=True)
class _Snapshot:
    """One table's hot partitions at one moment: those that can be judged, and the ledger's end."""

    states: Mapping[str, PartitionState]
    sequence: int


def reconcile(services: Services, entities: Sequence[SourceEntity]) -> list[CheckResult]:
    """Compare every hot partition that waits for nothing; one result for each. None where nothing is hot.

    1. In one snapshot: which partitions are hot, and of which nothing is journaled or landed that the batch
       has not built yet.
    2. Keys and tie-breaks of the published leaf and of the lake's content are compared both ways.
    3. What is too much is deleted, what is missing inserted, in one transaction.
    4. In one transaction, if nothing was taken in or landed meanwhile: the partition is hot no more.

    A crash after any of them is made good by the next time.
    """
    with services.warehouse.connect() as connection:
        if connection.execute("SELECT 1 FROM ops.hot_partition LIMIT 1").fetchone() is None:
            return []
    results = []
    way = route(entities)
    for table in way.facts:
        with services.warehouse.connect() as connection:
            ledger = Ledger(connection)
            with ledger.locked("publish", table.name):
                snapshot = _settled(services, connection, way, table)
                for window, state in snapshot.states.items():
                    results.append(_reconcile(services, connection, table, window, state))
                    _seal(connection, way, table, window, snapshot)
    return results


def _settled(services: Services, connection: Connection[Any], way: Route, table: Table) -> _Snapshot:
    """Step 1."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            ledger = Ledger(connection)
            staging = [way.staging[name] for name in way.entities]
            hot = apply.hot_partitions(connection, table.name)
            raw = [*way.entities]
            waiting = _journaled(connection, raw)
            known = planner_states(ledger, [table.name, *(one.name for one in staging), *raw])
            if any(_due(services, one, known) for one in staging):
                return _Snapshot({}, 0)  # what was landed is not staged yet: the batch comes first
            waiting |= set(_due(services, table, known))
            judged = sorted(hot - waiting)
            states = ledger.states([table.name], judged)
            # One that the batch has no row for has no state: what stands there is then too much.
            found = {
                window: states.get((table.name, window), PartitionState(table.name, window))
                for window in judged
            }
            return _Snapshot(found, _end(connection, raw))
    finally:
        connection.isolation_level = None


def _due(services: Services, table: Table, known: States) -> list[str]:
    work = plan(table, registry.tables(), known, catalog.fingerprint(table), services.settings.now())
    return work.partitions


def _reconcile(
    services: Services, connection: Connection[Any], table: Table, window: str, state: PartitionState
) -> CheckResult:
    """Steps 2 and 3 for one partition."""
    with duckdb_session() as session:
        session.register("published", _published(connection, table, window))
        content(session, services.lake, table, state.files).create_view("lake")
        listed = ", ".join(f"{_in_lake(table, name)} as {quoted(name)}" for name in _compared(table))
        session.execute(f"create temp table computed as select {listed} from lake")
        surplus = session.execute("from published except all from computed").fetchall()
        missing = session.execute("from computed except all from published").fetchall()
        if surplus or missing:
            _correct(services, connection, table, window, state, surplus)
    failpoint("reconcile.corrected")
    ours, theirs = (len(rows) for rows in (surplus, missing))
    return CheckResult(
        table=table.name,
        partition=window,
        rule=RULE,
        kind=RuleKind.ACCURACY,
        severity="critical",
        engine="duckdb",
        passed=not (ours or theirs),
        failing_rows=ours + theirs,
        observed={
            "only_in_the_stream": ours,
            "only_in_the_batch": theirs,
            "places": [list(row[-len(table.tie_break) :]) for row in (*surplus, *missing)[:_SHOWN_KEYS]],
        },
        message=(
            f"{table.name} {window}: the stream had {ours:,} rows that the batch did not compute, and lacked "
            f"{theirs:,} that it did. They were corrected; their places are in ops.check_result."
            if ours or theirs
            else ""
        ),
    )


def _correct(
    services: Services,
    connection: Connection[Any],
    table: Table,
    window: str,
    state: PartitionState,
    surplus: Sequence[tuple[Any, ...]],
) -> None:
    """Step 3: make the leaf what the lake says, row by row where they differ."""
    leaf = sql.Identifier(PUBLISHED, table.leaf(window))
    names = _compared(table)
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = %s").format(sql.SQL(_in_postgres(table, name))) for name in names
    )
    with workshop(services.warehouse, connection, table) as shop, duckdb_session() as session:
        rows = content(session, services.lake, table, state.files)
        loaded = shop.load(table.leaf(window), "agreed", rows)
        with connection.transaction():
            with connection.cursor() as cursor:
                cursor.executemany(sql.SQL("DELETE FROM {} WHERE {}").format(leaf, same), surplus)
            columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in shop.columns)
            connection.execute(
                sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING").format(
                    leaf, columns, columns, sql.Identifier(UNPUBLISHED, loaded)
                )
            )


def _seal(connection: Connection[Any], way: Route, table: Table, window: str, snapshot: _Snapshot) -> bool:
    """Step 4. The row's lock keeps the stream from writing into the partition meanwhile."""
    with connection.transaction():
        connection.execute(
            "SELECT 1 FROM ops.hot_partition WHERE (table_name, partition) = (%s, %s) FOR UPDATE",
            (table.name, window),
        )
        raw = [*way.entities]
        if window in _journaled(connection, raw) or _end(connection, raw) != snapshot.sequence:
            return False
        connection.execute(
            "DELETE FROM ops.hot_partition WHERE (table_name, partition) = (%s, %s)", (table.name, window)
        )
        failpoint("reconcile.before_commit")
    return True


def _journaled(connection: Connection[Any], raw: Sequence[str]) -> set[str]:
    """Windows that micro-batches touch which are not landed yet."""
    rows = connection.execute(
        "SELECT DISTINCT jsonb_object_keys(windows) FROM ops.stream_batch WHERE entity = ANY(%s)", (raw,)
    ).fetchall()
    return {row[0] for row in rows}


def _end(connection: Connection[Any], raw: Sequence[str]) -> int:
    """The ledger's latest landing of these tables."""
    row = connection.execute(
        "SELECT coalesce(max(sequence), 0) FROM ops.ledger WHERE table_name = ANY(%s)", (raw,)
    ).fetchone()
    return int(row[0]) if row else 0


def _published(connection: Connection[Any], table: Table, window: str) -> Any:
    """What is compared of a leaf, as Arrow: by COPY, whose rows need no object each."""
    listed = ", ".join(f"{_in_postgres(table, name)} as {quoted(name)}" for name in _compared(table))
    query = f'COPY (SELECT {listed} FROM {PUBLISHED}."{table.leaf(window)}") TO STDOUT (FORMAT csv, HEADER)'
    content = io.BytesIO()
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for block in copy:
            content.write(block)
    content.seek(0)
    types = {name: "string" if _is_text(table, name) else "int64" for name in _compared(table)}
    return pa_csv.read_csv(content, convert_options=pa_csv.ConvertOptions(column_types=types))


def _compared(table: Table) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*table.key, *table.tie_break)))


def _is_text(table: Table, name: str) -> bool:
    return table.column(name).type.upper() in {"UUID", "VARCHAR"}


def _in_postgres(table: Table, name: str) -> str:
    if _is_text(table, name):
        return f"{quoted(name)}::text"
    is_time = table.column(name).type.upper().startswith("TIMESTAMP")
    return f"(extract(epoch from {quoted(name)}) * 1000000)::bigint" if is_time else f"{quoted(name)}::bigint"


def _in_lake(table: Table, name: str) -> str:
    if _is_text(table, name):
        return f"{quoted(name)}::varchar"
    is_time = table.column(name).type.upper().startswith("TIMESTAMP")
    return f"epoch_us({quoted(name)})::bigint" if is_time else f"{quoted(name)}::bigint"


def lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """A line for each partition that was compared, for people."""
    for result in results:
        yield result.message or f"{result.table} {result.partition}: stream and batch agree."
