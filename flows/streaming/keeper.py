"""The keeper of windowed counts: of all streams the one that merges what they add, and tells the topic."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

from psycopg import Connection

from flows.extract import SourceAway
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.streaming import windows
from flows.streaming.outbox import Emitter
from flows.streaming.route import Route, whole_route
from transforms.contract import Table


class Keeper:
    """Merges and emits, if nobody else does. For one thread; holds a session of PostgreSQL.

    A count has one writer at a time: the lock is this session's, and whoever is first has it until it ends.
    """

    def __init__(self, services: Services, route: Route) -> None:
        self._services = services
        self._route = route
        self._opened = ExitStack()
        self._connection: Connection[Any] = self._opened.enter_context(services.warehouse.connect())
        self._kept: set[str] = set()
        self._emitters: dict[str, Emitter] = {}
        self._merged = 0
        for table in route.windows:
            windows.prepare(self._connection, table)

    def close(self) -> None:
        """Let somebody else be the keeper."""
        for emitter in self._emitters.values():
            emitter.close()
        self._opened.close()

    def keep(self) -> int:
        """Merge what was added since the last time and send the revisions; returns their number.

        Raises WarehouseError or SourceAway; this keeper is of no use then. What was merged is not lost: its
        messages wait in the outbox.
        """
        return sum(self._keep(table) for table in self._route.windows if self._is_kept(table))

    def _keep(self, table: Table) -> int:
        assert table.windowed is not None
        entity = self._route.counted(table).table
        revisions = windows.merge(self._connection, table, entity, self._services.settings.world_time)
        self._merged += revisions
        if self._merged >= windows.VACUUM_AFTER:
            windows.vacuum(self._connection, table)
            self._merged = 0
        self._emit(table.windowed.topic)
        return revisions

    def _emit(self, topic: str) -> None:
        """An emitter is made when there first is something to send: that takes the broker some time."""
        if topic not in self._emitters:
            row = self._connection.execute(
                "SELECT EXISTS (SELECT FROM ops.outbox WHERE topic = %s)", (topic,)
            ).fetchone()
            if not (row and row[0]):
                return
            settings = self._services.settings
            bootstrap = settings.require("kafka_bootstrap")
            self._emitters[topic] = Emitter(bootstrap, settings.kafka_options, self._route.group, topic)
        self._emitters[topic].emit(self._connection)

    def _is_kept(self, table: Table) -> bool:
        if table.name not in self._kept and Ledger(self._connection).is_ours("keep", table.name):
            self._kept.add(table.name)
        return table.name in self._kept


def keep_once(services: Services, way: Route | None = None) -> str:
    """Merge and emit what waits, if no stream does; '' or why the topic has to wait. Where no stream ever
    counted there is nothing to do.

    `way` is that of the declared topics if none is given.
    """
    with services.warehouse.connect() as connection:
        if connection.execute("SELECT 1 FROM ops.stream_partition LIMIT 1").fetchone() is None:
            return ""
    way = way or whole_route()
    if way is None:
        return ""
    with closing(Keeper(services, way)) as keeper:
        try:
            keeper.keep()
        except SourceAway as away:
            return str(away)
    return ""
