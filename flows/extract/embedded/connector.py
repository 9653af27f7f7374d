"""The embedded engine where Kafka Connect would be: a configuration, a state, and how far it has read.

It runs only while somebody reads: a landing of changes reads the source's log to its end, for every table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from psycopg import Connection

from flows.extract import SourceError
from flows.extract.application import answering
from flows.extract.connect import ConnectorState, TaskState
from flows.extract.debezium import Names
from flows.extract.debezium_observed import REGISTRATION, forgotten, observe_source
from flows.extract.embedded import topics
from flows.extract.embedded.capture import Reading, drop_slot
from flows.extract.embedded.engine import installed
from flows.settings import Settings
from transforms.entities import Postgres

# Of Kafka's producer there is none; and what was read, only we tell the source.
_OWN = {"lsn.flush.mode": "manual", "slot.max.retries": "3", "slot.retry.delay.ms": "2000"}
_OF_KAFKA = ("producer.override.", "exactly.once.")
_PASSWORD = "database.password"


class Embedded:
    """The capture that the warehouse keeps, as a context manager; it answers as `connect.Connect` does.

    Every method raises SourceAway when the warehouse or the source does not answer.
    """

    title = "Debezium's engine"

    def __init__(self, settings: Settings, names: Names) -> None:
        self._settings = settings
        self._names = names

    def __enter__(self) -> Embedded:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def version(self) -> str:
        """Which engine this is. Raises SourceError where it is not installed."""
        return installed()

    def configuration(self, name: str) -> dict[str, str] | None:
        """Its configuration; None where nothing is registered."""
        kept = self._kept(name)
        if kept is None:
            return None
        return kept.configuration | {k: v for k, v in _database(self._settings).items() if k == _PASSWORD}

    def configure(self, name: str, configuration: Mapping[str, str]) -> None:
        """Change its configuration."""
        with topics.opened(self._settings) as warehouse:
            topics.configure(warehouse, name, _without_secrets(configuration))

    def begin(self, name: str, configuration: Mapping[str, str]) -> None:
        """Keep a capture that has read nothing, and read every table whole."""
        installed()
        with topics.opened(self._settings) as warehouse:
            topics.begin(warehouse, name, _without_secrets(configuration))
        self.read()

    def state(self, name: str) -> ConnectorState | None:
        """Running, unless somebody paused it, or its first reading did not come to an end (stopped)."""
        kept = self._kept(name)
        if kept is None:
            return None
        state = TaskState("STOPPED" if kept.position is None else kept.state.upper())
        return ConnectorState(state, (state,) if state.state != "STOPPED" else ())

    def offsets(self, name: str) -> list[Any]:
        """Where it goes on; empty where it has read nothing."""
        kept = self._kept(name)
        return [kept.position] if kept is not None and kept.position is not None else []

    def pause(self, name: str) -> None:
        """Read nothing until `resume`."""
        self._set_state(name, "paused")

    def stop(self, name: str) -> None:
        """The same, for a change of configuration."""
        self._set_state(name, "stopped")

    def resume(self, name: str) -> None:
        """Go on; a first reading that was interrupted is done again."""
        self._set_state(name, "running")
        if not self.offsets(name):
            self.read()

    def wait_running(self, name: str) -> ConnectorState:
        """Its state."""
        state = self.state(name)
        if state is None:
            raise SourceError("Nothing is registered: python -m flows cdc register")
        return state

    def delete(self, name: str) -> None:
        """Remove it and how far it has read."""
        with self._alone() as warehouse:
            topics.forget(warehouse, name)

    def read(self) -> None:
        """Read the source's log to its present end; nothing while it is paused.

        Raises SourceError, with what to do, where changes may have been lost.
        """
        names = self._names
        with self._alone() as warehouse:
            kept = topics.load(warehouse, names.connector)
            if kept is None or kept.state != "running":
                return
            seen = self._seen_before(kept)
            topics.drop_landed(warehouse)
            given = {**kept.configuration, **_database(self._settings), **_OWN}
            properties = {name: given[name] for name in given if not name.startswith(_OF_KAFKA)}
            Reading(self._settings, names, warehouse, kept, properties, seen).run()

    def _seen_before(self, kept: topics.Kept) -> dict[str, Any]:
        """Look at the source; it must be the one that was read before."""
        from flows.cdc.configuration import captured_tables
        from flows.extract.debezium_guard import marks_of, of_source

        names = self._names
        reads = [
            Postgres(table, mode="cdc", schema=schema)
            for schema, _, table in (place.partition(".") for place in captured_tables(kept.configuration))
        ]
        with answering(self._settings) as dsn:
            seen = observe_source(
                dsn, names, reads, kept.configuration.get(REGISTRATION), self.state(names.connector)
            )
            if kept.position is None:
                drop_slot(dsn, names.slot)
            else:
                missing = forgotten(dsn, names, marks_of([kept.seen]))
                if reason := of_source(seen, kept.seen, missing):
                    raise SourceError(f"The application's changes are not read: {reason}.")
        return seen.facts()

    def _kept(self, name: str) -> topics.Kept | None:
        with topics.opened(self._settings) as warehouse:
            return topics.load(warehouse, name)

    def _set_state(self, name: str, state: str) -> None:
        with self._alone() as warehouse:
            topics.set_state(warehouse, name, state)

    @contextmanager
    def _alone(self) -> Iterator[Connection[Any]]:
        """The warehouse, while nobody else reads for this connector."""
        from flows.stores.ledger import Ledger

        with (
            topics.opened(self._settings) as warehouse,
            Ledger(warehouse).locked("capture", self._names.connector),
        ):
            yield warehouse


def _without_secrets(configuration: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in configuration.items() if name != _PASSWORD}


def _database(settings: Settings) -> dict[str, str]:
    from flows.cdc.configuration import database

    return database(settings.require("app_dsn"))
