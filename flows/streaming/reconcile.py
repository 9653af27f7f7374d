"""Whether the stream and the batch agree: what the stream wrote, against what the batch computed from raw.

A partition that the stream writes into is hot. Once the batch has computed it from everything that was landed
for it, both must hold the same rows, and the same counts in every window. What differs is a finding, is
corrected, and the partition is sealed: it belongs to the batch until the stream reaches it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from psycopg import Connection, IsolationLevel

from flows.build.states import planner_states
from flows.failpoints import failpoint
from flows.landed import BY, BY_STREAM
from flows.planner import States, plan
from flows.services import Services
from flows.stores import apply, leaf_indexes
from flows.stores.ledger import Ledger, PartitionState
from flows.streaming import agreement, windows
from flows.streaming.agreement import Rows
from flows.streaming.route import Route, route
from quality import CheckResult
from transforms import catalog, registry
from transforms.contract import RuleKind, Table

RULE = "stream_agrees"
_SHOWN = 20


@dataclass(frozen=True)
class _Judged:
    """What was found of one table's hot partitions in one snapshot, and the ledger's end in it."""

    states: Mapping[str, PartitionState]
    found: Mapping[str, Rows | pa.Table]
    sequence: int


def reconcile(services: Services, way: Route | None = None) -> list[CheckResult]:
    """Compare every hot partition that waits for nothing; one result for each. None where nothing is hot.

    `way` is that of the declared topics if none is given.

    1. In one snapshot: which partitions are hot; of which nothing is journaled or landed that the batch has
       not built yet; how these differ from the lake's content, by key and tie-break, or by count.
    2. Rows that are too much are deleted, missing ones inserted, in one transaction. What a count lacks, or
       has too much, is handed to the keeper of the windows, and so is what came too late for its window.
    3. The leaf gets the indexes that the stream did without.
    4. In one transaction, if nothing was taken in or landed meanwhile: the partition is sealed.

    A crash after any of them is made good by the next time. The stream may live meanwhile.
    """
    with services.warehouse.connect() as connection:
        if (
            connection.execute("SELECT 1 FROM ops.hot_partition WHERE sealed_at IS NULL LIMIT 1").fetchone()
            is None
        ):
            return []
    way = way or route(registry.entities())
    results: list[CheckResult] = []
    for table in (*way.facts, *way.windows):
        with services.warehouse.connect() as connection:
            if table.windowed:
                windows.prepare(connection, table)
                results += _reconcile(services, connection, way, table)
            else:
                with Ledger(connection).locked("publish", table.name):
                    results += _reconcile(services, connection, way, table)
    return results


def lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """A line for each partition that was compared, for people."""
    for result in results:
        yield result.message or f"{result.table} {result.partition}: stream and batch agree."


def _reconcile(
    services: Services, connection: Connection[Any], way: Route, table: Table
) -> Iterator[CheckResult]:
    judged = _judge(services, connection, way, table)
    for window, found in judged.found.items():
        if isinstance(found, Rows):
            if found.surplus or found.missing:
                agreement.correct_rows(services, connection, table, window, judged.states[window], found)
            result = _rows_result(table, window, found)
        else:
            result = _counts_result(table, window, found, _landed_by_batch(connection, way, table, window))
            agreement.correct_counts(connection, table, window, found)
        failpoint("reconcile.corrected")
        yield result
        leaf_indexes.complete(connection, table, [table.leaf(window)])
        failpoint("reconcile.indexed")
        _seal(connection, way, table, window, judged)


def _judge(services: Services, connection: Connection[Any], way: Route, table: Table) -> _Judged:
    """Step 1."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    compare = agreement.compare_counts if table.windowed else agreement.compare_rows
    try:
        with connection.transaction():
            ledger = Ledger(connection)
            staging = [way.staging[name] for name in way.entities]
            hot = apply.hot_partitions(connection, table.name)
            raw = [*way.entities]
            waiting = _journaled(connection, raw)
            known = planner_states(ledger, [table.name, *(one.name for one in staging), *raw])
            if any(_due(services, one, known) for one in staging):
                return _Judged({}, {}, 0)  # what was landed is not staged yet: the batch comes first
            waiting |= set(_due(services, table, known))
            windows = sorted(hot - waiting)
            there = ledger.states([table.name], windows)
            # One that the batch has no row for has no state: what stands there is then too much.
            states = {
                window: there.get((table.name, window), PartitionState(table.name, window))
                for window in windows
            }
            leaves = apply.leaves(connection, table)
            found = {
                window: compare(services, connection, table, window, state)
                for window, state in states.items()
                if table.leaf(window) in leaves
            }
            return _Judged(states, found, _end(connection, raw))
    finally:
        connection.isolation_level = None


