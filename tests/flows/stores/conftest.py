"""Real PostgreSQL servers for the stores: 18 from the package, 15 where it is installed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from flows.sandbox.postgres import packaged_binaries
from flows.stores.lake import Lake
from flows.stores.warehouse import Warehouse
from warehouse_ddl.files import bootstrap

_DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


@dataclass
class Server:
    """One running PostgreSQL and how to reach it."""

    version: int
    port: int
    process: subprocess.Popen[bytes]

    def dsn(self, database: str = "postgres") -> str:
        return f"host=127.0.0.1 port={self.port} user=tester dbname={database}"

    def database(self) -> str:
        """A fresh database with schemas and ops tables; returns its DSN."""
        name = f"t_{secrets.token_hex(4)}"
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        with psycopg.connect(self.dsn(name), autocommit=True) as connection:
            for statement in bootstrap():
                connection.execute(statement.encode())
        return self.dsn(name)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[int, Server]]:
    """The servers that were asked for in this session, by version."""
    started: dict[int, Server] = {}
    folders: list[Path] = []
    yield _Servers(started, folders)  # type: ignore[misc]
    for server in started.values():
        server.process.send_signal(3)
        server.process.wait(timeout=30)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


class _Servers(dict[int, Server]):
    def __init__(self, started: dict[int, Server], folders: list[Path]) -> None:
        super().__init__()
        self.started, self.folders = started, folders

    def __missing__(self, version: int) -> Server:
        if version not in self.started:
            binaries = packaged_binaries() if version == 18 else _DEBIAN_15
            if not (binaries / "postgres").exists():
                pytest.skip(f"PostgreSQL {version} is not installed here")
            folder = Path(tempfile.mkdtemp(prefix="stores-pg-", dir="/tmp"))
            self.folders.append(folder)
            self.started[version] = _start(version, binaries, folder)
        return self.started[version]


def _start(version: int, binaries: Path, folder: Path) -> Server:
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, user, -1)
    data = folder / "data"
    run = {"user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
        check=True,
        **run,  # type: ignore[call-overload]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "timezone": "UTC",
        "fsync": "off",
        "shared_buffers": "512MB",
        "max_wal_size": "8GB",
        "max_locks_per_transaction": "512",
        "jit": "off",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = subprocess.Popen([binaries / "postgres", "-D", data, *options], **run)  # type: ignore[call-overload]
    server = Server(version, port, process)
    for _ in range(200):
        try:
            psycopg.connect(server.dsn(), connect_timeout=1).close()
            return server
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError(f"PostgreSQL {version} did not start")


@pytest.fixture
def dsn(servers: dict[int, Server]) -> str:
    """A fresh database of PostgreSQL 18 with schemas and ops tables."""
    return servers[18].database()


@pytest.fixture(params=[18, 15])
def any_dsn(servers: dict[int, Server], request: pytest.FixtureRequest) -> str:
    """The same, on both versions."""
    return servers[request.param].database()


@pytest.fixture
def warehouse(dsn: str) -> Warehouse:
    return Warehouse(dsn)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake(tmp_path / "lake") as lake:
        yield lake
