"""The warehouse as the lake has it: for one that is empty, one that a backup made older than the lake, and
one that is newer than a lake that came back from a copy.

The lake's manifests hold what the ledger holds. What they can't give back was never in the lake: dead
letters, past runs and checks, incidents, and what the stream has taken in since its last landing, which it
reads again from the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from psycopg import sql

from flows.failpoints import failpoint
from flows.planner import REPLAYED, WHOLE
from flows.stores import apply
from flows.stores.difference import content
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.ledger_rows import RETIRED
from flows.stores.locks import BRIEF, with_short_waits
from flows.stores.manifest import Commit
from flows.stores.recovery import replace_ledger
from flows.stores.standalone import workshop
from flows.stores.warehouse import Warehouse
from transforms.contract import Table
from transforms.registry import Registry
from warehouse_ddl.files import views
from warehouse_ddl.statements import foreign_key_ddl, home

Say = Callable[[str, str], None]


@dataclass
class Recovered:
    """What was made equal to the lake: table → partitions ('' for a table without leaves), and the rest."""

    entries: int = 0
    loaded: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Leaves that PostgreSQL had and the lake has not."""
    left: list[str] = field(default_factory=list)
    """Published tables without a manifest: they stay as they are, and the next run builds them from raw."""

    @property
    def partitions(self) -> int:
        """How many were loaded."""
        return sum(len(windows) for windows in self.loaded.values())


def recover(
    warehouse: Warehouse,
    lake: Lake,
    histories: Sequence[Sequence[Commit]],
    registry: Registry,
    now: datetime,
    say: Say,
) -> Recovered:
    """Make ledger and published tables what `histories`, the lake's manifests, tell. The tables must exist.

    1. In one transaction the ledger is filled from the manifests, and the stream's journal, hot partitions
       and counts are given up: its offsets go back to what was landed, and it reads on from there. Partitions
       of which PostgreSQL need not hold the lake's content are marked as those of a rebuild are, so that an
       ordinary run makes right what a crash leaves here.
    2. Each of them is loaded from the lake's files: a leaf that is not there is attached, one that is there
       is made equal; tables that refer to each other are made equal in one transaction.
    3. Leaves that the lake knows nothing of are dropped. Every view is owed a refresh.

    No file and no manifest is written. Safe to repeat. Raises DamagedFile for a lake file that is not what
    was written.
    """
    done = Recovered(entries=sum(len(history) for history in histories))
    told = {history[0].table for history in histories if history}
    retired = _retired(histories)
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        with connection.transaction():
            fingerprints = _take_over(ledger, histories, registry, retired, now)
        failpoint("recovery.ledger")
        say("ledger", f"{done.entries:,} entries from the lake's manifests")
        whole: list[tuple[Table, list[PartitionState]]] = []
        for table in registry.build_order:
            if not table.is_published:
                continue
            if table.name not in told:
                done.left.append(table.name)
                continue
            states = [
                state
                for state in ledger.states([table.name]).values()
                if state.fingerprint == REPLAYED and (table.name, state.partition) in fingerprints
            ]
            if not table.is_partitioned_in_postgres:
                if states:
                    whole.append((table, states))
                continue
            _drop_unknown(warehouse, ledger, table, done)
            for state in states:
                _load_leaf(warehouse, ledger, lake, table, state, fingerprints)
                done.loaded.setdefault(table.name, []).append(state.partition)
            if states:
                say(table.name, f"{len(states)} partitions, {sum(s.row_count for s in states):,} rows")
        if whole:
            _load_whole(warehouse, ledger, lake, whole, registry, fingerprints)
            for table, states in whole:
                done.loaded[table.name] = [""]
                say(table.name, f"{sum(s.row_count for s in states):,} rows")
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO ops.refresh_owed (view_name, token) VALUES (%s, 'recovery') "
                "ON CONFLICT DO NOTHING",
                [(view.name,) for view in views()],
            )
    return done


