"""The sandbox's own Prefect server, the deployments of prefect.yaml on it, and a worker that runs them."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.alerting import automations
from flows.errors import FlowsError
from flows.sandbox import processes
from flows.sandbox.state import ROOT, Part, Process, State

_Schedules = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""Entrypoint and name of a deployment → its schedules that are on, as prefect.yaml would have them: names
alone may be those of two flows.
"""

POOL = "analytics"
_ADDRESS = "PREFECT_API_URL"
STOP = [(signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)]
_WHEN = ("cron", "interval", "rrule", "timezone")
"""Keys of a schedule, in prefect.yaml and on the server, that say when it is."""
_MORE = ("anchor_date", "day_or")
"""Keys that both know, of which prefect.yaml says nothing where they are as Prefect has them."""

# Nothing leaves the machine, nothing is asked, nothing is printed that is no error. A server that hangs is
# waited for four minutes; it would be seven for each thing that it is told.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_API_REQUEST_TIMEOUT": "30",
}


PRUNED = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 86_400),
}
"""Of runs that ended the server forgets those older than 30 days; ops.run keeps what they did."""
LASTING = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
"""Who is at work is kept in files: a server that is started anew knows nothing of what it had in memory, so
a run that is still going loses its place, and one that died with it keeps its successors waiting for ever.
"""


def environment(state: State) -> dict[str, str]:
    """What a process needs so that its flow runs go to this sandbox's server and use this sandbox's services.

    Empty when the sandbox has no Prefect server.
    """
    if state.prefect_url is None:
        return {}
    return QUIET | {
        "PREFECT_HOME": str(state.prefect_home),
        _ADDRESS: state.prefect_url,
        "PREFECT_UI_API_URL": state.prefect_url,
        "ANALYTICS_SANDBOX": str(state.folder),
    }


def use_prefect(environment: Mapping[str, str]) -> None:
    """Make Prefect, which reads the environment when it is imported, use this server, quietly on the
    terminal.

    What somebody has set themselves stays.
    """
    for name, value in {**environment, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}.items():
        os.environ.setdefault(name, value)


def template(cache: Path, progress: Callable[[str], None]) -> Path:
    """A migrated, empty database of the installed Prefect: made once, then copied (migrating takes 10 s)."""
    path = cache / "prefect" / f"{version('prefect')}.db"
    if path.exists():
        return path
    progress("preparing Prefect's database (once)")
    path.parent.mkdir(parents=True, exist_ok=True)
    home = path.parent / f"migrating-{uuid.uuid4().hex[:8]}"
    home.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _MIGRATE],
            env=processes.inherited() | QUIET | {"PREFECT_HOME": str(home)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        database = home / "prefect.db"
        if done.returncode != 0 or not database.exists():
            raise FlowsError(f"Prefect's database cannot be prepared in {home}: {done.stderr.strip()[-500:]}")
        database.replace(path)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return path


# Out of write-ahead mode first, so that the one file holds everything.
_MIGRATE = """
import asyncio, sqlite3
from prefect.server.database import provide_database_interface
from prefect.settings import PREFECT_HOME
asyncio.run(provide_database_interface().create_db())
with sqlite3.connect(PREFECT_HOME.value() / "prefect.db") as database:
    database.execute("pragma wal_checkpoint(truncate)")
    database.execute("pragma journal_mode=delete")
"""


def start(state: State, cache: Path, port: int, progress: Callable[[str], None]) -> Process:
    """Start the server on `port`; does not wait."""
    home = state.prefect_home
    home.mkdir(exist_ok=True)
    database = home / "prefect.db"
    if not database.exists():
        partial = home / "prefect.db.copying"
        shutil.copyfile(template(cache, progress), partial)
        partial.replace(database)
    address = f"http://127.0.0.1:{port}/api"
    words = ["-m", "uvicorn", "--factory", "flows.sandbox.prefect_app:create_app"]
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--log-level",
        "error",
        "--timeout-keep-alive",
        "5",
    ]
    return processes.spawn(
        [sys.executable, *words, *options],
        log=log(state, Part.PREFECT),
        cwd=ROOT,
        environment=QUIET
        | {
            "PREFECT_HOME": str(home),
            _ADDRESS: address,
            "PREFECT_UI_API_URL": address,
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT__SERVER_FINAL": "1",
            **PRUNED,
            **LASTING,
        },
    )


def log(state: State, part: Part) -> Path:
    return state.logs / f"{part}.log"


def ready(port: int) -> Callable[[], bool]:
    """A question to ask until it is answered with yes: is the server healthy?"""
    return lambda: processes.healthy(f"http://127.0.0.1:{port}/api/health")


