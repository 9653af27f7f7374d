"""What sources have otherwise than they are declared, as it was found: `ops.schema_change`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import Connection

from flows.extract import SchemaChange


def enter(connection: Connection[Any], found: Iterable[SchemaChange]) -> None:
    """Enter changes, in the caller's transaction if there is one; what is there already stays as it is."""
    rows = [
        (
            change.change_id,
            change.table,
            change.column,
            change.change,
            list(change.before),
            list(change.after),
            change.contract,
            change.topic,
            change.kafka_offset,
            change.found_at,
        )
        for change in found
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into ops.schema_change (change_id, table_name, column_name, change, before, after, "
                "contract, topic, kafka_offset, found_at) "
                "values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
                rows,
            )
