"""The generated company and a warehouse built of it: built once, copied for each test that goes on."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg

from flows.__main__ import main
from flows.sandbox import Part, State, read, world
from flows.sandbox.postgres import packaged_binaries
from tests.flows.modes import without_capture
from tests.flows.sandbox import truth
from tests.house import House, Server, behave
from transforms import registry
from warehouse_ddl.statements import home

ROOT = Path(__file__).parents[2]
SCALE = 0.05
"""15,000 events, 250 users, 1,000 orders in 14 days: every kind of thing happens, a run takes seconds."""


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Both streams."""
        return self.out + self.err


@contextlib.contextmanager
def as_if_in(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """This process as one that was started there with these variables; gives both of its streams."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder),
        _prefect(environment),
    ):
        yield out, err


def run_here(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Done:
    """`python -m flows WORDS` in this process: the same code, without the seconds that imports take."""
    with as_if_in(folder, environment) as (out, err):
        try:
            code = main(words)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
    return Done(code, out.getvalue(), err.getvalue())


def where(table: str) -> str:
    """The published table itself, where `analytics` has but a view that masks it."""
    return f"{home(registry.table(table))}.{table}"


@dataclass
class Place:
    """A warehouse and a lake, and the services that feed them: what `python -m flows` is pointed at."""

    warehouse_dsn: str
    lake: Path
    truth: Path
    environment: dict[str, str]
    """Variables beside those of the sandbox; tests may change it."""
    is_captured: bool = True
    """Whether the application is the one whose changes are captured; another one is read by its rows."""

    def run(self, *words: str, **more: str) -> Done:
        """`python -m flows WORDS`, in this process."""
        with contextlib.nullcontext() if self.is_captured else without_capture():
            return run_here(words, self.lake.parent, self.environment | more)

    def python(self, project: Path, *words: str) -> Done:
        """`python WORDS` in a copy of this project, in a process of its own."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=project,
            env={**os.environ, **self.environment, "PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def hourly(self) -> str:
        """What the deployment `hourly` does, in this process; returns the state that it ends in."""
        from flows.batch import api_ingest

        with (
            contextlib.nullcontext() if self.is_captured else without_capture(),
            as_if_in(self.lake.parent, self.environment),
        ):
            return str(api_ingest(return_state=True).name)

    def spawn(self, *words: str, models: Path | None = None, **more: str) -> subprocess.Popen[str]:
        """`python -m flows WORDS` in a process of its own; `models` holds another package `transforms`."""
        path = os.pathsep.join(str(folder) for folder in (models, ROOT) if folder)
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *words],
            cwd=self.lake.parent,
            env={**os.environ, "PYTHONPATH": path, **self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def command(self, *words: str, models: Path | None = None, **more: str) -> Done:
        """The same, waited for."""
        process = self.spawn(*words, models=models, **more)
        out, err = process.communicate(timeout=240)
        return Done(process.returncode, out, err)

    # ------------------------------------------------------------------------------------------ what stands

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of the warehouse."""
        with psycopg.connect(self.warehouse_dsn, autocommit=True) as connection:
            connection.execute("set timezone to 'UTC'")
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def application(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the place's own application."""
        return replace(self, warehouse_dsn=self.environment["ANALYTICS_APP_DSN"]).rows(query)

    def value(self, query: str, *parameters: Any) -> Any:
        """The first column of the first row."""
        return self.rows(query, *parameters)[0][0]

    def summary(self) -> dict[str, Any]:
        """What the last run of the batch says it did."""
        state, summary = self.rows(
            "select state, summary from ops.run where summary ? 'tables' order by started_at desc limit 1"
        )[0]
        return {"state": state, **summary}

    def changed(self) -> dict[str, list[str]]:
        """Published table → the partitions that the last run changed."""
        tables = self.summary()["tables"]
        return {name: sorted(table["windows"]) for name, table in tables.items() if table["windows"]}

    def differences(self) -> list[str]:
        """Where the warehouse is not as the truth says."""
        with psycopg.connect(self.warehouse_dsn, autocommit=True) as connection:
            return truth.differences(connection, self.truth)

    def physical(self, *tables: str) -> dict[str, str]:
        """Table → a digest of its rows with the transaction that wrote each and the place where it stands."""
        names = tables or tuple(truth.MEASURES)
        query = (
            "select md5(string_agg(concat_ws(' ', t.tableoid, t.xmin, t.ctid, t.*::text), '|' "
            "order by t.tableoid, t.ctid)) from {} t"
        )
        return {name: str(self.value(query.format(where(name)))) for name in names}

    def refreshed(self) -> dict[str, str]:
        """Materialized view → the transaction that refreshed it last, also where no row was another then."""
        return dict(self.rows("select relname, xmin::text from pg_class where relkind = 'm'"))

    def content(self, *tables: str) -> dict[str, str]:
        """Table → a digest of its rows, wherever they stand."""
        names = tables or tuple(truth.MEASURES)
        query = "select md5(string_agg(t.*::text, '|' order by t.*::text)) from analytics.{} t"
        return {name: str(self.value(query.format(name))) for name in names}

    def files(self, below: str) -> list[Path]:
        """The lake's Parquet files in a folder, the newest last."""
        found = (self.lake / below).rglob("*.parquet")
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def with_models(folder: Path, changes: Mapping[str, tuple[str, str]]) -> Path:
    """A copy of the package `transforms` in which some files read otherwise, for `spawn` and `command`."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "transforms", folder / "transforms", ignore=ignored, dirs_exist_ok=True)
    for path, (old, new) in changes.items():
        file = folder / "transforms" / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} has no single {old!r} any more: adapt this test"
        file.write_text(text.replace(old, new), encoding="utf-8")
    return folder


@dataclass
class Company:
    """The sandbox's world. It only ever goes on; what is built of it follows before it is copied."""

    house: House
    _built: bool = field(default=False, repr=False)
    first_run: Done = field(default=Done(-1, "", ""), repr=False)

    def state(self) -> State:
        """The sandbox with everything in it running, and its world."""
        state = self.house.parts(*Part)
        if not world.exists(state.folder):
            world.ensure(state, scale=SCALE)
            # Captured from its first day on, as the sandbox has it: the truth says so.
            place = {"ANALYTICS_SANDBOX": str(state.folder)}
            done = run_here(["cdc", "register", "--wait", "2m"], state.folder, place)
            assert done.code == 0, done.said
            self.behave()
            state = self.house.parts()
        return state

    def behave(self) -> None:
        """Take every fault off the services that the world has."""
        behave(str(self.house.parts(Part.APIS).stripe_url))

    def built(self) -> Place:
        """The sandbox's own warehouse and lake, in step with the world. Only to be looked at."""
        state = self.state()
        assert state.warehouse_dsn is not None
        place = Place(state.warehouse_dsn, state.lake, state.truth, {"ANALYTICS_SANDBOX": str(state.folder)})
        if not self._built:
            done = place.command()
            assert done.code == 0, done.said
            self.first_run = self.first_run if self.first_run.code == 0 else done
            self._built = True
        return place

    def copy(self, *, own_application: bool = False) -> Place:
        """A copy of what is built, fed by the same sources; or with a copy of the application's database,
        which is read by its rows from then on.
        """
        built = self.built()
        place = self._place(self.house.server().empty("warehouse"), built)
        if own_application:
            state = self.state()
            assert state.app_dsn is not None
            place.environment["ANALYTICS_APP_DSN"] = own = Server(18, state.app_dsn).empty()
            # Not as a template: that sends away who reads its changes.
            programs = packaged_binaries()
            dump = subprocess.run([programs / "pg_dump", state.app_dsn], check=True, capture_output=True)
            restore: list[str | Path] = [programs / "psql", "-qX", "-v", "ON_ERROR_STOP=1", own]
            subprocess.run(restore, input=dump.stdout, check=True, capture_output=True)
            place.is_captured = False
        return place

    def empty(self, server: Server | None = None) -> Place:
        """An empty warehouse and lake, fed by the same sources: its first run reads every change since the
        world was made.
        """
        return self._place((server or self.house.server()).empty(), None)

    def _place(self, dsn: str, source: Place | None) -> Place:
        state = self.state()
        folder = self.house.folder.parent / f"place-{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}"
        folder.mkdir()
        if source is not None:
            shutil.copytree(source.lake, folder / "lake", copy_function=_link)
        environment = {
            "ANALYTICS_SANDBOX": str(state.folder),
            "ANALYTICS_WAREHOUSE_DSN": dsn,
            "ANALYTICS_LAKE": str(folder / "lake"),
            "ANALYTICS_RETRIES": "0",
        }
        return Place(dsn, folder / "lake", state.truth, environment)

    def advance(self, days: int = 1) -> None:
        """Let the world live on."""
        world.advance(self.state(), days=days)
        self.changed()

    def changed(self) -> None:
        """Say that the sources have changed: what is built is brought into step before it is copied again."""
        self._built = False


def _link(source: str, target: str) -> str:
    """Parquet files never change, so copies share them; manifests grow."""
    if source.endswith(".parquet"):
        os.link(source, target)
        return target
    return str(shutil.copy2(source, target))


@contextlib.contextmanager
def _prefect(environment: Mapping[str, str]) -> Iterator[None]:
    """Prefect read its settings when it was imported; a run uses the sandbox's server all the same."""
    state = read(Path(environment["ANALYTICS_SANDBOX"])) if "ANALYTICS_SANDBOX" in environment else None
    if state is None or state.prefect_url is None:
        yield
        return
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with temporary_settings({PREFECT_API_URL: state.prefect_url, PREFECT_HOME: state.prefect_home}):
        yield
