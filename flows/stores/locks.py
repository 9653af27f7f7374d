"""Waiting for locks without making anybody wait: short tries, and the name of who is in the way."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString, TypeVar

from psycopg import Connection, errors
from psycopg.pq import TransactionStatus

from flows.errors import FlowsError
from flows.stores.manifest import Commit
from flows.stores.warehouse import Warehouse

Result = TypeVar("Result")

PATIENT = (25, 50, 100, 200, 400, 800, 800, 800)
"""Milliseconds a try waits for a lock nobody queues behind; always under deadlock_timeout (1 s)."""
BRIEF = (25, 50, 100, 150, 150, 150, 150, 150, 150, 150)
"""The same for ACCESS EXCLUSIVE: readers queue behind the wait, so it stays below what a person feels."""
DUMP_LOCK = ("dump", "warehouse")
"""What a backup holds (`Ledger.locked`) while a snapshot of it is open."""
DRILL_LOCK = ("drill", "warehouse")
"""What a drill holds (`Ledger.is_ours`) as long as it lives."""
_LOOK_EVERY_SECONDS = 0.01


class Blocked(FlowsError):
    """Another session's lock or snapshot stayed in the way; `by` says whose."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


def with_short_waits(
    warehouse: Warehouse,
    connection: Connection[Any],
    waits: tuple[int, ...],
    work: Callable[[], Result],
) -> Result:
    """Run `work` in a transaction whose locks are waited for only shortly; try again with other pauses.

    Where nobody but autovacuum was in the way it is sent away first (`_send_away`). Raises Blocked, with who
    it was, when every try found a lock in the way; nothing of `work` remains then.
    """
    holder, vacuumed = "", ""
    for number, wait in enumerate(waits):
        seen = _Seen()
        try:
            is_part = connection.info.transaction_status is not TransactionStatus.IDLE
            with _watched(warehouse, connection, number > 0) as seen, connection.transaction():
                if vacuumed:
                    _send_away(connection, vacuumed)
                connection.execute(f"SET LOCAL lock_timeout = '{int(wait)}ms'".encode())
                result = work()
                if is_part:  # the rest of that transaction waits as it did before
                    connection.execute("SET LOCAL lock_timeout TO DEFAULT")
                return result
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            holder, vacuumed = seen.blockers[-1] if seen.blockers else holder, seen.vacuumed
            time.sleep(random.uniform(0.05, 0.15))
    raise Blocked(holder or "a session that could not be seen")


def refuse_while_dumped(connection: Connection[Any]) -> None:
    """Called in a transaction before it takes a table away from readers: until it ends no backup begins.

    A dump holds a lock on every table, and what it has not read yet must stay as it is. Raises Blocked while
    a backup is being taken, before any lock is asked for: readers would queue behind that.
    """
    key = ":".join(DUMP_LOCK)
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0))", (key,)
    ).fetchone()
    if not (row and row[0]):
        raise Blocked("the backup that is being taken")


def remember(connection: Connection[Any], commits: Sequence[Commit], blocked: Blocked) -> None:
    """Note which publishes wait, and for whom: the next run completes them."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO ops.pending_publish (table_name, partition, token, blocked_by) "
            "VALUES (%s, %s, %s, %s) ON CONFLICT (table_name, partition) DO UPDATE "
            "SET token = excluded.token, blocked_by = excluded.blocked_by",
            [(commit.table, commit.partition, commit.token, blocked.by) for commit in commits],
        )


def forget(
    connection: Connection[Any], table: str, partitions: Sequence[str], consumed_by: str | None = None
) -> None:
    """Note that these partitions wait for nobody: they are as they are to be. In the caller's transaction.

    `consumed_by`: a model of the table that has shown all there is upstream. Then nothing of it waits but
    what another model made, which is due by itself.
    """
    connection.execute(
        """
        DELETE FROM ops.pending_publish AS waits
        WHERE table_name = %(table)s AND (partition = ANY(%(partitions)s) OR %(model)s::text IS NOT NULL
            AND NOT EXISTS (SELECT FROM ops.partition_state AS state WHERE state.fingerprint <> %(model)s
                AND (state.table_name, state.partition) = (waits.table_name, waits.partition)))
        """,
        {"table": table, "partitions": list(partitions), "model": consumed_by},
    )


def is_anybodys(connection: Connection[Any], purpose: str, name: str) -> bool:
    """Whether a session holds the lock of one thing (`Ledger.locked`); looks without touching it."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND (classid::bigint << 32) | objid::bigint = hashtextextended(%s, 0))",
        (f"{purpose}:{name}",),
    ).fetchone()
    return bool(row and row[0])


