"""Whether the change topics hold everything up to a place in the source's log."""

from __future__ import annotations

import time
from contextlib import closing

import psycopg
from psycopg import sql

from flows.extract import debezium
from flows.extract.application import answering
from flows.extract.debezium_observed import lsn_text
from flows.settings import Settings

_PAUSE_SECONDS = 0.05
_SESSION = "select active_pid from pg_replication_slots where slot_name = %s"
_CONFIRMED = (
    "select active and confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
)


def caught_up(settings: Settings, lsn: int, seconds: float) -> bool:
    """Wait until the connector has handed on whatever was committed before `lsn`; whether it has in time.

    Without Kafka nobody hands on: whoever lands reads the log to its end first. Raises SourceAway.
    """
    if settings.cdc_engine == "embedded":
        return True
    deadline = time.monotonic() + seconds
    with closing(CatchingUp(settings)) as connector:
        connector.goes_to(lsn)
        while not connector.is_there():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
    return True


class CatchingUp:
    """A connector on its way to a place in the source's log. Close it.

    A slot confirms what the broker has acknowledged, of every topic and of the tables' first read too, and no
    more; what is seen in one topic says nothing of another. How soon it confirms is up to Connect's
    `offset.flush.interval.ms`. Everything raises SourceAway.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = debezium.names(settings)
        self._lsn = ""
        self._session: object = None
        with answering(settings) as dsn:
            self._connection = psycopg.connect(dsn, connect_timeout=10, autocommit=True)

    def close(self) -> None:
        """Ask no more."""
        self._connection.close()

    def goes_to(self, lsn: int | None = None) -> None:
        """Ask of this place from now on; None: of the end that the log has now. Whoever can be seen at the
        source has committed before it.
        """
        with answering(self._settings):
            _beat(self._connection, self._names)
            end = "select pg_current_wal_insert_lsn()::text"
            self._lsn = str(self._value(end)) if lsn is None else lsn_text(lsn)

    def is_there(self) -> bool:
        """Whether it has handed on whatever was committed before."""
        with answering(self._settings):
            return bool(self._value(_CONFIRMED, self._lsn, self._names.slot))

    def has_slot(self) -> bool:
        """Whether it has begun: what it reads is of a place behind the one its slot was made at."""
        with answering(self._settings):
            query = "select exists (select 1 from pg_replication_slots where slot_name = %s)"
            return bool(self._value(query, self._names.slot))

    def has_read_tables(self) -> bool:
        """Whether it has handed on its first read of the tables. Ask again and again.

        Its session at the source begins behind that read, and confirms at once where that stood, though
        records of it are still on their way: so a place counts that was taken in this very session.
        """
        before = self._session
        if not self.streams() or self._session != before:
            return False
        return self.is_there()

    def streams(self) -> bool:
        """Whether it has a session at the source, which it begins when it has read the tables. Each new one
        goes to the end that the log has then.
        """
        with answering(self._settings):
            session = self._value(_SESSION, self._names.slot)
        if session is not None and session != self._session:
            self.goes_to()
        self._session = session
        return session is not None

    def _value(self, query: str, *values: object) -> object:
        row = self._connection.execute(query.encode(), values).fetchone()
        return row[0] if row is not None else None


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
