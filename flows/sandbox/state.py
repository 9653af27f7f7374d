"""What a sandbox is and where it is: one JSON file, `<folder>/state.json`, readable by its owner only.

Everything that outlives the command that started the parts stands here: ports, passwords, process ids with
their start times, the clock's offset. Reading it imports nothing heavy.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from flows.errors import FlowsError

FORMAT = 1

ROOT = Path(__file__).resolve().parents[2]
"""The project's own folder, where a process that we start finds our modules."""


class Part(StrEnum):
    """A part of the sandbox that is a process of its own."""

    APP_POSTGRES = "app_postgres"
    WAREHOUSE_POSTGRES = "warehouse_postgres"
    KAFKA = "kafka"
    CONNECT = "connect"
    PREFECT = "prefect"
    PREFECT_WORKER = "prefect_worker"
    APIS = "apis"


ALL: frozenset[Part] = frozenset(Part)

# What a setting that names a real service makes superfluous.
PART_OF_SETTING = {
    "app_dsn": Part.APP_POSTGRES,
    "warehouse_dsn": Part.WAREHOUSE_POSTGRES,
    "kafka_bootstrap": Part.KAFKA,
    "connect_url": Part.CONNECT,
    "stripe_url": Part.APIS,
    "sendgrid_url": Part.APIS,
    "prefect_url": Part.PREFECT,
}


Offsets = tuple[tuple[int, float], ...]
"""(microseconds since 1970 of the real clock, seconds that the world was ahead until then)."""


@dataclass(frozen=True)
class Process:
    """A process that survives its starter. `born` tells it from a later process with the same pid."""

    pid: int
    born: str


@dataclass(frozen=True)
class Running:
    """A part that was started: its port (None for the worker, which listens nowhere) and its process."""

    port: int | None
    process: Process | None = None


@dataclass(frozen=True)
class State:
    """One sandbox. Addresses of parts that were never started are None."""

    folder: Path
    secret: str = field(repr=False)
    clock_offset_seconds: float = 0.0
    earlier_offsets: Offsets = ()
    """What it was before, so that what was committed then keeps its time; the oldest first."""
    postgres_folder: Path | None = None
    """Where PostgreSQL's data is; outside `folder` where its user cannot reach `folder`."""
    deployed: str | None = None
    """Digest of what is registered with the Prefect server."""
    parts: dict[Part, Running] = field(default_factory=dict)

    def port(self, part: Part) -> int | None:
        """Where the part listens; None when it was not started or was stopped."""
        running = self.parts.get(part)
        return running.port if running and running.process else None

    def password(self, part: Part) -> str:
        """A password of its own for each part, derived from the sandbox's one secret."""
        import hashlib
        import hmac

        return hmac.new(self.secret.encode(), part.value.encode(), hashlib.sha256).hexdigest()[:32]

    def _dsn(self, part: Part, name: str) -> str | None:
        port = self.port(part)
        return f"postgresql://{name}:{self.password(part)}@127.0.0.1:{port}/{name}" if port else None

    def _url(self, part: Part, path: str = "") -> str | None:
        port = self.port(part)
        return f"http://127.0.0.1:{port}{path}" if port else None

    @property
    def app_dsn(self) -> str | None:
        return self._dsn(Part.APP_POSTGRES, "app")

    @property
    def warehouse_dsn(self) -> str | None:
        return self._dsn(Part.WAREHOUSE_POSTGRES, "warehouse")

    @property
    def kafka_bootstrap(self) -> str | None:
        port = self.port(Part.KAFKA)
        return f"127.0.0.1:{port}" if port else None

    @property
    def connect_url(self) -> str | None:
        """Kafka Connect's REST API."""
        return self._url(Part.CONNECT)

    @property
    def cdc_dsn(self) -> str | None:
        """The application's database as Kafka Connect reaches it: the password is a name that only the worker
        can resolve.
        """
        from flows.sandbox.connect import APP_PASSWORD

        port = self.port(Part.APP_POSTGRES)
        given = f"host=127.0.0.1 port={port} user=app dbname=app"
        return f"{given} password=${{env:{APP_PASSWORD}}}" if port else None

    @property
    def stripe_url(self) -> str | None:
        return self._url(Part.APIS)

    @property
    def sendgrid_url(self) -> str | None:
        return self._url(Part.APIS)

    @property
    def stripe_key(self) -> str | None:
        from flows.sandbox.apis import STRIPE_KEY

        return STRIPE_KEY if self.port(Part.APIS) else None

    @property
    def sendgrid_key(self) -> str | None:
        from flows.sandbox.apis import SENDGRID_KEY

        return SENDGRID_KEY if self.port(Part.APIS) else None

    @property
    def prefect_url(self) -> str | None:
        """The Prefect API; the UI is at the same address without `/api`."""
        return self._url(Part.PREFECT, "/api")

    @property
    def prefect_home(self) -> Path:
        return self.folder / "prefect"

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def truth(self) -> Path:
        return self.folder / "truth"

    @property
    def world(self) -> Path:
        return self.folder / "world"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def apis_database(self) -> Path:
        return self.folder / "apis.sqlite"

    def public(self) -> dict[str, str | float | None]:
        """The addresses, under the names that `sandbox status --json` prints."""
        return {
            "app_dsn": self.app_dsn,
            "warehouse_dsn": self.warehouse_dsn,
            "kafka_bootstrap": self.kafka_bootstrap,
            "connect_url": self.connect_url,
            "stripe_url": self.stripe_url,
            "stripe_key": self.stripe_key,
            "sendgrid_url": self.sendgrid_url,
            "sendgrid_key": self.sendgrid_key,
            "prefect_url": self.prefect_url,
            "lake": str(self.lake),
            "truth": str(self.truth),
            "world": str(self.world),
            "clock_offset_seconds": self.clock_offset_seconds,
        }


