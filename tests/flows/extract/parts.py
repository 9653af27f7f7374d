"""What the landing tests stand on: an application database, a warehouse, a lake and a broker, all real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from flows import landing
from flows.change_landing import land_changes
from flows.landing import Landing
from flows.sandbox import kafka, postgres, processes
from flows.sandbox.lifecycle import CACHE
from flows.sandbox.state import State
from flows.services import Services
from flows.settings import Settings
from tests.house import DEBIAN_15, Server
from transforms import changes
from transforms.contract import Column, Partition
from transforms.entities import Control, Postgres, SourceEntity

ORDERS = SourceEntity(
    source="app",
    name="orders",
    read=Postgres("orders", mode="incremental", cursor="updated_at", lookback=timedelta(minutes=10)),
    key=("id",),
    grain="one row per read version of an order",
    columns=(
        Column("id", "bigint"),
        Column("amount", "decimal(10, 2)"),
        Column("currency", "varchar"),
        Column("created_at", "timestamptz"),
        Column("updated_at", "timestamptz"),
    ),
    partition=Partition("created_at", "month"),
    control=Control(by="created_at", amount="amount", group="currency"),
)
ORDERS_DDL = """
create table orders (
    id bigint primary key, amount numeric(10, 2), currency text, created_at timestamptz default now(),
    updated_at timestamptz default now()
)
"""
ORDERS_COLUMNS = ["id", "amount", "currency"]


@contextmanager
def postgres_server(version: int) -> Iterator[str]:
    """A server with a data folder of its own; gives a DSN without a database."""
    folder = Path(tempfile.mkdtemp(prefix="extract-pg-"))
    place = postgres.home(folder, None)
    binaries = place.binaries if version == 18 else DEBIAN_15
    account = place.account
    user: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    data = place.data / "server"
    port = processes.free_port()
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
        check=True,
        capture_output=True,
        cwd="/",
        **user,
    )
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "timezone": "UTC",
        "max_prepared_transactions": 2,
        "wal_level": "logical",
    }
    process = subprocess.Popen(
        [binaries / "postgres", "-D", data, *(f"--{key}={value}" for key, value in settings.items())],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    dsn = f"host=127.0.0.1 port={port} user=tester"
    try:
        for _ in range(200):
            try:
                psycopg.connect(f"{dsn} dbname=postgres", connect_timeout=2).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.05)
        yield dsn
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
        if place.data.exists():
            shutil.rmtree(place.data.parent if place.data.name == "data" else place.data, ignore_errors=True)


class Broker:
    """A real broker of one test, to be killed and started again with its data."""

    def __init__(self) -> None:
        self._state = State(Path(tempfile.mkdtemp(prefix="extract-kafka-")), secret="test")
        self._port = processes.free_port()
        self.bootstrap = f"127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = kafka.start(self._state, CACHE, self._port, lambda _: None)
        is_ready = kafka.ready(self._port)
        deadline = time.monotonic() + 90
        while not is_ready():
            assert time.monotonic() < deadline, kafka.log(self._state).read_text()[-2000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL."""
        processes.end(self._process, [(signal.SIGKILL, 10.0)])

    def stop(self) -> None:
        """SIGTERM: it says goodbye and closes its log."""
        processes.end(self._process, [(signal.SIGTERM, 30.0)])

    def end(self) -> None:
        """Kill it, and remove its data."""
        self.kill()
        shutil.rmtree(self._state.folder, ignore_errors=True)


@contextmanager
def kafka_broker() -> Iterator[str]:
    """One real broker; gives its address."""
    broker = Broker()
    try:
        yield broker.bootstrap
    finally:
        broker.end()


def fresh_database(server: str) -> str:
    """The DSN of a new, empty database."""
    name = f"t_{os.urandom(4).hex()}"
    with psycopg.connect(f"{server} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return f"{server} dbname={name}"


@dataclass
class World:
    """An application database, a warehouse and a lake; `land` lands an entity between them."""

    app_dsn: str
    warehouse_dsn: str
    lake: Path
    kafka_bootstrap: str = "127.0.0.1:1"
    runs: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, server: Server, folder: Path, **settings: Any) -> World:
        """Empty parts on one server."""
        return cls(server.empty(), server.database(), folder / "lake", settings=settings)

    def services(self) -> Services:
        """Services over these parts, nothing taken from the environment."""
        return Services(
            Settings(
                _env_file=None,
                app_dsn=self.app_dsn,
                warehouse_dsn=self.warehouse_dsn,
                kafka_bootstrap=self.kafka_bootstrap,
                lake=self.lake,
                **{**dict.fromkeys(("stripe_url", "sendgrid_url"), "http://127.0.0.1:1"), **self.settings},
            )
        )

    def land(self, entity: SourceEntity, **options: Any) -> Landing | None:
        """Land what is new."""
        self.runs += 1
        services = self.services()
        try:
            if isinstance(entity.read, Postgres) and entity.read.mode == "cdc":
                # Whoever writes the topics here is no connector.
                options = {"is_watched": False, **options}
                return land_changes(services, [entity], f"run-{self.runs}", **options).of(entity)
            return landing.land(services, entity, f"run-{self.runs}", **options)
        finally:
            services.lake.close()

    def land_rows(self, entity: SourceEntity, **options: Any) -> int:
        """Land what is new; returns how many rows that was."""
        landing = self.land(entity, **options)
        return 0 if landing is None else landing.rows

    def app(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in the application's database; returns the last one's rows."""
        with psycopg.connect(self.app_dsn, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def warehouse(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the warehouse."""
        with psycopg.connect(self.warehouse_dsn, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def raw(self, entity: SourceEntity, query: str = "select * from raw") -> list[tuple[Any, ...]]:
        """Ask what stands in the lake of one entity, as `raw`."""
        services = self.services()
        with services.ledger() as ledger, duckdb.connect() as connection:
            files = ledger.files(entity.table)
            if not files:
                return []
            connection.execute("set TimeZone = 'UTC'")
            connection.register("raw", services.lake.read(connection, files))
            return connection.execute(query).fetchall()

    def seen(self, entity: SourceEntity, query: str) -> list[tuple[Any, ...]]:
        """Ask what a model sees of one entity, as `raw`."""
        services = self.services()
        with services.ledger() as ledger, duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            files = ledger.files(entity.table)
            services.lake.read(connection, files).create_view("files")
            present = connection.table("files").columns
            text = changes.typed(entity, "from files", present)
            return connection.execute(f"with raw as ({text}) {query}").fetchall()

    def live(self, entity: SourceEntity, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """The newest landed version of each key that is not deleted, sorted: what staging sees."""
        keys = ", ".join(entity.key)
        return self.raw(
            entity,
            f"select {', '.join(columns)} from (select *, row_number() over (partition by {keys} "
            "order by _landed_at desc, _seq desc) as newest from raw) "
            "where newest = 1 and _op = 'r' order by all",
        )


def orders_of(world: World) -> list[tuple[object, ...]]:
    """ORDERS_COLUMNS of the orders that the application has."""
    return world.app(f"select {', '.join(ORDERS_COLUMNS)} from orders order by 1, 2, 3")
