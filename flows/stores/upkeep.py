"""What publishing owes afterwards: refreshed views, statistics of parents, leaves past their retention."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql

from flows.failpoints import failpoint
from flows.stores import apply
from flows.stores.dependents import InTheWay, refuse_readers
from flows.stores.lake import Lake
from flows.stores.ledger import Conflict, Ledger, PartitionState
from flows.stores.ledger_rows import RETIRED
from flows.stores.locks import BRIEF, PATIENT, Blocked, forget, with_short_waits
from flows.stores.manifest import Commit
from flows.stores.warehouse import PUBLISHED, UNPUBLISHED, Warehouse
from transforms.contract import Table
from warehouse_ddl.statements import home

ANALYZE_SHARE = 0.1
"""The share of changed rows from which autovacuum, too, analyzes a table anew."""


@dataclass(frozen=True)
class Refreshed:
    """A materialized view that was owed a refresh; `blocked_by` says whose lock kept it owed."""

    view: str
    blocked_by: str = ""


def refresh(warehouse: Warehouse, only: str | None = None) -> list[Refreshed]:
    """Refresh every view that a publish owes it, each in one transaction with the removal of its debt.

    `only`: this one alone, if it is owed.

    Readers of the view see the old or the new and never wait. A view that somebody's lock keeps from it stays
    owed; so does everything after a crash.
    """
    done = []
    with warehouse.connect() as connection:
        owed = connection.execute(
            "SELECT DISTINCT view_name FROM ops.refresh_owed "
            "WHERE view_name = coalesce(%s, view_name) ORDER BY 1",
            (only,),
        ).fetchall()
        for (view,) in owed:

            def work(view: str = view) -> None:
                _refresh(connection, view)

            try:
                with_short_waits(warehouse, connection, PATIENT, work)
            except Blocked as blocked:
                done.append(Refreshed(view, blocked.by))
                continue
            failpoint("publish.refreshed")
            done.append(Refreshed(view))
    return done


def _refresh(connection: Connection[Any], view: str) -> None:
    """A publish that commits after this began owes again, so nothing newer than the refresh is forgotten."""
    row = connection.execute(
        "SELECT relispopulated FROM pg_class WHERE oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (PUBLISHED, view),
    ).fetchone()
    connection.execute("DELETE FROM ops.refresh_owed WHERE view_name = %s", (view,))
    if row is not None:
        how = sql.SQL("CONCURRENTLY ") if row[0] else sql.SQL("")
        connection.execute(
            sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(how, sql.Identifier(PUBLISHED, view))
        )
    failpoint("publish.refreshing")


def analyze(warehouse: Warehouse, tables: Iterable[Table]) -> None:
    """Give the planner statistics of what was published: once a batch, after its publishes.

    New leaves bring their own; a parent's are made from a sample of all its leaves, and made anew only when
    these hold a tenth more or fewer rows than then: cost follows new data, not history.
    """
    with warehouse.connect() as connection:
        is_18 = connection.info.server_version >= 180_000
        for table in tables:
            if table.is_partitioned_in_postgres and not _has_outgrown_statistics(connection, table):
                continue
            only = sql.SQL("ONLY ") if is_18 and table.is_partitioned_in_postgres else sql.SQL("")
            connection.execute(
                sql.SQL("ANALYZE (SKIP_LOCKED) {}{}").format(only, sql.Identifier(home(table), table.name))
            )


def _has_outgrown_statistics(connection: Connection[Any], table: Table) -> bool:
    """Whether the leaves' rows differ by more than ANALYZE_SHARE from what the parent's statistics saw."""
    row = connection.execute(
        "SELECT p.reltuples, (SELECT coalesce(sum(greatest(c.reltuples, 0)), 0) FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = p.oid) FROM pg_class p "
        "WHERE p.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (home(table), table.name),
    ).fetchone()
    return row is None or row[0] <= 0 or abs(row[1] - row[0]) > ANALYZE_SHARE * row[0]


def retire(
    warehouse: Warehouse,
    lake: Lake,
    table: Table,
    now: datetime,
    run_id: str = "",
    tell: Callable[[InTheWay], object] | None = None,
) -> list[str]:
    """Drop the leaves whose whole window is older than the declared retention; returns the partitions.

    Their files stay in the lake. A leaf that somebody reads, or changes meanwhile, stays until the next time;
    so does one that somebody's own view reads, which `tell` is told, and without it InTheWay raised. One that
    a stream made and no batch has built is in no ledger, and none tells that it went.
    """
    if table.retention is None or not table.is_partitioned_in_postgres:
        return []
    retired = []
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        there = apply.leaves(connection, table)
        built = {partition for _, partition, *_ in ledger.outlines([table.name])}
        streamed = apply.streamed_partitions(connection, table.name)
        old = sorted(one for one in built | streamed if table.is_past_retention(one, now))
        states = ledger.states([table.name], old)
        for partition in old:
            if table.leaf(partition) not in there:
                if partition in streamed:
                    apply.forget_written(connection, table, partition)
                continue
            state = states.get((table.name, partition), PartitionState(table.name, partition))
            commit = Commit(
                token=f"retire-{table.name}-{partition}-{state.version}",
                kind="publish",
                layer=table.layer.value,
                table=table.name,
                partition=partition,
                run_id=run_id,
                based_on=state.based_on,
                control={RETIRED: True},
                fingerprint=state.fingerprint,
                row_count=state.row_count,
            )

            def work(commit: Commit = commit, version: int = state.version) -> None:
                if version:
                    ledger.commit(commit, version=version, published=False)
                forget(connection, table.name, [commit.partition])
                refuse_readers(connection, home(table), table.leaf(commit.partition), "is past its retention")
                apply.lock_for_swap(connection, table)
                away = f"retired_{commit.token[-8:]}"
                apply.detach(connection, table, commit.partition, away)
                apply.forget_written(connection, table, commit.partition)
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(UNPUBLISHED, away)))

            try:
                with ledger.locked("publish", table.name):
                    with_short_waits(warehouse, connection, BRIEF, work)
            except (Blocked, Conflict):
                continue
            except InTheWay as error:
                if tell is None:
                    raise
                tell(error)
                continue
            failpoint("publish.retired")
            if state.version:
                ledger.finish(lake, [commit])
            retired.append(partition)
    return retired
