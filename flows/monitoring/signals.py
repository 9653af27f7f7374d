"""Every signal there is: what it is, how bad it can be, what to do. Docs, runbook and portal list these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flows.monitoring import agreement, arrivals, content, freshness, recovery, storage, streams
from flows.monitoring.verdict import Verdict
from flows.monitoring.watch import Watch


@dataclass(frozen=True)
class Signal:
    """`severity` is the worst that it says; `action` is what to do where a verdict says nothing closer."""

    name: str
    about: str
    severity: str
    action: str
    measure: Callable[[Watch], Iterable[Verdict]]
    needs_warehouse: bool = True


SIGNALS: tuple[Signal, ...] = (
    Signal(
        storage.WAREHOUSE,
        "Seconds that the warehouse takes to answer; while it does not, nothing else is known of it.",
        "critical",
        "Start PostgreSQL, or correct ANALYTICS_WAREHOUSE_DSN: python -m flows doctor",
        storage.warehouse,
    ),
    Signal(
        freshness.FRESHNESS,
        "Each source (`source:raw_…`) and published table: seconds since it was due and not done, against "
        "its declared freshness (an hour where none is declared; a minute for what a stream takes in).",
        "critical",
        "See why in the last run's failures (python -m flows, or ops.run), mend it, run again.",
        freshness.freshness,
    ),
    Signal(
        freshness.MISSING,
        "Each deployment with a schedule that is on: seconds since it was to start and nobody did its work. "
        "The batch where no schedule starts it: seconds since it was to be run again, a day after the last "
        "time.",
        "critical",
        "See whether a worker runs (prefect worker start --pool NAME) and the schedule is on.",
        freshness.missing_runs,
    ),
    Signal(
        content.ROWS,
        "Each published table: rows of the newest whole day, and of each hour, against the same weekday (and "
        "hour) of eight weeks.",
        "warning",
        "Look at what landed that day (python -m flows lake); if the source sent it so, it is well.",
        content.row_counts,
    ),
    Signal(
        content.NULLS,
        "Each published column that may be null: the share of nulls on the newest whole day, against weeks "
        "before.",
        "warning",
        "Ask who writes the column at the source; python -m flows lake shows its rows.",
        content.null_rates,
    ),
    Signal(
        content.DRIFT,
        "Each published column of few values, and each amount: how far its distribution is from the usual "
        "one.",
        "warning",
        "Compare the days in ops.partition_profile; ask the source whether the change is meant.",
        content.distributions,
    ),
    Signal(
        arrivals.COPIES,
        "Each topic: the share of its records that are copies or can't be read. Each published table: rows "
        "that share their key.",
        "critical",
        "Ask the producer whether it sends again; copies are left out, so readers do not see them.",
        arrivals.duplicates,
    ),
    Signal(
        agreement.SCHEMA,
        "Each source and published table: columns, leaves and models that are otherwise than declared.",
        "critical",
        "python -m flows schema diff for sources; python -m flows for the warehouse.",
        agreement.schema_drift,
    ),
    Signal(
        arrivals.LETTERS,
        "Each source: records of the last 24 hours that could not be read, as a share of what arrived.",
        "critical",
        "python -m flows dlq list",
        arrivals.dead_letters,
    ),
    Signal(
        agreement.RECONCILIATION,
        "Each rule between two tables, or a table and what its source counts, as it was judged last; torn "
        "transactions.",
        "critical",
        "python -m flows check TABLE (or --stream) shows the rule; check --source compares key by key.",
        agreement.reconciliation,
    ),
    Signal(
        streams.LAG,
        "Each kind of stream: messages that wait for it, or seconds since it last said that it lives.",
        "warning",
        "python -m flows stream",
        streams.lag,
    ),
    Signal(
        streams.LATENCY,
        "Each kind of stream: seconds from the broker, or the source's commit, until a row is seen (p99).",
        "warning",
        "See what else the machine does.",
        streams.latency,
    ),
    Signal(
        storage.WAL,
        "The replication slot: bytes of WAL that the application's PostgreSQL keeps for it.",
        "critical",
        "python -m flows cdc status",
        storage.kept_wal,
    ),
    Signal(
        storage.DISK,
        "The lake's disk: the share that is free.",
        "critical",
        "Make room, or move the lake: what a run can't write it does not commit, nothing is lost.",
        storage.disk,
        needs_warehouse=False,
    ),
    Signal(
        storage.BLOAT,
        "The warehouse's tables: the share of dead rows in the worst of them.",
        "warning",
        "vacuum analyze",
        storage.bloat,
    ),
    Signal(
        recovery.BACKUP,
        "The warehouse: seconds since the newest backup, where the deployment that takes them is on.",
        "warning",
        "python -m flows backup",
        recovery.backups,
    ),
    Signal(
        recovery.DRILL,
        "The warehouse: whether the last rehearsal of a restore led to what was live, and how long ago.",
        "critical",
        "python -m flows restore --verify",
        recovery.drills,
    ),
)
"""In the order in which they are shown."""

BY_NAME = {signal.name: signal for signal in SIGNALS}
