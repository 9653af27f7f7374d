"""What the application counts and sums itself: the accuracy rule compares it with what is published."""

from __future__ import annotations

from decimal import Decimal

from psycopg import sql

from flows.extract import ControlTotal
from flows.extract.postgres_session import Snapshot
from transforms.entities import SourceEntity


def control_totals(
    snapshot: Snapshot, entity: SourceEntity, table: sql.Identifier, problem: sql.Composable
) -> list[ControlTotal]:
    """What the source counts and sums itself, over exactly the rows that can be landed: those for which
    `problem` (see `postgres_types.problem`) is null. Empty without a declared control.
    """
    control = entity.control
    if control is None:
        return []
    query = sql.SQL(
        "select ({by} at time zone 'UTC')::date, coalesce({group}::text, ''), count(*), "
        "coalesce(sum({amount}), 0) from {table} where ({problem}) is null group by 1, 2 order by 1, 2"
    ).format(
        by=sql.Identifier(control.by),
        group=sql.Identifier(control.group) if control.group else sql.SQL("''"),
        amount=sql.Identifier(control.amount),
        table=table,
        problem=problem,
    )
    return [
        ControlTotal(day, group, int(count), Decimal(amount))
        for day, group, count, amount in snapshot.rows(query)
    ]
