"""A PostgreSQL of one test whose changes can be read: it can be stopped, copied while it is, and put back."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from flows.sandbox import postgres, processes
from tests.house import DEBIAN_15


class SourceServer:
    """A server with a data folder of its own. `dsn` names its database `postgres`."""

    def __init__(self, version: int, **settings: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="source-pg-"))
        self._place = postgres.home(self._folder, None)
        self._binaries = self._place.binaries if version == 18 else DEBIAN_15
        account = self._place.account
        user = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        self._common: dict[str, Any] = {
            "cwd": "/",
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            **user,
        }
        self._data = self._place.data / "source"
        self._settings = {
            "port": str(processes.free_port()),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "wal_level": "logical",
            **settings,
        }
        options = ["-U", "tester", "-A", "trust", "-EUTF8", "--locale=C", "-N"]
        initialize: list[str | Path] = [self._binaries / "initdb", "-D", self._data, *options]
        subprocess.run(initialize, check=True, **self._common)
        self._process: subprocess.Popen[bytes] | None = None
        self.dsn = f"host=127.0.0.1 port={self._settings['port']} user=tester dbname=postgres"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes queries."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [self._binaries / "postgres", "-D", self._data, *options], **self._common
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        """Fast shutdown."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=30)

    def back_up(self) -> None:
        """Keep a copy of everything as it is now."""
        self.stop()
        # As the server's user, so that the copy is its own.
        subprocess.run(["cp", "-a", self._data, f"{self._data}.backup"], check=True, **self._common)
        self.start()

    def restore(self) -> None:
        """Put the copy in the place of what is there."""
        self.stop()
        shutil.rmtree(self._data)
        Path(f"{self._data}.backup").rename(self._data)
        self.start()

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements; the last one's rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def end(self) -> None:
        """End it, and remove its data."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)
        postgres.remove(self._folder)


@contextmanager
def source_server(version: int, **settings: str) -> Iterator[SourceServer]:
    """A server that ends with the block."""
    server = SourceServer(version, **settings)
    try:
        yield server
    finally:
        server.end()