def _retired(histories: Iterable[Sequence[Commit]]) -> set[tuple[str, str]]:
    """The partitions of which the newest entry says that their retention has passed."""
    last: dict[tuple[str, str], bool] = {}
    for history in histories:
        for commit in history:
            if commit.kind != "land":
                last[commit.table, commit.partition] = bool(commit.control.get(RETIRED))
    return {place for place, is_retired in last.items() if is_retired}


def _take_over(
    ledger: Ledger,
    histories: Sequence[Sequence[Commit]],
    registry: Registry,
    retired: set[tuple[str, str]],
    now: datetime,
) -> Mapping[tuple[str, str], str]:
    """Step 1; returns of each marked partition the fingerprint that it has once it is loaded."""
    connection = ledger.connection
    connection.execute(
        "LOCK TABLE ops.ledger, ops.partition_state, ops.stream_batch IN ACCESS EXCLUSIVE MODE"
    )
    known = {
        place: state
        for place, state in ledger.states(with_files=False).items()
        if state.published_at is not None and state.fingerprint != REPLAYED
    }
    streamed = {
        (name, partition)
        for name in {table for table, _ in known}
        for partition in apply.streamed_partitions(connection, name)
    }
    replace_ledger(ledger, histories)
    _give_up_the_stream(ledger, registry)
    marked: dict[tuple[str, str], str] = {}
    published: list[tuple[datetime, str, str]] = []
    tables = {table.name: table for table in registry.build_order if table.is_published}
    merged: set[str] = set()
    states = ledger.states(sorted(tables), with_files=False)
    for place, state in states.items():
        table = tables[place[0]]
        if _is_marker(table, state.partition):
            continue
        has_leaf = table.is_partitioned_in_postgres
        if place in retired or (has_leaf and table.is_past_retention(state.partition, now)):
            continue  # a run would drop the leaf again
        before = known.get(place)
        is_there = before is not None and before.token == state.token and place not in streamed
        published.append((before.published_at if before and before.published_at else now, *place))
        if not is_there:
            marked[place] = state.fingerprint
            merged |= {table.name} if not table.is_partitioned_in_postgres else set()
    # Where there are no leaves one other window makes the table another one, and so does one that is gone.
    merged |= {
        name
        for name, partition in known
        if name in tables and not tables[name].is_partitioned_in_postgres and (name, partition) not in states
    }
    marked |= {
        place: state.fingerprint
        for place, state in states.items()
        if place[0] in merged and not _is_marker(tables[place[0]], place[1])
    }
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE ops.partition_state SET published_at = %s WHERE (table_name, partition) = (%s, %s)",
            published,
        )
    ledger.mark(marked, REPLAYED)
    return marked


def _is_marker(table: Table, partition: str) -> bool:
    """Whether an entry only notes what its table has consumed."""
    return partition == WHOLE and table.partition is not None


def _give_up_the_stream(ledger: Ledger, registry: Registry) -> None:
    """What the stream has done since the last landing is no part of the lake: it does it again.

    Generations go on, so that a process which still holds a claim can commit nothing.
    """
    connection = ledger.connection
    connection.execute("DELETE FROM ops.stream_batch")
    connection.execute("DELETE FROM ops.hot_partition")
    connection.execute("DELETE FROM ops.comparison_owed")
    connection.execute(
        """
        UPDATE ops.stream_partition s SET generation = s.generation + 1, watermark = NULL, ended_at = NULL,
            next_offset = coalesce((p.positions #>> ARRAY['offsets', s.kafka_partition::text])::bigint, 0)
        FROM ops.stream_partition o LEFT JOIN ops.position p ON p.entity = o.entity
        WHERE (s.entity, s.kafka_partition) = (o.entity, o.kafka_partition)
        """
    )
    for table in registry.build_order:
        if table.windowed is None:
            continue
        for suffix in ("added", "late", "vanished"):
            name = f"ops.{table.name}_{suffix}"
            row = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
            if row and row[0]:
                connection.execute(
                    sql.SQL("DELETE FROM {}").format(sql.Identifier("ops", f"{table.name}_{suffix}"))
                )


