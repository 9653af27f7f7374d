"""DuckDB engines of a lake, kept for the next computation: to start one takes longer than most of them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import duckdb
from duckdb import DuckDBPyConnection

from flows.stores.lending import Lending
from flows.terminal import is_ctrl_c
from transforms import engine

_MOST_KEPT = 4
"""Idle engines: one has a few megabytes and a waiting thread for each core but one."""
_numbers = itertools.count(1)


class Engines:
    """Hands each computation an engine that nobody else has meanwhile; safe to share between threads."""

    def __init__(self, memory_limit: str | None, spill: Path) -> None:
        """`memory_limit` ('2GB') is of one computation; more goes to the folder `spill`."""
        self._memory_limit = memory_limit
        self._spill = spill
        self._idle: list[DuckDBPyConnection] = []
        self._lending = Lending(_interrupt)
        self._changing = Lock()

    @contextmanager
    def session(self, *, keeps_order: bool) -> Iterator[DuckDBPyConnection]:
        """A session in UTC. Whatever gets a name in it, temporary or not, goes with it, and so does its
        memory.

        A setting that it changes would stay. An engine whose session failed is not used again: nobody knows
        what state it is in. Raises KeyboardInterrupt where a signal has stopped a statement, Stopped after
        `stop`.
        """
        connection = self._take()
        try:
            name = f"session_{next(_numbers)}"
            with connection.cursor() as cursor:
                order = f"set preserve_insertion_order = {str(keeps_order).lower()}"
                cursor.execute(f"attach ':memory:' as {name}; use {name}; {order}")
                with self._lending.lent(cursor):
                    yield cursor
            connection.execute(f"detach {name}")
            # What was freed goes back to the system only when the limit is set.
            connection.execute("set memory_limit = ?", [self._memory_limit])
        except BaseException as error:
            _free(connection)
            if is_ctrl_c(error):
                raise KeyboardInterrupt from None
            raise
        with self._changing:
            self._idle.append(connection)
            surplus = [self._idle.pop(0)] if len(self._idle) > _MOST_KEPT else []
        for connection in surplus:
            _free(connection)

    def stop(self) -> None:
        """Lend none any more, and interrupt what those compute that are lent: see `Lending.stop`."""
        self._lending.stop()

    def close(self) -> None:
        """Free the idle engines. One that computes now is idle afterwards."""
        with self._changing:
            idle, self._idle = self._idle, []
        for connection in idle:
            _free(connection)

    def _take(self) -> DuckDBPyConnection:
        with self._changing:
            if self._idle:
                return self._idle.pop()
        connection = engine.connect(memory_limit=self._memory_limit, temp_directory=self._spill)
        if self._memory_limit is None:
            (self._memory_limit,) = connection.execute("select current_setting('memory_limit')").fetchall()[0]
        return connection


def _free(connection: DuckDBPyConnection) -> None:
    # After a Ctrl-C a thread may still be at work with it; it goes with the process then.
    with contextlib.suppress(duckdb.Error):
        connection.close()


def _interrupt(session: DuckDBPyConnection) -> None:
    session.interrupt()
