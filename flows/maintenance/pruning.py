"""What ops keeps of the past, and for how long: runs, checks, verdicts and messages would grow for ever."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import Connection, sql

_AT_ONCE = 10_000


@dataclass(frozen=True)
class Kept:
    """A table of ops whose rows go once `column` is older than `days`; `but` names rows that stay."""

    table: str
    column: str
    days: int
    but: LiteralString = "false"


HISTORY = (
    # A row per rule, partition and run: what grows fastest. Budgets look back 30 days.
    Kept("check_result", "checked_at", 90),
    Kept("run", "started_at", 400, but="finished_at IS NULL"),
    Kept("health_span", "until", 400),
    Kept("partition_profile", "day", 400),
    # Its messages go with an incident; one that is open has no end yet.
    Kept("incident", "resolved_at", 400),
    Kept("notification", "created_at", 400, but="sent_at IS NULL"),
    # One that died is told until another goes on in its place.
    Kept("stream_progress", "reported_at", 7, but="ended_at IS NULL"),
    Kept("backup", "taken_at", 400),
    Kept("physical_backup", "taken_at", 400),
    Kept("drill", "started_at", 400),
)
"""The ledger, dead letters and schema changes are no history: what is made of them needs them."""


def prune(connection: Connection[Any], now: datetime) -> dict[str, int]:
    """Delete what is older than declared; table → rows. A few thousand at a time, so that nobody waits."""
    pruned: dict[str, int] = {}
    for kept in HISTORY:
        table = sql.Identifier("ops", kept.table)
        statement = sql.SQL(
            "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} "
            "WHERE {column} < %s AND NOT ({but}) LIMIT {count}))"
        ).format(
            table=table,
            column=sql.Identifier(kept.column),
            but=sql.SQL(kept.but),
            count=sql.Literal(_AT_ONCE),
        )
        before = now - timedelta(days=kept.days)
        while rows := connection.execute(statement, (before,)).rowcount:
            pruned[kept.table] = pruned.get(kept.table, 0) + rows
    return pruned