def new(folder: Path) -> State:
    return State(folder=folder.resolve(), secret=secrets.token_hex(32))


def read(folder: Path) -> State | None:
    """The sandbox in `folder`, or None where there is none. Does not ask whether its parts live.

    Raises `FlowsError` when the file is there and cannot be understood.
    """
    path = folder / "state.json"
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise FlowsError(
            f"The sandbox in {folder} belongs to another user ({path} is not readable): "
            "run as that user, or name another folder in ANALYTICS_SANDBOX."
        ) from error
    try:
        return _decode(json.loads(raw), folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlowsError(
            f"{path} is damaged or of another version: stop what runs and delete the folder {folder}."
        ) from error


def _decode(document: dict[str, Any], folder: Path) -> State:
    if document["format"] != FORMAT:
        raise ValueError("format")
    parts = {
        Part(name): Running(part["port"], Process(**part["process"]) if part["process"] else None)
        for name, part in document["parts"].items()
    }
    elsewhere = document["postgres_folder"]
    return State(
        folder=folder.resolve(),
        secret=document["secret"],
        clock_offset_seconds=float(document["clock_offset_seconds"]),
        earlier_offsets=tuple((until, ahead) for until, ahead in document.get("earlier_offsets", [])),
        postgres_folder=Path(elsewhere) if elsewhere else None,
        deployed=document["deployed"],
        parts=parts,
    )


def _encode(state: State) -> bytes:
    document = {
        "format": FORMAT,
        "secret": state.secret,
        "clock_offset_seconds": state.clock_offset_seconds,
        "earlier_offsets": state.earlier_offsets,
        "postgres_folder": str(state.postgres_folder) if state.postgres_folder else None,
        "deployed": state.deployed,
        "parts": {part.value: asdict(running) for part, running in sorted(state.parts.items())},
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def write(state: State) -> None:
    """Replace the file whole: a reader sees the old state or the new one."""
    path = state.folder / "state.json"
    # Threads of one process write too, so the pid alone would not make the name unique.
    temporary = path.with_name(f".state.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_encode(state))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def update(folder: Path, change: Callable[[State], State]) -> State:
    """Read, change and write the state as one step, also against other threads and processes.

    Raises `FlowsError` when there is no sandbox in `folder`.
    """
    with _locked(folder / "state.lock"):
        state = read(folder)
        if state is None:
            raise FlowsError(f"There is no sandbox in {folder}: `python -m flows sandbox start` makes one.")
        state = change(state)
        write(state)
        return state


def set_part(folder: Path, part: Part, running: Running) -> State:
    return update(folder, lambda state: replace(state, parts={**state.parts, part: running}))


@contextmanager
def exclusive(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the sandbox for a start, stop or reset; `waiting` is called once if another one holds it.

    The lock is on the folder itself, so that a reset can empty it and still hold it. Where a reset has
    deleted the folder meanwhile, it is made anew.
    """
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder, waiting) as descriptor:
            held = os.fstat(descriptor)
            if folder.exists() and os.path.samestat(held, folder.stat()):
                yield
                return


@contextmanager
def _locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
