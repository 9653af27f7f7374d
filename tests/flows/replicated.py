"""A PostgreSQL 18 and a standby of it that takes its replication slots along, for one test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from flows.sandbox import postgres, processes
from tests.flows.streaming.topics import until
from tests.house import FASTER, Server

_SETTINGS = {**postgres.COMMON, **FASTER, "shared_buffers": "64MB"}
_STANDBY_SLOT = "standby"


@dataclass
class Pair:
    """The primary and the standby; each is a `Server`."""

    folder: Path
    primary: Server = field(init=False)
    standby: Server = field(init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._home = postgres.home(self.folder, None)
        initialize = ("-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        done = postgres._as(
            self._home.account, self._home.binaries / "initdb", "-D", self._data("primary"), *initialize
        )
        assert done.returncode == 0, done.stderr
        self.primary = self._start("primary", {"synchronized_standby_slots": _STANDBY_SLOT})
        # The slots that the primary waits for have to be there before it sends anything.
        with psycopg.connect(self.primary.dsn("postgres"), autocommit=True) as connection:
            connection.execute("select pg_create_physical_replication_slot(%s, true)", (_STANDBY_SLOT,))
        address = self.primary.dsn("postgres")
        subprocess.run(
            [
                *(postgres.packaged_binaries() / "pg_basebackup", "-d", address, "-S", _STANDBY_SLOT),
                *("-D", self._data("standby"), "-c", "fast", "-R", "-X", "stream"),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        if self._home.account:
            for path in [self._data("standby"), *self._data("standby").rglob("*")]:
                os.chown(path, self._home.account.uid, self._home.account.gid, follow_symlinks=False)
        wanted = {"sync_replication_slots": "on", "hot_standby_feedback": "on"}
        self.standby = self._start("standby", {**wanted, "primary_slot_name": _STANDBY_SLOT})

    def has_slot(self, slot: str) -> bool:
        """Whether the standby has this slot in a state that survives a failover."""
        query = "select synced and not temporary from pg_replication_slots where slot_name = %s"
        with psycopg.connect(self.standby.dsn("postgres"), autocommit=True) as connection:
            row = connection.execute(query.encode(), (slot,)).fetchone()
        return bool(row and row[0])

    def fail_over(self) -> None:
        """The primary is gone at once, the standby takes over. It has all that was committed: what a standby
        did not get is no part of the source any more, and nobody's loss but its own.
        """
        with psycopg.connect(self.primary.dsn("postgres"), autocommit=True) as connection:
            (end,) = connection.execute("select pg_current_wal_flush_lsn()::text").fetchone() or ("",)
        until(lambda: self._has_got(end), seconds=60)
        self._end("primary")
        with psycopg.connect(self.standby.dsn("postgres"), autocommit=True) as connection:
            assert connection.execute("select pg_promote(true, 60)").fetchone() == (True,)

    def _has_got(self, lsn: str) -> bool:
        with psycopg.connect(self.standby.dsn("postgres"), autocommit=True) as connection:
            row = connection.execute("select pg_last_wal_receive_lsn() >= %s::pg_lsn", (lsn,)).fetchone()
        return bool(row and row[0])

    def end(self) -> None:
        """End both."""
        for name in list(self._processes):
            self._end(name)

    def _data(self, name: str) -> Path:
        return self._home.data / name

    def _start(self, name: str, settings: dict[str, str]) -> Server:
        port = processes.free_port()
        given = {**_SETTINGS, **settings, "port": port}
        options = [part for key, value in given.items() for part in ("-c", f"{key}={value}")]
        account = self._home.account
        self._processes[name] = subprocess.Popen(
            [self._home.binaries / "postgres", "-D", self._data(name), *options],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        server = Server(18, f"host=127.0.0.1 port={port} user=tester")

        def answers() -> bool:
            assert self._processes[name].poll() is None, f"the {name} ended while it was starting"
            try:
                psycopg.connect(server.dsn("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        until(answers, seconds=60)
        return server

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)


@contextmanager
def pair() -> Iterator[Pair]:
    """Both, running; removed afterwards."""
    # Not below the test's own folder: PostgreSQL's user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="replicated-"))
    made: Pair | None = None
    try:
        made = Pair(folder)
        yield made
    finally:
        if made is not None:
            made.end()
        postgres.remove(folder)
        shutil.rmtree(folder, ignore_errors=True)