def _send_away(connection: Connection[Any], relation: str) -> None:
    """Have PostgreSQL cancel the autovacuum of a table, in the caller's transaction, which keeps others away.

    It does so for whom an autovacuum made wait as long as `deadlock_timeout`, which is longer than readers
    may queue behind us. The lock that is waited for here lets them read and write. An autovacuum that keeps
    transaction numbers from running out is not canceled; psycopg.errors.LockNotAvailable is raised then.
    """
    connection.execute(
        "SELECT set_config('lock_timeout', (2 * setting::int + 1000)::text, true) FROM pg_settings "
        "WHERE name = 'deadlock_timeout'"
    )
    connection.execute(f"LOCK TABLE ONLY {relation} IN SHARE UPDATE EXCLUSIVE MODE".encode())


@dataclass
class _Seen:
    """Who blocked a session, one line each, and the table that nobody but autovacuum kept from it."""

    blockers: list[str] = field(default_factory=list)
    vacuumed: str = ""


@contextmanager
def _watched(warehouse: Warehouse, connection: Connection[Any], is_needed: bool) -> Iterator[_Seen]:
    """Note who blocks `connection` while the block runs; looked at from a second connection."""
    seen = _Seen()
    if not is_needed:
        yield seen
        return
    done = threading.Event()
    pid = connection.info.backend_pid

    def look() -> None:
        with warehouse.connect() as other:
            while not done.wait(_LOOK_EVERY_SECONDS):
                if found := blockers(other, pid):
                    seen.blockers += found
                    seen.vacuumed = _vacuumed(other, pid)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join(timeout=5)


def blockers(connection: Connection[Any], pid: int) -> list[str]:
    """Who keeps the session `pid` waiting, one line each, ready to be shown. Holds no query text."""
    return _sessions(connection, "pid = ANY(pg_blocking_pids(%s)) ORDER BY xact_start", pid)


def _vacuumed(connection: Connection[Any], pid: int) -> str:
    """The table, as SQL names it, that nobody but autovacuum keeps from the session `pid`; '' for none."""
    row = connection.execute(
        "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_locks l "
        "JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE l.pid = %(pid)s AND NOT l.granted AND c.relkind IN ('r', 'p') AND (SELECT "
        "bool_and(backend_type = 'autovacuum worker') FROM pg_stat_activity "
        "WHERE pid = ANY(pg_blocking_pids(%(pid)s)))",
        {"pid": pid},
    ).fetchone()
    return row[0] if row else ""


def holders(connection: Connection[Any], modes: Sequence[str]) -> list[str]:
    """Who holds a lock of one of these modes on a table of this database, the oldest first, one line each;
    ready to be shown.
    """
    return _sessions(
        connection,
        "pid IN (SELECT pid FROM pg_locks WHERE granted AND relation >= 16384 AND mode = ANY(%s) "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND pid <> pg_backend_pid()) ORDER BY xact_start",
        list(modes),
    )


def oldest_snapshot(connection: Connection[Any]) -> str:
    """Whose snapshot keeps rows from being frozen; ready to be shown. Those of other databases keep none."""
    held = _sessions(
        connection,
        "backend_xmin IS NOT NULL AND pid <> %s "
        "AND coalesce(datname, current_database()) = current_database() "
        "ORDER BY age(backend_xmin) DESC LIMIT 1",
        connection.info.backend_pid,
    )
    return f"the snapshot of {held[0]}," if held else "an old snapshot (a prepared transaction or a slot)"


def _sessions(connection: Connection[Any], condition: LiteralString, value: object) -> list[str]:
    rows = connection.execute(
        """
        SELECT format('session %%s of %%s (%%s), %%s for %%s s', pid, coalesce(usename, backend_type),
            coalesce(nullif(application_name, ''), 'no application name'), coalesce(state, 'running'),
            coalesce(extract(epoch from clock_timestamp() - coalesce(xact_start, query_start))::int, 0))
        FROM pg_stat_activity WHERE
        """
        + condition,
        (value,),
    ).fetchall()
    return [row[0] for row in rows]
