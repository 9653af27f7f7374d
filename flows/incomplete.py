"""Transactions of the application that did not arrive whole: `ops.incomplete_transaction`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import Connection

from flows.extract import Incomplete
from flows.settings import Settings
from transforms.entities import SourceEntity


def enter(connection: Connection[Any], settings: Settings, found: Iterable[Incomplete]) -> None:
    """Note them, in the caller's transaction if there is one; what is there already stays as it is."""
    now = settings.now()
    rows = [(settings.cdc_prefix, one.transaction, one.letter_id, one.reason, now) for one in found]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into ops.incomplete_transaction (prefix, transaction, letter_id, reason, found_at) "
                "values (%s, %s, %s, %s, %s) on conflict do nothing",
                rows,
            )


def still(connection: Connection[Any]) -> list[str]:
    """One sentence for each transaction that is not whole yet: a letter that was replayed makes it whole."""
    rows = connection.execute(
        "select i.prefix, i.transaction, i.reason, i.letter_id from ops.incomplete_transaction i "
        "left join ops.dead_letter d using (letter_id) where coalesce(d.status, 'waiting') = 'waiting' "
        "order by i.found_at, 1, 2"
    ).fetchall()
    return [
        f"transaction {transaction} of {prefix} did not arrive whole: {reason}"
        + (f"; python -m flows dlq show {letter}" if letter else "; python -m flows check --source")
        for prefix, transaction, reason, letter in rows
    ]


def settle(connection: Connection[Any], whole: Iterable[SourceEntity]) -> None:
    """The application's tables were found equal to the lake's: a transaction is whole if it lacks no letter,
    or one of these tables, in which there is nothing that can't be held any more.
    """
    connection.execute(
        "delete from ops.incomplete_transaction i where letter_id = '' "
        "or exists (select from ops.dead_letter d where d.letter_id = i.letter_id "
        "and d.source || '.' || d.entity = any(%s))",
        ([f"{entity.source}.{entity.name}" for entity in whole],),
    )
