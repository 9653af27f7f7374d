"""Whether the stream and the batch agree: what the stream wrote, against what the batch computed from raw.

A partition that the stream writes into is hot. Once the batch has computed it from everything that was landed
for it, both must hold the same rows, and the same counts in every window. What differs is a finding, and is
corrected. Once event time has passed the partition's end by the allowed lateness, it is sealed: all its
windows are final, and it belongs to the batch until the stream reaches it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
from flows.streaming import agreement, findings, windows
from flows.streaming.agreement import Rows
from flows.streaming.journal import Journal
from flows.streaming.route import Route, whole_route
from flows.streaming.watermark import watermark
from quality import CheckResult
from transforms import catalog, registry
from transforms.contract import Table


@dataclass(frozen=True)
class _Judged:
    """What was found of one table's hot partitions in one snapshot, and the ledger's end in it."""

    states: Mapping[str, PartitionState]
    found: Mapping[str, Rows | pa.Table]
    sequence: int
    passed: datetime | None = None
    """Up to which time nothing is expected any more: what ends before is sealed."""
    owed: Mapping[str, datetime] = field(default_factory=dict)
    """Partitions that were owed a comparison and have it by this, or hold no row of the stream."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """By what of a partition is told later whether anything has moved in it."""


def reconcile(services: Services, way: Route | None = None, *, sealed_too: bool = False) -> list[CheckResult]:
    """Compare every hot partition that waits for nothing and in which something moved since it was found
    equal, or (`sealed_too`) every partition that the stream ever wrote; one result for each. None where there
    is nothing.

    `way` is that of the declared topics if none is given.

    1. In one snapshot: which partitions are hot; of which nothing is journaled or landed that the batch has
       not built yet; how these differ from the lake's content, in any column, or by count. One that was
       equal, and has not changed since on either side, is looked at again when 3 is to follow, or when a
       comparison is owed.
    2. Rows that are too much are deleted, missing ones inserted, those with other values put back, in one
       transaction. What a count lacks, or has too much, is handed to the keeper of the windows, and so is
       what came too late for its window.
    3. Where event time has passed the partition's end by the lateness, and its windows are final, the leaf
       gets the indexes that the stream did without. Others stay hot, and are compared again the next time.
    4. In one transaction, if nothing was taken in or landed meanwhile: the partition is sealed.
    5. Windows count what a batch has read itself by now: they may become final.

    A partition that is sealed is compared in a snapshot of its own, and needs 1 and 2 alone. A crash after
    any of them is made good by the next time. The stream may live meanwhile.
    """
    with services.warehouse.connect() as connection:
        query = (
            "SELECT 1 FROM ops.hot_partition WHERE sealed_at IS NULL OR (%s AND since IS NOT NULL) "
            "UNION ALL SELECT 1 FROM ops.comparison_owed LIMIT 1"
        )
        if connection.execute(query, (sealed_too,)).fetchone() is None:
            return []
    way = way or whole_route()
    if way is None:
        return []
    results: list[CheckResult] = []
    for table in (*way.facts, *way.windows):
        with services.warehouse.connect() as connection:
            if table.windowed:
                windows.prepare(connection, table)
            results += _locked(services, connection, way, table, None, anew=sealed_too)
            for window in sorted(_sealed(connection, table)) if sealed_too else ():
                if not any((one.table, one.partition) == (table.name, window) for one in results):
                    results += _locked(services, connection, way, table, window, anew=True)
    return results


def waiting(services: Services, results: Sequence[CheckResult]) -> int:
    """How many partitions that the stream wrote are not among these results: they wait for the batch."""
    way = whole_route()
    if way is None:
        return 0
    known = {(result.table, result.partition) for result in results}
    with services.warehouse.connect() as connection:
        there = [(table, apply.leaves(connection, table)) for table in (*way.facts, *way.windows)]
        return sum(
            table.leaf(window) in leaves
            for table, leaves in there
            for window in apply.streamed_partitions(connection, table.name)
            if (table.name, window) not in known
        )


def _sealed(connection: Connection[Any], table: Table) -> set[str]:
    streamed = apply.streamed_partitions(connection, table.name)
    return streamed - apply.hot_partitions(connection, table.name)


def _locked(
    services: Services,
    connection: Connection[Any],
    way: Route,
    table: Table,
    sealed: str | None,
    *,
    anew: bool,
) -> list[CheckResult]:
    """The hot partitions, or one that is sealed; nobody else corrects the table meanwhile, nor publishes it.

    The keeper of a windowed one goes on: what it merges is in the same snapshot.
    """
    with Ledger(connection).locked("compare" if table.windowed else "publish", table.name):
        return list(_reconcile(services, connection, way, table, sealed, anew))


def _reconcile(
    services: Services, connection: Connection[Any], way: Route, table: Table, sealed: str | None, anew: bool
) -> Iterator[CheckResult]:
    judged = _judge(services, connection, way, table, sealed, anew)
    for window, found in judged.found.items():
        if isinstance(found, Rows):
            topics = agreement.topics(services, connection, way, table, window, found)
            if found.count:
                agreement.correct_rows(services, connection, table, window, judged.states[window], found)
            result, is_equal = findings.of_rows(table, window, found, topics), not found.count
        else:
            # Of a partition that is sealed the stream has counted what the batch landed, too.
            by_batch = sealed is None and _landed_by_batch(connection, way, table, window)
            result = findings.of_counts(table, window, found, by_batch=by_batch)
            agreement.correct_counts(connection, table, window, found)
            is_equal = not found.num_rows
        failpoint("reconcile.corrected")
        yield result
        if sealed is None and _is_over(connection, table, window, judged.passed):
            leaf_indexes.complete(services.warehouse, connection, table, [table.leaf(window)])
            failpoint("reconcile.indexed")
            _seal(connection, way, table, window, judged)
        elif sealed is None and is_equal:
            _note_equal(connection, table, window, judged.marks[window])
    if table.windowed and sealed is None:
        Journal(connection).settle(way.counted(table).table, judged.owed)


def _judge(
    services: Services, connection: Connection[Any], way: Route, table: Table, sealed: str | None, anew: bool
) -> _Judged:
    """Step 1."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    compare = agreement.compare_counts if table.windowed else agreement.compare_rows
    try:
        with connection.transaction():
            ledger = Ledger(connection)
            staging = [way.staging[name] for name in way.entities]
            asked = (
                apply.hot_partitions(connection, table.name)
                if sealed is None
                else {sealed} & _sealed(connection, table)
            )
            raw = [*way.entities]
            waiting = _journaled(connection, raw)
            known = planner_states(ledger, [table.name, *(one.name for one in staging), *raw])
            if any(_due(services, one, known) for one in staging):
                return _Judged({}, {}, 0)  # what was landed is not staged yet: the batch comes first
            due = _due(services, table, known)
            waiting |= set(due)
            now = services.settings.now()
            # Of what is past its retention nobody computes anything any more; its leaf is about to go.
            compared = sorted(one for one in asked - waiting if not table.is_past_retention(one, now))
            there = ledger.states([table.name], compared)
            # One that the batch has no row for has no state: what stands there is then too much.
            states = {
                window: there.get((table.name, window), PartitionState(table.name, window))
                for window in compared
            }
            leaves = apply.leaves(connection, table)
            states = {window: state for window, state in states.items() if table.leaf(window) in leaves}
            passed = _passed(services, connection, way, table)
            owed = Journal(connection).owed(way.counted(table).table) if table.windowed else {}
            marks, equal = _moved(connection, table, states)
            found = {
                window: compare(services, connection, table, window, state)
                for window, state in states.items()
                if anew
                or window not in equal
                or window in owed
                or _is_over(connection, table, window, passed)
            }
            left = {*due, *(apply.hot_partitions(connection, table.name) - found.keys())}
            owed = {window: since for window, since in owed.items() if window not in left}
            return _Judged(states, found, _end(connection, raw), passed, owed, marks)
    finally:
        connection.isolation_level = None


