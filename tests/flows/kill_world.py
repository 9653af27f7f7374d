"""A small company on real services, and warehouses that can be copied, killed in the middle and compared."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql

from flows.sandbox.world import lives
from tests.flows import kill_child
from tests.flows.extract.parts import fresh_database, kafka_broker, postgres_server
from tests.flows.kill_child import Place

ROOT = Path(__file__).parents[2]
SOURCES = (
    "raw_app__users",
    "raw_app__orders",
    "raw_events__user_events",
    "raw_events__clicks",
    "raw_stripe__charges",
)
MODELS = (
    *("dim_users", "dim_products", "dim_date", "dim_currencies", "dim_users_history"),
    *(
        "stg_app__users",
        "stg_app__orders",
        "stg_events__user_events",
        "stg_events__clicks",
        "stg_stripe__charges",
    ),
    *("fct_orders", "fct_events", "fct_payments"),
    *("mart_daily_metrics", "mart_daily_revenue", "mart_user_activity"),
)
"""Every way of building and publishing, and one source of each protocol."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.flows.kill_child"])


@dataclass(frozen=True)
class Stage:
    """What stands before a run: a warehouse (None: an empty one) and a lake to copy; and the run's place."""

    name: str
    place: Place
    database: str | None = None
    lake: Path | None = None


@dataclass
class KillWorld:
    """Sources that stand still while warehouses and lakes are made, copied, killed and compared."""

    server: str
    kafka_bootstrap: str
    apis_url: str
    folder: Path
    app_dsn: str
    now: str = ""
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10_000)))
    lock: threading.Lock = field(default_factory=threading.Lock)

    # ------------------------------------------------------------------------------------------- the world

    def create(
        self, *, days: int = 4, events_per_day: int = 500, users: int = 150, orders: int = 200
    ) -> None:
        """The company's first days."""
        made = lives.create(
            *(self.folder, self.app_dsn, self.kafka_bootstrap, self.folder / "apis.sqlite"),
            days=days,
            events_per_day=events_per_day,
            users=users,
            orders=orders,
        )
        self.now = made.end.isoformat()

    def advance(self) -> None:
        """One day more: new rows, changed and deleted ones, late ones."""
        lived = lives.advance(
            self.folder, self.app_dsn, self.kafka_bootstrap, self.folder / "apis.sqlite", days=1
        )
        self.now = lived.end.isoformat()

    def place(self, **more: Any) -> Place:
        """A new, empty warehouse and lake."""
        with self.lock:
            number = next(self.numbers)
        given = {"sources": SOURCES, "models": MODELS, **more}
        lake = str(self.folder / f"lake-{number}")
        return Place(
            *(self.app_dsn, fresh_database(self.server), self.kafka_bootstrap, self.apis_url, lake, self.now),
            **given,
        )

    def stage(self, name: str, stood: Place, **changes: Any) -> Stage:
        """What stands at a place, to be copied, and the run that is to follow there."""
        return Stage(
            name, replace(stood, **{"now": self.now, **changes}), stood.warehouse_dsn, Path(stood.lake)
        )

    def copy(self, stage: Stage) -> Place:
        """A place of its own with what the stage holds. Nobody may be connected to the stage's warehouse."""
        with self.lock:
            number = next(self.numbers)
            name = f"copy_{os.getpid()}_{number}"
            template = (
                psycopg.conninfo.conninfo_to_dict(stage.database)["dbname"] if stage.database else "template1"
            )
            with psycopg.connect(f"{self.server} dbname=postgres", autocommit=True) as connection:
                connection.execute(
                    sql.SQL("create database {} template {}").format(
                        sql.Identifier(name), sql.Identifier(str(template))
                    )
                )
        lake = self.folder / f"lake-{number}"
        if stage.lake is not None:
            shutil.copytree(stage.lake, lake)
        return replace(stage.place, warehouse_dsn=f"{self.server} dbname={name}", lake=str(lake))

    def remove(self, place: Place) -> None:
        """Free the disk."""
        shutil.rmtree(place.lake, ignore_errors=True)
        name = psycopg.conninfo.conninfo_to_dict(place.warehouse_dsn)["dbname"]
        with psycopg.connect(f"{self.server} dbname=postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(str(name))))


# ------------------------------------------------------------------------------------------------ running


def run(place: Place) -> None:
    """One ordinary run in a process of its own."""
    assert _exit_code(kill_child.play, place, f"run-{os.urandom(3).hex()}") == 0, (
        f"the run at {place.lake} failed"
    )


def count(place: Place) -> dict[str, int]:
    """One ordinary run; how often it passed each failpoint."""
    into = Path(f"{place.lake}-passed.json")
    assert _exit_code(kill_child.play_and_count, place, str(into)) == 0, f"the run at {place.lake} failed"
    passed: dict[str, int] = json.loads(into.read_text())
    return passed


def kill(place: Place, name: str, passes: int) -> bool:
    """One run that is to die at a failpoint; whether it did."""
    code = _exit_code(kill_child.play_and_die, place, name, passes)
    assert code in (0, -signal.SIGKILL), f"the run to be killed at {name} ended with {code}"
    return code == -signal.SIGKILL


def run_with(transforms: Path, place: Place, name: str = "") -> subprocess.CompletedProcess[str]:
    """A run with another copy of the package `transforms`, in a folder; dies at `name` if one is given."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.flows.kill_child",
            kill_child.as_json(place),
            f"{place.lake}-passed.json",
            name,
        ],
        cwd="/",
        env={**os.environ, "PYTHONPATH": f"{transforms}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _exit_code(target: Callable[..., None], *arguments: Any) -> int | None:
    child = _context.Process(target=target, args=arguments)
    child.start()
    child.join(240)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"{target.__name__}{arguments[1:]} did not end within 240 s")
    return child.exitcode


# --------------------------------------------------------------------------------------------- the parts


@contextmanager
def kill_world(folder: Path) -> Iterator[KillWorld]:
    """PostgreSQL, Kafka and the simulated APIs, and an application without tables."""
    with postgres_server(18) as server, kafka_broker() as bootstrap, _apis(folder) as url:
        yield KillWorld(server, bootstrap, url, folder, fresh_database(server))


@contextmanager
def _apis(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "flows.sandbox.apis", "--folder", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/healthz", trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, "the simulated APIs did not start"
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)
