"""Connections to one PostgreSQL, kept for whoever needs one next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from threading import Lock
from typing import Any
from weakref import finalize

import orjson
import psycopg
import stamina
from adbc_driver_manager import Error as AdbcError
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads

from flows.logins import has_no_place
from flows.stores import poolers, roles
from flows.stores.lending import EVERY_SECONDS, Lending
from quality import session_settings

_PLACE_SECONDS = 60.0
"""How long a server that has no place for another session is asked again: runs beside ours end theirs."""
_AS_NEW = "SELECT pg_advisory_unlock_all(); CLOSE ALL; RESET ALL; DISCARD TEMP; DISCARD SEQUENCES"
"""What makes a session one that nobody has used, but for its prepared statements, of which psycopg knows."""


class Connections:
    """psycopg connections in autocommit, in UTC; safe to share between threads.

    As many are kept as were ever used at once. A run of the batch needs one two hundred times, and to open
    one is 9 ms of work for both sides.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._resting: deque[Connection[Any]] = deque()
        self._lending = Lending(_cancel)
        self._is_known = False
        """Whether it was asked who serves at this address."""
        self._again = ""
        """Sets again what RESET takes away; to ask what there is to set is a millisecond each time."""
        finalize(self, _close, self._resting)

    @contextmanager
    def one(self) -> Iterator[Connection[Any]]:
        """A connection for this block alone. What is left in its session (locks, settings, temporary tables)
        ends with the block; after an error, or within a transaction, so does the connection. Raises Stopped
        after `stop`, Pooled where sessions are lent out by the transaction.
        """
        connection = self._rested() or self._new()
        try:
            with self._lending.lent(connection):
                yield connection
        except BaseException:
            connection.close()
            raise
        self._rest(connection)

    def stop(self) -> None:
        """Lend none any more, and cancel what runs in those that are lent: see `Lending.stop`."""
        self._lending.stop()

    def _new(self) -> Connection[Any]:
        connection = self._open()
        if not self._is_known:
            try:
                poolers.refuse(connection, self._open)
            except BaseException:
                connection.close()
                raise
            self._is_known = True
        set_json_loads(orjson.loads, connection)  # states of thousands of partitions are JSON
        settings = connection.execute(session_settings.whole().encode(), prepare=False).fetchall()
        calls = (f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in settings)
        self._again = f"SELECT {', '.join(calls)}"
        roles.act(connection)
        return connection

    def _open(self) -> Connection[Any]:
        connection: Connection[Any] = opened(lambda: psycopg.connect(self._dsn, autocommit=True))
        return connection

    def _rest(self, connection: Connection[Any]) -> None:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.close()
            return
        try:
            # A statement prepared before a table got another column would not run after it.
            connection._prepared.clear()
            connection.execute(f"{_AS_NEW}; {self._again}".encode(), prepare=False)
        except psycopg.Error:
            connection.close()  # the server is gone; what the block did is done
            return
        self._resting.append(connection)

    def _rested(self) -> Connection[Any] | None:
        """One of an earlier block whose server is still there, or None."""
        while True:
            try:
                connection = self._resting.pop()
            except IndexError:
                return None
            try:
                connection.execute("SELECT 1", prepare=False)
            except psycopg.Error:
                connection.close()
            else:
                return connection


class AdbcSessions:
    """ADBC sessions with one PostgreSQL; safe to share between threads.

    ADBC reads the type catalog first, in which every column of every table and leaf stands: 1.3 s where there
    are 4,000 leaves. The first session that is opened reads it, and the others share it (11 ms). Types that
    are made later are unknown to them: no column that is read or written has one.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._database: Any = None
        self._opening = Lock()

    def open(self, *, autocommit: bool) -> Any:
        """A new session, as a DBAPI connection; whoever opens it closes it."""
        with self._opening:
            if self._database is None:
                self._database = self._with_types()
            return _session(self._database, autocommit=autocommit)

    def _with_types(self) -> Any:
        """The database, with its types. Where names are quoted for this login, types are not found by theirs,
        and nothing can be set before they are read but with the address: a pooler may refuse that, so it
        stands there only where it has to.
        """
        import adbc_driver_postgresql  # brings pandas: 1 s that only a COPY should cost

        database = opened(lambda: adbc_driver_postgresql.connect(self._dsn))
        with closing(_session(database, autocommit=True)) as session, closing(session.cursor()) as cursor:
            cursor.execute(session_settings.QUOTES_NAMES)
            if not cursor.fetchall():
                return database
        given = conninfo_to_dict(self._dsn).get("options") or ""
        unquoted = make_conninfo(self._dsn, options=f"{given} {session_settings.UNQUOTED}".strip())
        return opened(lambda: adbc_driver_postgresql.connect(unquoted))


@lru_cache(maxsize=8)
def adbc_sessions(dsn: str) -> AdbcSessions:
    """The ADBC sessions of this process with a database."""
    return AdbcSessions(dsn)


def _session(database: Any, *, autocommit: bool) -> Any:
    from adbc_driver_manager import AdbcConnection, dbapi

    session = opened(lambda: AdbcConnection(database))
    return dbapi.Connection(_Shared(), session, autocommit=autocommit)  # type: ignore[arg-type]


class _Shared:
    """What a session is given as its database: it closes that, and others go on with it."""

    def close(self) -> None:
        """Nothing: it is freed with the last session."""


def opened(connect: Callable[[], Any]) -> Any:
    """A new session; waits for one while the server has as many as it takes."""
    for attempt in stamina.retry_context(
        on=_has_no_place, attempts=None, timeout=_PLACE_SECONDS, wait_initial=0.1, wait_max=2.0
    ):
        with attempt:
            return connect()
    raise AssertionError("a retry ends with a result or an error")


def _has_no_place(error: Exception) -> bool:
    return isinstance(error, (psycopg.OperationalError, AdbcError, OSError)) and has_no_place(str(error))


def _cancel(connection: Connection[Any]) -> None:
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=EVERY_SECONDS)


def _close(connections: deque[Connection[Any]]) -> None:
    while connections:
        connections.pop().close()