def _moved(
    connection: Connection[Any], table: Table, states: Mapping[str, PartitionState]
) -> tuple[dict[str, str], set[str]]:
    """Partition → by what is told later whether anything has moved in it; those that were equal, and in which
    nothing has since.
    """
    rows = connection.execute(
        "SELECT partition, last_batch, compared FROM ops.hot_partition "
        "WHERE table_name = %s AND partition = ANY(%s)",
        (table.name, list(states)),
    ).fetchall()
    marks = {window: f"{states[window].token} {last}" for window, last, _ in rows}
    return marks, {window for window, _, compared in rows if compared == marks[window]}


def _note_equal(connection: Connection[Any], table: Table, window: str, mark: str) -> None:
    connection.execute(
        "UPDATE ops.hot_partition SET compared = %s "
        "WHERE (table_name, partition) = (%s, %s) AND compared IS DISTINCT FROM %s",
        (mark, table.name, window, mark),
    )


def _passed(services: Services, connection: Connection[Any], way: Route, table: Table) -> datetime | None:
    """Up to which time nothing is expected any more. A fact's rows come of all topics, and wait as long as
    the windows that count them.
    """
    if table.windowed:
        return windows.passed(connection, table)
    lateness = [one.windowed.lateness for one in way.windows if one.windowed is not None]
    progress = Journal(connection).progress([*way.entities], services.settings.world_time)
    moment = watermark(progress, None)
    return None if moment is None else moment - max(lateness, default=timedelta(0))


def _is_over(connection: Connection[Any], table: Table, window: str, passed: datetime | None) -> bool:
    """Whether a partition may be sealed. The keeper makes windows final, and tells it, after what was handed
    to it: a sealed partition is out of its sight.
    """
    assert table.partition is not None
    if passed is None or passed < table.partition.bounds(window)[1]:
        return False
    return table.windowed is None or not windows.is_open(connection, table, window)


def _due(services: Services, table: Table, known: States) -> list[str]:
    work = plan(table, registry.tables(), known, catalog.fingerprint(table), services.settings.now())
    return work.partitions


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
