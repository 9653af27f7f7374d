"""The real parts that a test run stands on: started once, when first asked for, and ended with the run.

The processes of one run share them, each with databases, topics and folders of its own. What a process cannot
share, since it has no names to keep tests apart by, is its own: the simulated services and PostgreSQL 15.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import flows.sandbox as sandbox
from flows.http_client import client
from flows.sandbox import Part, State, kafka, postgres, processes
from tests import memory
from warehouse_ddl.files import bootstrap

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
HAS_15 = (DEBIAN_15 / "postgres").exists()
VERSIONS = [18, 15] if HAS_15 or os.environ.get("CI") else [18]
"""Where continuous integration runs, 15 must be there: asking for it fails, it is not skipped."""
EACH_VERSION = [
    pytest.param(version, id=f"postgresql {version}", marks=() if version == 18 else pytest.mark.full)
    for version in VERSIONS
]
"""What is tried on each of them: `make test` asks the newest, `make test-full` the others too."""

# A test's data need not survive a power cut; the kill tests end processes, never the machine.
# Whoever reads changes needs them in the log.
FASTER = {"wal_level": "logical", "fsync": "off", "full_page_writes": "off", "max_prepared_transactions": "4"}
# The generated company asks when it was committed.
FASTER["track_commit_timestamp"] = "on"
# Connections of a test that is over live until Python looks for what refers to itself.
FASTER["max_connections"] = "500"
# A worker's snapshot keeps what a test has just frozen from being so. And each of a run's hundreds of
# databases would be looked at every minute.
FASTER["autovacuum"] = "off"
# Brokers and Connect live for minutes: the compiler that makes faster code later takes a third of their time.
kafka.ENVIRONMENT["JDK_JAVA_OPTIONS"] = "-XX:TieredStopAtLevel=1"
_POSTGRES = {Part.APP_POSTGRES, Part.WAREHOUSE_POSTGRES}

_lent: list[tuple[str, str]] = []
"""Server and name of the databases that tests of the present module have."""


@dataclass
class Server:
    """A running PostgreSQL and databases on it."""

    version: int
    address: str
    """A DSN; which database it names does not matter."""
    _templates: set[str] = field(default_factory=set, repr=False)

    def dsn(self, database: str) -> str:
        """The DSN of one of its databases."""
        return make_conninfo(self.address, dbname=database)

    def empty(self, template: str = "template1", *, is_kept: bool = False) -> str:
        """The DSN of a new database, empty or a copy of `template`, from which everybody is sent away.

        It goes with the tests of the module, unless it `is_kept` for those of others.
        """
        name = f"t_{secrets.token_hex(5)}"
        if not is_kept:
            _lent.append((self.dsn("postgres"), name))
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (template,)
            )
            connection.execute(f'create database "{name}" template "{template}"'.encode())
        return self.dsn(name)

    def database(self) -> str:
        """The DSN of a new database with the warehouse's schemas, roles and ops tables."""
        return self.copy("bootstrapped", _lay)

    def copy(self, template: str, fill: Callable[[str], None]) -> str:
        """The DSN of a new database, a copy of `template`, which is filled when it is first asked for."""
        if template not in self._templates:
            self._make(template, fill)
            self._templates.add(template)
        return self.empty(template)

    def _make(self, template: str, fill: Callable[[str], None]) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            # Until it is disconnected, no other process of this run makes one.
            connection.execute("select pg_advisory_lock(hashtext(%s))", (template,))
            query = "select from pg_database where datname = %s"
            if connection.execute(query, (template,)).fetchone() is not None:
                return
            made = self.empty(is_kept=True)
            fill(made)
            name = conninfo_to_dict(made)["dbname"]
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,)
            )
            # From here on there is one, and it is whole.
            connection.execute(f'alter database "{name}" rename to {template}'.encode())


