"""Warehouses with all tables and no rows, to be had by the dozen: what properties are tried on."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.house import Server

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Warehouses:
    """Copies of one database, each with a lake of its own, at one instant of the world (NOW)."""

    server: Server
    template: str
    folder: Path

    @classmethod
    def build(cls, server: Server, folder: Path) -> Warehouses:
        """Make the database that is copied."""
        server.database()
        made = cls(server, "bootstrapped", folder)
        place = made.place()
        kill_child.play(place)
        return replace(made, template=str(conninfo_to_dict(place.warehouse_dsn)["dbname"]))

    def place(self, *models: str) -> Place:
        """A warehouse and a lake in which only these models are built."""
        return Place(
            app_dsn="host=127.0.0.1 port=1",
            warehouse_dsn=self.server.empty(self.template),
            kafka_bootstrap="127.0.0.1:1",
            apis_url="http://127.0.0.1:1",
            lake=str(self.folder / secrets.token_hex(4)),
            now=NOW.isoformat(),
            sources=(),
            models=models,
        )

    @contextmanager
    def lent(self, *models: str) -> Iterator[Place]:
        """A `place` for as long as the block lasts."""
        place = self.place(*models)
        yield place
        self.drop(place)

    def drop(self, place: Place) -> None:
        """Give the disk back."""
        name = conninfo_to_dict(place.warehouse_dsn)["dbname"]
        with psycopg.connect(self.server.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'drop database "{name}" with (force)'.encode())