def _due(services: Services, table: Table, known: States) -> list[str]:
    work = plan(table, registry.tables(), known, catalog.fingerprint(table), services.settings.now())
    return work.partitions


def _rows_result(table: Table, window: str, found: Rows) -> CheckResult:
    surplus, missing = len(found.surplus), len(found.missing)
    return _result(
        table,
        window,
        passed=not (surplus or missing),
        failing_rows=surplus + missing,
        observed={
            "only_in_the_stream": surplus,
            "only_in_the_batch": missing,
            "places": [
                list(row[-len(table.tie_break) :]) for row in (*found.surplus, *found.missing)[:_SHOWN]
            ],
        },
        message=(
            f"{table.name} {window}: the stream had {surplus:,} rows that the batch did not compute, and "
            f"lacked {missing:,} that it did. They were corrected; their places are in ops.check_result."
        ),
    )


def _counts_result(table: Table, window: str, added: pa.Table, by_batch: bool) -> CheckResult:
    """What the batch landed by itself the stream can't have counted: that is no finding."""
    assert table.windowed is not None
    return _result(
        table,
        window,
        passed=by_batch or not added.num_rows,
        failing_rows=0 if by_batch else added.num_rows,
        observed={
            "corrected_windows": added.num_rows,
            "landed_by_the_batch_too": by_batch,
            "windows": [
                [str(row[name]) for name in (*table.key, table.windowed.adds)]
                for row in added.slice(0, _SHOWN).to_pylist()
            ],
        },
        message=(
            f"{table.name} {window}: the stream counted {added.num_rows:,} windows differently from the "
            "batch. They are corrected, each by a new revision; which and by how much is in "
            "ops.check_result."
        ),
    )


def _result(
    table: Table, window: str, *, passed: bool, failing_rows: int, observed: dict[str, Any], message: str
) -> CheckResult:
    return CheckResult(
        table=table.name,
        partition=window,
        rule=RULE,
        kind=RuleKind.CONSISTENCY,
        severity="critical",
        engine="duckdb",
        passed=passed,
        failing_rows=failing_rows,
        observed=observed,
        message="" if passed else message,
    )


def _landed_by_batch(connection: Connection[Any], way: Route, table: Table, window: str) -> bool:
    """Whether a batch has read records of the window itself, or of any since the stream wrote into it."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM ops.ledger AS landing
            JOIN ops.hot_partition AS hot ON (hot.table_name, hot.partition) = (%s, %s)
            WHERE landing.table_name = %s AND landing.kind = 'land'
                AND landing.control ->> %s::text IS DISTINCT FROM %s
                AND (landing.windows ? %s OR landing.committed_at > hot.since)
        )
        """,
        (table.name, window, way.counted(table).table, BY, BY_STREAM, window),
    ).fetchone()
    return bool(row and row[0])


def _seal(connection: Connection[Any], way: Route, table: Table, window: str, judged: _Judged) -> bool:
    """Step 4. The row's lock keeps the stream from writing into the partition meanwhile."""
    with connection.transaction():
        connection.execute(
            "SELECT 1 FROM ops.hot_partition WHERE (table_name, partition) = (%s, %s) FOR UPDATE",
            (table.name, window),
        )
        raw = [*way.entities]
        if window in _journaled(connection, raw) or _end(connection, raw) != judged.sequence:
            return False
        connection.execute(
            "UPDATE ops.hot_partition SET sealed_at = clock_timestamp() "
            "WHERE (table_name, partition) = (%s, %s)",
            (table.name, window),
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