def _lay(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in bootstrap():
            connection.execute(statement.encode())


class House:
    """One sandbox for the whole test run, part by part; beside it what each process that runs tests has of
    its own: the distribution's PostgreSQL 15 and the simulated services.
    """

    def __init__(self, folder: Path, process: str) -> None:
        self.folder = folder
        """The sandbox's, which the processes of this run share."""
        self._own = folder.with_name(process)
        self._started: set[Part] = set()
        self._servers: dict[int, Server] = {}
        self._ends: list[Any] = []

    def parts(self, *parts: Part) -> State:
        """The sandbox's state with these parts running. The worker comes with the Prefect server."""
        if missing := frozenset(parts) - self._started:
            with _faster_parts():
                sandbox.start(self.folder, missing)
            self._started |= missing
        state = sandbox.read(self.folder)
        assert state is not None
        return state

    def kill(self, part: Part) -> None:
        """SIGKILL a part; `flows.sandbox.start` brings it back."""
        running = self.parts(part).parts[part]
        assert running.process is not None
        processes.end(running.process, [(signal.SIGKILL, 10.0)])

    def server(self, version: int = 18) -> Server:
        """A PostgreSQL of this version, the same one for every test."""
        if version not in self._servers:
            if version == 18:
                address = self.parts(*_POSTGRES).warehouse_dsn
                assert address is not None
                _derive_once(address)
                self._servers[18] = Server(18, address)
            else:
                self._servers[version] = self._start_15()
        return self._servers[version]

    @property
    def kafka(self) -> str:
        """The broker's address. The world has its topics; a test makes others, with names of theirs."""
        bootstrap = self.parts(Part.KAFKA).kafka_bootstrap
        assert bootstrap is not None
        return bootstrap

    @property
    def connect(self) -> str:
        """Kafka Connect's address, beside the broker. A test's connectors, slots and topics have names of
        theirs.
        """
        url = self.parts(Part.CONNECT).connect_url
        assert url is not None
        return url

    def apis(self) -> State:
        """A sandbox of this process, of which the simulated Stripe and SendGrid run and nothing else. The
        world has its own.
        """
        return sandbox.start(self._own / "apis", frozenset({Part.APIS}))

    def _start_15(self) -> Server:
        if not HAS_15:
            pytest.fail(f"PostgreSQL 15 must be installed where CI is set: {DEBIAN_15} is not there")
        folder = Path(tempfile.mkdtemp(prefix="postgres-15-", dir=memory.folder()))
        account = postgres._unprivileged() if os.geteuid() == 0 else None
        user = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        data, port = folder / "data", processes.free_port()
        if account:
            os.chown(folder, account.uid, account.gid)
        common = {"cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
        initialize = [
            DEBIAN_15 / "initdb",
            "-D",
            data,
            "-U",
            "tester",
            "-A",
            "trust",
            "-EUTF8",
            "--locale=C",
            "-N",
        ]
        subprocess.run(initialize, check=True, **common)  # type: ignore[call-overload]
        settings = {**postgres.COMMON, **FASTER, "port": port, "shared_buffers": "256MB"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        process = subprocess.Popen([DEBIAN_15 / "postgres", "-D", data, *options], **common)  # type: ignore[call-overload]
        self._ends.append((process, folder))
        server = Server(15, f"host=127.0.0.1 port={port} user=tester")
        for _ in range(400):
            try:
                psycopg.connect(server.dsn("postgres"), connect_timeout=2).close()
                return server
            except psycopg.OperationalError:
                assert process.poll() is None, "PostgreSQL 15 ended while it was starting"
                time.sleep(0.05)
        raise AssertionError("PostgreSQL 15 did not start")

    def leave(self) -> None:
        """End what is this process's own, and remove it: files last, nobody waits for long."""
        _end(self._own / "apis")
        for process, _ in self._ends:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=30)
        for _, folder in self._ends:
            shutil.rmtree(folder, ignore_errors=True)

    def end(self) -> None:
        """End what all processes shared, once they have left, and remove it."""
        _end(self.folder)


def _derive_once(address: str) -> None:
    """A password is derived once to be proved, not 4,096 times: it is 128 bits of chance, and tests connect
    some ten thousand times.
    """
    given = conninfo_to_dict(address)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtext('password'))")
        connection.execute("set scram_iterations = 1")
        secret = sql.SQL("alter role {} password {}")
        connection.execute(secret.format(sql.Identifier(str(given["user"])), str(given["password"])))


def give_back() -> None:
    """Drop the databases that tests of a module had. What somebody still holds stays until the run ends."""
    for server, name in _lent:
        with suppress(psycopg.Error), psycopg.connect(server, autocommit=True) as connection:
            slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s"
            connection.execute(slots, (name,))
            connection.execute(f'drop database if exists "{name}" with (force)'.encode())
    _lent.clear()


def behave(url: str) -> None:
    """Take every fault and every rate limit off the simulated services at this address."""
    with client(url, seconds=10) as control:
        control.delete("/_control/faults").raise_for_status()
        generous = {"requests": 100_000, "seconds": 1}
        limits = {"stripe": generous, "sendgrid": generous}
        control.put("/_control/limits", json=limits).raise_for_status()


def ask_prefect(server: httpx.Client, method: str, path: str, body: Any, seconds: float = 90) -> Any:
    """What a Prefect server answers. Its database has one writer: a busy one says 503, and Prefect's own
    client asks again, too; or it says nothing for a while.
    """
    deadline, busy = time.monotonic() + seconds, httpx.codes.SERVICE_UNAVAILABLE
    while (answer := server.request(method, path, json=body, timeout=seconds)).status_code == busy:
        assert time.monotonic() < deadline, answer.text
        time.sleep(1)
    return answer.raise_for_status().json() if answer.content else None


def _end(folder: Path) -> None:
    state = sandbox.read(folder)
    for part, running in state.parts.items() if state else ():
        if running.process and part is Part.PREFECT_WORKER:
            processes.end_group(running.process, 1)
        elif running.process:
            # Nothing has to be kept; PostgreSQL's way to end at once also frees its shared memory.
            at_once = signal.SIGQUIT if part in _POSTGRES else signal.SIGKILL
            processes.end(running.process, [(at_once, 20.0), (signal.SIGKILL, 5.0)])
    # Another process of this run may have found room in memory where this one did not.
    with mock.patch.object(postgres, "OUTSIDE", [memory.SHARED, *postgres.OUTSIDE]):
        sandbox.reset(folder)


@contextmanager
def _faster_parts() -> Iterator[None]:
    """The sandbox's own settings and places are about keeping data; what a test run has is thrown away at its
    end.
    """
    instances = [postgres.INSTANCES[part].settings for part in _POSTGRES]
    in_memory = [folder] if (folder := memory.folder()) else []
    with (
        mock.patch.dict(instances[0], FASTER),
        mock.patch.dict(instances[1], FASTER),
        mock.patch.object(postgres, "OUTSIDE", [*in_memory, *postgres.OUTSIDE]),
    ):
        yield
