"""Whether the change topics hold everything up to a place in the source's log."""

from __future__ import annotations

import time

import psycopg
from psycopg import sql

from flows.extract import debezium
from flows.extract.debezium_observed import answering, lsn_number, lsn_text
from flows.settings import Settings

_PAUSE_SECONDS = 0.05
_CONFIRMED = (
    "select active and confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
)


def end_of_log(settings: Settings) -> int:
    """The present end of the source's log: whoever can be seen there has committed before it.

    Raises SourceAway.
    """
    with (
        answering(settings) as dsn,
        psycopg.connect(dsn, connect_timeout=10, autocommit=True) as connection,
    ):
        row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return lsn_number(row[0])


def caught_up(settings: Settings, lsn: int, seconds: float) -> bool:
    """Wait until the connector has handed on whatever was committed before `lsn`; whether it has in time.

    A slot confirms what the broker has acknowledged, of every topic and of the tables' first read too, and no
    more; what is seen in one topic says nothing of another. How soon it confirms is up to Connect's
    `offset.flush.interval.ms`. Without Kafka nobody hands on: whoever lands reads the log to its end first.
    Raises SourceAway.
    """
    if settings.cdc_engine == "embedded":
        return True
    names = debezium.names(settings)
    deadline = time.monotonic() + seconds
    with (
        answering(settings) as dsn,
        psycopg.connect(dsn, connect_timeout=10, autocommit=True) as connection,
    ):
        _beat(connection, names)
        while True:
            row = connection.execute(_CONFIRMED.encode(), (lsn_text(lsn), names.slot)).fetchone()
            if row is not None and row[0]:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)


def _beat(connection: psycopg.Connection[tuple[object, ...]], names: debezium.Names) -> None:
    """A heartbeat, so that there is something to confirm; where this role may not write one, or there is no
    table for it, the connector's own comes within seconds."""
    insert = sql.SQL("insert into {} default values")
    try:
        connection.execute(insert.format(sql.Identifier(*names.heartbeat.split("."))))
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.errors.UndefinedTable,
        psycopg.errors.InvalidSchemaName,
    ):
        return