def make_pool(state: State) -> None:
    """Make the work pool if there is none. Before the worker starts: it ends when another makes it meanwhile.

    Raises `FlowsError` when the server does not do it.
    """
    import httpx

    from flows.http_client import asked, client

    try:
        with client(f"{state.prefect_url}/", seconds=30) as server:
            answer = asked(server, "POST", "work_pools/", {"name": POOL, "type": "process"})
            if answer.status_code != httpx.codes.CONFLICT:
                answer.raise_for_status()
    except httpx.HTTPError as error:
        raise FlowsError(f"the work pool {POOL} cannot be made at {state.prefect_url}: {error}") from error


def start_worker(state: State, root: Path) -> Process:
    """Start the worker of the process pool; the server must be up. Flow runs are its children."""
    words = ["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "sandbox"]
    # Prefect's own name for a folder there is the same for every user of a machine: the second may not write.
    temporary = state.prefect_home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return processes.spawn(
        [sys.executable, *words],
        log=log(state, Part.PREFECT_WORKER),
        cwd=root,
        environment=environment(state) | {"PREFECT_WORKER_QUERY_SECONDS": "2", "TMPDIR": str(temporary)},
    )


def is_beside(state: State, worker: Process) -> bool:
    """Whether the worker was started beside the server as it is now. One that lost its port to another
    program has a new address, which a worker never learns. Where the system has no /proc, it is taken to be.
    """
    found = processes.started_with(_ADDRESS)
    return all(given[_ADDRESS] == state.prefect_url for process, given in found if process == worker)


def digest(root: Path) -> str | None:
    """Changes when what `prefect deploy` would register may have changed; None without a prefect.yaml."""
    declared = root / "prefect.yaml"
    if not declared.exists():
        return None
    import yaml

    content = declared.read_bytes()
    found = hashlib.sha256(content)
    found.update(str(root).encode())
    found.update(Path(automations.__file__).read_bytes())
    for deployment in yaml.safe_load(content).get("deployments") or []:
        file = root / str(deployment.get("entrypoint", "")).partition(":")[0]
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()


def deploy(state: State, root: Path) -> None:
    """Register every deployment of prefect.yaml, and what the server watches. Schedules are registered
    paused: one that is on for a second gives the worker a run. Those that somebody has switched on stay on,
    at the time and with the parameters that they were given.

    Raises `FlowsError` with what Prefect said when a deployment cannot be registered.
    """
    import httpx

    from flows.http_client import client

    try:
        with client(f"{state.prefect_url}/", seconds=30) as server:
            switched_on = _switched_on(server)
        paused = state.folder / "prefect.yaml"
        paused.write_text(_with_schedules_paused(root / "prefect.yaml", switched_on), encoding="utf-8")
        _deploy_all(state, root, paused)
        automations.register(str(state.prefect_url))
    except httpx.HTTPError as error:
        raise FlowsError(f"the Prefect server at {state.prefect_url} did not do it: {error}") from error


def _with_schedules_paused(declared: Path, switched_on: _Schedules) -> str:
    """What prefect.yaml declares, with the schedules on that are in `switched_on`, and no other."""
    import yaml

    content = yaml.safe_load(declared.read_bytes())
    for deployment in content.get("deployments") or []:
        on = switched_on.get((deployment["entrypoint"], deployment["name"]), ())
        schedules: list[Mapping[str, Any]] = [*on]
        for schedule in deployment.get("schedules") or []:
            when = {key: value for key, value in schedule.items() if key in _WHEN}
            if not any(when.items() <= one.items() for one in on):
                schedules.append({**schedule, "active": False})
        deployment["schedules"] = schedules
    return str(yaml.safe_dump(content, sort_keys=False))


def _deploy_all(state: State, root: Path, declared: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(declared)],
        cwd=root,
        env=processes.inherited() | environment(state),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    said = state.logs / "prefect_deploy.log"
    said.write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise FlowsError(
            f"`prefect deploy --all` failed: {lines[-1] if lines else 'it said nothing'} (all of it: {said})"
        )


def _switched_on(client: Any) -> _Schedules:
    """The schedules by which something runs: not those of a deployment that is paused as a whole."""
    answer = client.post("deployments/filter", json={})
    answer.raise_for_status()
    return {
        (deployment["entrypoint"], deployment["name"]): [
            {
                **{
                    key: one["schedule"][key]
                    for key in (*_WHEN, *_MORE)
                    if one["schedule"].get(key) is not None
                },
                "parameters": one["parameters"],
                "active": True,
            }
            for one in deployment["schedules"]
            if one["active"] and not deployment["paused"]
        ]
        for deployment in answer.json()
    }
