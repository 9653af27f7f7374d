"""A warehouse server of a test's own: a copy of a server's files holds all that is on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flows import sandbox
from flows.sandbox import Part, postgres, processes
from flows.services import Services
from tests.flows.recovery.conftest import filled
from tests.flows.streaming.topics import until
from tests.house import Server

_SETTINGS = {"shared_buffers": "64MB", "min_wal_size": "80MB", "fsync": "off"}


@contextmanager
def own_server() -> Iterator[Server]:
    """The sandbox's warehouse, in a folder of its own that PostgreSQL's user can reach; removed after it."""
    folder = Path(tempfile.mkdtemp(prefix="physical-"))
    with mock.patch.dict(postgres.INSTANCES[Part.WAREHOUSE_POSTGRES].settings, _SETTINGS):
        try:
            state = sandbox.start(folder / "sandbox", frozenset({Part.WAREHOUSE_POSTGRES}))
            assert state.warehouse_dsn is not None
            yield Server(18, state.warehouse_dsn)
        finally:
            sandbox.reset(folder / "sandbox")
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def warehouse_on(server: Server, folder: Path) -> Iterator[Services]:
    """A warehouse on it, gone afterwards: every copy has all that is on the server."""
    dsn = server.database()
    with filled(dsn, folder) as services:
        yield services
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        name = conninfo_to_dict(dsn)["dbname"]
        connection.execute(f'drop database "{name}" with (force)'.encode())


@contextmanager
def started(restored: Path, dsn: str) -> Iterator[str]:
    """A server on a data folder that came back; gives what `dsn` is on it. The folder goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="restored-"))
    home = postgres.home(folder, None)
    data = Path(shutil.move(restored, home.data / "restored"))
    if home.account:
        for path in [data, *data.rglob("*")]:
            os.chown(path, home.account.uid, home.account.gid)
    port = processes.free_port()
    process = subprocess.Popen(
        [home.binaries / "postgres", "-D", data, "-c", f"port={port}"],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=home.account.uid if home.account else None,
        group=home.account.gid if home.account else None,
        extra_groups=[] if home.account else None,
    )
    there = make_conninfo(dsn, port=port)

    def answers() -> bool:
        assert process.poll() is None, "PostgreSQL ended while it was starting on what was restored"
        try:
            psycopg.connect(there, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        until(answers, seconds=60)
        yield there
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)
        postgres.remove(folder)
        shutil.rmtree(folder, ignore_errors=True)
