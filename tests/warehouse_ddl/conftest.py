"""Real PostgreSQL servers, one per version that this machine has: the packaged 18, the distribution's 15."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from flows.sandbox import postgres
from warehouse_ddl.files import bootstrap

PACKAGED = postgres.packaged_binaries()
DISTRIBUTION = Path("/usr/lib/postgresql/15/bin")
VERSIONS = {"18": PACKAGED, "15": DISTRIBUTION} if DISTRIBUTION.exists() else {"18": PACKAGED}


@contextmanager
def _server(binaries: Path) -> Iterator[str]:
    """A server on loopback with a new data folder; gives its DSN and ends it."""
    folder = Path(tempfile.mkdtemp(prefix="ddl-"))
    place = postgres.home(folder, None)
    chosen = place.binaries if binaries == PACKAGED else binaries
    account = place.account
    user: dict[str, Any] = {}
    if account:
        user = {"user": account.uid, "group": account.gid, "extra_groups": []}
    data = place.data / "server"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(
        [chosen / "initdb", "-D", data, "-U", "admin", "-A", "trust", "-E", "UTF8", "--locale=C"],
        check=True,
        capture_output=True,
        cwd="/",
        **user,
    )
    options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    process = subprocess.Popen(
        [chosen / "postgres", "-D", data, *(f"--{key}={value}" for key, value in options.items())],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    dsn = f"host=127.0.0.1 port={port} user=admin dbname=postgres connect_timeout=5"
    try:
        for _ in range(200):
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.05)
        yield dsn
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
        if not place.data.is_relative_to(folder):
            shutil.rmtree(place.data.parent, ignore_errors=True)


@pytest.fixture(scope="session", params=list(VERSIONS), ids=lambda version: f"postgresql {version}")
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The DSN of a server; every test that asks runs once per version."""
    with _server(VERSIONS[request.param]) as dsn:
        yield dsn


@pytest.fixture
def database(server: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """A new database with schemas and roles made, the connection in autocommit."""
    name = f"t{abs(hash(request.node.nodeid))}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        with psycopg.connect(server, dbname=name, autocommit=True) as connection:
            for statement in bootstrap():
                connection.execute(statement.encode())
            yield connection
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
