"""Warehouses with all tables and no rows, to be had by the dozen: what properties are tried on."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg.conninfo import conninfo_to_dict

from flows import prepare
from flows.progress import Progress
from flows.services import Services
from flows.settings import Settings
from tests.flows.kill_child import Place
from tests.house import Server

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


def with_tables(server: Server) -> str:
    """The DSN of a new warehouse in which every table is, and no row."""
    return server.copy("with_tables", _make_tables)


def _make_tables(dsn: str) -> None:
    with TemporaryDirectory() as lake:
        services = Services(Settings(_env_file=None, warehouse_dsn=dsn, lake=lake))
        with services.lake:
            prepare.warehouse(services, False, Progress("test", io.StringIO()))


@dataclass(frozen=True)
class Warehouses:
    """Such warehouses, each with a lake of its own, at one instant of the world (NOW)."""

    server: Server
    folder: Path

    def place(self, *models: str) -> Place:
        """A warehouse and a lake in which only these models are built."""
        return Place(
            app_dsn="host=127.0.0.1 port=1",
            warehouse_dsn=with_tables(self.server),
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