def _drop_unknown(warehouse: Warehouse, ledger: Ledger, table: Table, done: Recovered) -> None:
    """Step 3 of a table's leaves."""
    connection = ledger.connection
    known = {
        table.leaf(partition)
        for (_, partition), state in ledger.states([table.name], with_files=False).items()
        if partition and state.published_at is not None
    }
    for leaf in sorted(apply.leaves(connection, table) - known):

        def work(leaf: str = leaf) -> None:
            apply.lock_for_swap(connection, table)
            connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(home(table), leaf)))

        with ledger.locked("publish", table.name):
            with_short_waits(warehouse, connection, BRIEF, work)
        done.dropped.setdefault(table.name, []).append(leaf)


def _load_leaf(
    warehouse: Warehouse,
    ledger: Ledger,
    lake: Lake,
    table: Table,
    state: PartitionState,
    fingerprints: Mapping[tuple[str, str], str],
) -> None:
    connection, leaf = ledger.connection, table.leaf(state.partition)
    with workshop(warehouse, connection, table) as shop, lake.duckdb() as session:
        rows = content(session, lake, table, state.files)
        is_there = leaf in apply.leaves(connection, table)
        if is_there:
            name = shop.load(leaf, "equal", rows)
        else:
            name = shop.stand_up(leaf, rows, state.partition) if state.files else ""

        def work() -> None:
            if is_there:
                windows = [state.partition]
                apply.make_equal(connection, table, shop.columns, name, windows, target=leaf)
            elif name:
                apply.attach(connection, table, state.partition, name)
            _note_loaded(ledger, [state], fingerprints)
            failpoint("recovery.loading")

        with ledger.locked("publish", table.name):
            with_short_waits(warehouse, connection, BRIEF, work)


def _load_whole(
    warehouse: Warehouse,
    ledger: Ledger,
    lake: Lake,
    whole: Sequence[tuple[Table, Sequence[PartitionState]]],
    registry: Registry,
    fingerprints: Mapping[tuple[str, str], str],
) -> None:
    """Tables that are changed by merge, together: rows of one refer to rows of another, and no order of the
    tables is right for all that can have come and gone. The references are made anew at the end.
    """
    connection = ledger.connection
    with ExitStack() as opened:
        standing = []
        for table, states in whole:
            shop = opened.enter_context(workshop(warehouse, connection, table))
            files = [file for state in states for file in state.files]
            with lake.duckdb() as session:
                name = shop.stand_up(table.name, content(session, lake, table, files), None)
            standing.append((table, states, shop, name))

        def work() -> None:
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
            keys = [statement for table, *_ in standing for statement in foreign_key_ddl(table, registry)]
            for statement in keys[::2]:  # each is dropped, then added
                connection.execute(statement.encode())
            for table, states, shop, name in standing:
                apply.make_equal(connection, table, shop.columns, name, [WHOLE])
                _note_loaded(ledger, states, fingerprints)
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for statement in keys[1::2]:
                connection.execute(statement.encode())
            failpoint("recovery.loading_whole")

        for table, *_ in standing:
            opened.enter_context(ledger.locked("publish", table.name))
        with_short_waits(warehouse, connection, BRIEF, work)


def _note_loaded(
    ledger: Ledger, states: Iterable[PartitionState], fingerprints: Mapping[tuple[str, str], str]
) -> None:
    """PostgreSQL holds the lake's content of these partitions now; in the caller's transaction."""
    with ledger.connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE ops.partition_state SET fingerprint = %s, version = version + 1 "
            "WHERE (table_name, partition) = (%s, %s)",
            [(fingerprints[state.table, state.partition], state.table, state.partition) for state in states],
        )
