"""Publishing: what was built and checked becomes visible, in one transaction with its ledger row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from duckdb import DuckDBPyConnection
from psycopg import Connection

from flows.failpoints import failpoint
from flows.stores import apply, grants, overtaken
from flows.stores.difference import content
from flows.stores.joint import JointLedger
from flows.stores.lake import Lake
from flows.stores.ledger import Conflict, Ledger, PartitionState
from flows.stores.locks import BRIEF, PATIENT, Blocked, forget, remember, with_short_waits
from flows.stores.manifest import Commit
from flows.stores.publication import (
    AskStreamed,
    Audit,
    BuiltPartition,
    Pending,
    Publication,
    Streamed,
    Way,
)
from flows.stores.standalone import Workshop, sweep, workshop
from flows.stores.warehouse import UNPUBLISHED, Warehouse
from flows.stores.ways import Step, choose, load_difference
from transforms.contract import Table
from warehouse_ddl.statements import home

__all__ = ["BuiltPartition", "Pending", "Publication", "publish"]


def publish(
    table: Table,
    built: Sequence[BuiltPartition],
    *,
    warehouse: Warehouse,
    lake: Lake,
    run_id: str = "",
    audit: Audit | None = None,
    views: Sequence[str] = (),
    way: Way | None = None,
    streamed: AskStreamed | None = None,
    joint: JointLedger | None = None,
) -> Publication:
    """Make PostgreSQL show exactly these partitions of `table`, all of them at the same moment or none.

    Its effects, in this order; a crash after any of them leaves what was published as it was or as it is to
    be, and the next run completes it:

    1. The partitions whose token the ledger holds are left out: they are published.
    2. The lake's files are verified (size, SHA-256) and the cheapest right way is chosen: **attach** a new
       leaf, **diff** a leaf that is there, **swap** it when most of it differs; **merge** a table without
       leaves by key, or **load** it whole when what it holds is not known. `way='swap'` builds leaves anew.
       A leaf that the stream writes into is always diffed: what stands in it already is left alone. One
       that it counts in is not written at all: it is opened for `reconcile`, which hands over what differs.
       What is published `in_full` is not compared with the lake but made **equal** to it.
    3. Tables of this publication alone are made in schema `unpublished` and filled by COPY, each in its own
       transaction; a leaf's bounds are a CHECK from the start.
    4. A new leaf gets its primary key and indexes.
    5. `VACUUM (FREEZE, ANALYZE)` of it.
    6. Its count and sums are read back and compared with the lake.
    7. `audit` is called with what stands there (new leaves and whole tables; of a diff only the difference is
       there, and the caller's gate over the whole content was before this). It raises to forbid.
    8. One transaction, under the table's advisory lock and with short lock waits: ledger rows and the
       compare-and-swap of the partition states; the rows or leaves; `ops.refresh_owed` for `views`;
       `ops.pending_publish` cleared. Its commit is the moment everybody sees the new content. A copy that a
       stream has shown goes where the one that counts comes. Where a leaf is made equal, `streamed` says
       first which records are the stream's alone: they are left as they are.
    9. The manifest lines.
    10. The tables of step 3 that were not published are dropped.

    With `joint` step 8 is a part of that ledger's transaction, and 9 and 10 follow its commit: for tables
    that are changed by merge, whose writing makes no reader wait.

    When another session's lock stays in the way, 8 is given up and `Publication.pending` says whose:
    nothing changed, `ops.pending_publish` remembers it, and the next run publishes it. A swap that was only
    the cheaper way becomes a diff first, which a reader's lock does not block. Readers' queries are never
    cancelled. Raises Conflict when somebody else published another content on the same state, DamagedFile,
    WarehouseError, or what `audit` raises; what was published stays as it was then.
    """
    began = time.monotonic()
    publication = Publication(table.name)
    with lake.duckdb() as session, _ledger(warehouse, joint) as ledger:
        steps = _steps(table, built, ledger, run_id, publication)
        if not steps:
            return publication
        pid = ledger.connection.info.backend_pid  # libpq gives 0 once the connection is cut
        try:
            with ExitStack() as own:
                made = own if joint is None else joint.opened
                making = ledger.connection if joint is None else joint.making
                shop = made.enter_context(workshop(warehouse, making, table))
                choose(shop, steps, session, lake, way)
                _prepare(shop, steps, session, lake)
                _audit(steps, audit)
                while True:
                    try:
                        _show(shop, steps, ledger, views, publication, streamed)
                        break
                    except Blocked as blocked:
                        if not _write_instead(shop, steps, session, lake, way):
                            remember(ledger.connection, [step.commit for step in steps], blocked)
                            publication.pending = tuple(
                                Pending(step.built.partition, blocked.by) for step in steps
                            )
                            return publication
                failpoint("publish.committed")
                ledger.finish(lake, _published(steps, publication))
                failpoint("publish.manifest")
        except psycopg.OperationalError:
            connection = ledger.connection
            if not (connection.broken or connection.closed):
                raise
            if not _was_committed(warehouse, lake, pid, steps):
                raise
            publication.ways = {step.built.partition: step.way for step in steps}
    publication.seconds = time.monotonic() - began
    return publication


@contextmanager
def _ledger(warehouse: Warehouse, joint: JointLedger | None) -> Iterator[Ledger]:
    if joint is not None:
        yield joint
        return
    with warehouse.connect() as connection:
        yield Ledger(connection)


def _steps(
    table: Table, built: Sequence[BuiltPartition], ledger: Ledger, run_id: str, publication: Publication
) -> list[Step]:
    """What is not published yet, in the order of the partitions, each on the state it was planned on."""
    states = ledger.states([table.name], [item.partition for item in built])
    steps = []
    for item in sorted(built, key=lambda item: item.partition):
        state = states.get((table.name, item.partition), PartitionState(table.name, item.partition))
        version = state.version if item.version is None else item.version
        steps.append(Step(item, state, item.commit(table, version, state.files, run_id)))
    there = ledger.committed([step.commit.token for step in steps])
    for step in steps:
        if step.commit.token in there:
            publication.skipped.append(step.built.partition)
        elif step.built.version not in (None, step.state.version):
            raise Conflict(
                f"{table.name} {step.built.partition} was published by somebody else in the meantime; "
                "this work on it was given up. Run again."
            )
    return [step for step in steps if step.commit.token not in there]


def _prepare(shop: Workshop, steps: list[Step], session: DuckDBPyConnection, lake: Lake) -> None:
    """Steps 3 to 6 for whole leaves and whole tables."""
    table = shop.table
    loads = [step for step in steps if step.way == "load"]
    if loads:
        rows = content(session, lake, table, [file for step in loads for file in step.built.files])
        name = shop.stand_up(table.name, rows, None)
        for step in loads:
            step.load = name
    for step in steps:
        if step.way in ("attach", "swap"):
            rows = content(session, lake, table, step.built.files)
            step.load = shop.stand_up(table.leaf(step.built.partition), rows, step.built.partition)
        elif step.way == "equal":
            rows = content(session, lake, table, step.built.files)
            step.load = shop.load(table.leaf(step.built.partition), "equal", rows)


def _audit(steps: list[Step], audit: Audit | None) -> None:
    """Step 7."""
    standing = {step.built.partition: step.load for step in steps if step.load}
    if audit is not None and standing:
        audit(UNPUBLISHED, standing)
    failpoint("publish.audited")


def _show(
    shop: Workshop,
    steps: list[Step],
    ledger: Ledger,
    views: Sequence[str],
    publication: Publication,
    streamed: AskStreamed | None,
) -> None:
    """Step 8."""
    swaps = [step for step in steps if step.way == "swap"]
    for step in swaps:
        shop.wait_until_frozen(step.load)
    with ledger.locked("publish", shop.table.name):
        done = with_short_waits(
            shop.warehouse,
            ledger.connection,
            BRIEF if swaps else PATIENT,
            lambda: _transaction(shop, steps, ledger, views, streamed),
        )
    for step, written in done:
        publication.ways[step.built.partition] = step.way
        publication.inserted += written.inserted
        publication.updated += written.updated
        publication.deleted += written.deleted
        if step.built.in_full and written.rows:
            publication.repaired.append(step.built.partition)
    names = [step.built.partition for step in steps]
    publication.skipped.extend(name for name in names if name not in publication.ways)


def _transaction(
    shop: Workshop,
    steps: list[Step],
    ledger: Ledger,
    views: Sequence[str],
    streamed: AskStreamed | None,
) -> list[tuple[Step, apply.Written]]:
    """The one transaction; what another run committed under the same token meanwhile is left out."""
    connection, table = ledger.connection, shop.table
    connection.execute("SET CONSTRAINTS ALL DEFERRED")
    equal = [step.built for step in steps if step.way == "equal"]
    spared = streamed(connection, equal) if streamed is not None and equal else Streamed()
    fresh = [step for step in steps if ledger.commit(step.commit, version=step.state.version, published=True)]
    failpoint("publish.entered")
    if not table.is_partitioned_in_postgres and 0 < len(fresh) < len(steps):
        raise Conflict(
            f"Some windows of {table.name} were published by somebody else in the meantime; "
            "this work on it was given up. Run again."
        )
    if any(step.way == "swap" for step in fresh):
        apply.lock_for_swap(connection, table)
    _refuse_over_stream(connection, table, fresh)
    beaten = overtaken.take_out(connection, table, {step.built.partition: step.coming for step in fresh})
    done = [(step, _apply(connection, shop, step, fresh, spared)) for step in fresh]
    failpoint("publish.applied")
    if any(written.rows or step.way in ("attach", "swap") for step, written in done):
        for view in views:
            connection.execute(
                "INSERT INTO ops.refresh_owed (view_name, token) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (view, done[0][0].commit.token),
            )
    forget(connection, table.name, [step.built.partition for step in fresh])
    if changed := {step.built.partition for step, written in done if written.rows} | beaten:
        apply.note_written(connection, table, changed, fresh[0].commit.token)
    # What a constraint refuses is this table's failure, also where the commit is shared with others.
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    failpoint("publish.before_commit")
    return done


def _refuse_over_stream(connection: Connection[Any], table: Table, steps: list[Step]) -> None:
    """A leaf that the stream has begun to write into since the way was chosen must not be taken away, nor
    written if the stream counts in it.
    """
    hot = apply.hot_partitions(connection, table.name)
    counted = apply.counted_partitions(connection, table)
    leaves = apply.leaves(connection, table) if hot or counted else set()
    for step in steps:
        partition = step.built.partition
        is_taken = (partition in hot and step.way in ("attach", "swap")) or (
            partition in counted and not step.is_counted
        )
        if is_taken and table.leaf(partition) in leaves:
            raise Conflict(
                f"The stream has begun to write into {table.leaf(partition)} in the meantime; "
                "this work on it was given up. Run again."
            )


def _apply(
    connection: Connection[Any], shop: Workshop, step: Step, fresh: list[Step], spared: Streamed
) -> apply.Written:
    """The rows or the leaf of one partition; what several windows of one table share comes with the first."""
    table, partition = shop.table, step.built.partition
    if step.is_counted:
        apply.reopen(connection, table, partition)
        return apply.Written()
    leaf = table.leaf(partition)
    if step.way in ("attach", "swap"):
        rights = grants.held(connection, home(table), leaf)
        if step.way == "swap":
            away = shop.name(leaf, "old")
            apply.detach(connection, table, partition, away)
            shop.made.append(away)
        apply.attach(connection, table, partition, step.load)
        grants.give(connection, home(table), leaf, rights)
        return apply.Written(inserted=step.commit.row_count)
    if step.way == "load":
        loads = [other for other in fresh if other.way == "load"]
        if step is not loads[0]:
            return apply.Written()
        windows = [other.built.partition for other in loads]
        return apply.make_equal(connection, table, shop.columns, step.load, windows)
    if step.way == "equal":
        return apply.make_equal(
            connection, table, shop.columns, step.load, [partition], target=leaf, spared=spared
        )
    target = leaf if table.is_partitioned_in_postgres and partition else table.name
    return apply.write(connection, table, target, shop.columns, step.changes, partition=partition)


def _write_instead(
    shop: Workshop, steps: list[Step], session: DuckDBPyConnection, lake: Lake, wanted: Way | None
) -> bool:
    """Where a lock blocks a swap that was only the cheaper way, turn it into the difference, which makes no
    reader wait; False where there is no such swap.
    """
    swaps = [step for step in steps if step.way == "swap"]
    if not swaps or wanted == "swap" or any(step.state.published_at is None for step in swaps):
        return False
    for step in swaps:
        step.way = "diff"
        load_difference(shop, [step], session, lake, shop.table.leaf(step.built.partition), is_forced=True)
    return True


def _published(steps: list[Step], publication: Publication) -> list[Commit]:
    return [step.commit for step in steps if step.built.partition in publication.ways]


def _was_committed(warehouse: Warehouse, lake: Lake, pid: int, steps: list[Step]) -> bool:
    """After a lost answer: what the ledger says once that session is gone; the rest of the effects, if so."""
    with warehouse.connect() as connection:
        apply.wait_until_gone(connection, pid)
        ledger = Ledger(connection)
        tokens = {step.commit.token for step in steps}
        if ledger.committed(tokens) != tokens:
            return False
        ledger.finish(lake, [step.commit for step in steps])
        sweep(connection)
    return True
