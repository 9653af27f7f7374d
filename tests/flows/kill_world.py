"""A small company on real services, and warehouses that can be copied, killed in the middle and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

import flows.sandbox as sandbox
from flows.sandbox import Part, State
from flows.sandbox.world import lives
from tests import children
from tests.broker import make_topics
from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.house import Server

ROOT = Path(__file__).parents[2]
_SESSIONS = (
    "select 1 from pg_stat_activity "
    "where datname = current_database() and application_name = 'user-analytics'"
)
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

    server: Server
    state: State
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
            *self._sources(),
            days=days,
            events_per_day=events_per_day,
            users=users,
            orders=orders,
        )
        self.now = made.end.isoformat()

    def advance(self) -> None:
        """One day more: new rows, changed and deleted ones, late ones."""
        lived = lives.advance(*self._sources(), days=1)
        self.now = lived.end.isoformat()

    def new_topic(self, name: str) -> str:
        """Another topic of one partition that takes messages of 4 MB; its name."""
        topic = f"{name}-{os.urandom(3).hex()}"
        make_topics(str(self.state.kafka_bootstrap), topic, config={"max.message.bytes": "4000000"})
        return topic

    def _sources(self) -> tuple[Path, str, str, Path]:
        bootstrap = self.state.kafka_bootstrap
        assert bootstrap is not None
        return self.state.folder, self.app_dsn, bootstrap, self.state.apis_database

    def place(self, **more: Any) -> Place:
        """A new, empty warehouse and lake."""
        with self.lock:
            number = next(self.numbers)
        given = {"sources": SOURCES, "models": MODELS, "now": self.now, **more}
        lake = str(self.folder / f"lake-{number}")
        return Place(
            app_dsn=self.app_dsn,
            warehouse_dsn=self.server.empty(),
            kafka_bootstrap=str(self.state.kafka_bootstrap),
            apis_url=str(self.state.stripe_url),
            lake=lake,
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
            template = conninfo_to_dict(stage.database)["dbname"] if stage.database else "template1"
            dsn = self.server.empty(str(template))
        lake = self.folder / f"lake-{number}"
        if stage.lake is not None:
            shutil.copytree(stage.lake, lake)
        return replace(stage.place, warehouse_dsn=dsn, lake=str(lake))

    def remove(self, place: Place) -> None:
        """Free the disk."""
        shutil.rmtree(place.lake, ignore_errors=True)
        name = conninfo_to_dict(place.warehouse_dsn)["dbname"]
        with psycopg.connect(self.server.dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(str(name))))


# ------------------------------------------------------------------------------------------------ running


def run(place: Place) -> None:
    """One ordinary run in a process of its own."""
    assert try_run(place) == 0, f"the run at {place.lake} failed"
    _await_its_sessions(place)


def try_run(place: Place) -> int | None:
    """One ordinary run that may fail; its exit code."""
    return children.exit_code(kill_child.play, place, f"run-{os.urandom(3).hex()}")


def count(place: Place) -> dict[str, int]:
    """One ordinary run; how often it passed each failpoint."""
    into = Path(f"{place.lake}-passed.json")
    code = children.exit_code(kill_child.play_and_count, place, str(into))
    assert code == 0, f"the run at {place.lake} failed"
    passed: dict[str, int] = json.loads(into.read_text())
    return passed


def kill(place: Place, name: str, passes: int) -> bool:
    """One run that is to die at a failpoint; whether it did."""
    has_died = children.dies(name, kill_child.play, place, f"killed-{os.urandom(3).hex()}", passes=passes)
    _await_its_sessions(place)
    return has_died


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


def _await_its_sessions(place: Place) -> None:
    """A server meets its client's death a moment later, and a session keeps its locks until then.

    A run that follows at once may leave what such a lock holds back to the next one, as it should.
    """
    with psycopg.connect(place.warehouse_dsn, autocommit=True) as connection:
        for _ in range(100):
            if not connection.execute(_SESSIONS).fetchall():
                return
            time.sleep(0.1)


# --------------------------------------------------------------------------------------------- the parts


@contextmanager
def kill_world(server: Server, folder: Path) -> Iterator[KillWorld]:
    """An application without tables on a server, topics and simulated APIs of its own beside it.

    The topics of the test run's broker are another world's, and these must stand still.
    """
    state = sandbox.start(folder / "sandbox", frozenset({Part.KAFKA, Part.APIS}))
    try:
        yield KillWorld(server, state, folder, server.empty())
    finally:
        sandbox.reset(state.folder)
