"""Processes that outlive the command that starts them, and how to know them again.

A pid is not an identity: after a reboot another process has it. With its start time it is one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.errors import FlowsError
from flows.sandbox.state import Process

_PROC = Path("/proc")
_EPHEMERAL_PORTS = _PROC / "sys/net/ipv4/ip_local_port_range"

# Children of this very process: when they die they stay zombies until polled.
_children: dict[int, subprocess.Popen[bytes]] = {}

cancelled = threading.Event()
"""Set when the person pressed Ctrl-C: whatever waits for a part gives up."""


class PartError(FlowsError):
    """A part of the sandbox did not come up."""


class EndedError(PartError):
    """It ended by itself instead."""


@dataclass(frozen=True)
class Account:
    """The user that a process runs as, when it is not ours."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    inherit: bool = True,
    account: Account | None = None,
) -> Process:
    """Start `command` in a session of its own, so that a Ctrl-C meant for us does not reach it.

    Its output is appended to `log`. `inherit` hands our environment down, below `environment`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**(inherited() if inherit else {}), **(environment or {})}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env=env,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    finally:
        os.close(descriptor)
    _children[child.pid] = child
    return Process(child.pid, born(child.pid) or "gone")


def inherited() -> dict[str, str]:
    """Our environment as children get it: a Prefect that the person has configured is not the sandbox's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


def born(pid: int) -> str | None:
    """The moment `pid` started, as text that no other process with this pid shares; None if it is gone.

    A zombie is gone, once its last thread is: until then it holds its ports and files.
    """
    return _born_by_proc(pid) if (_PROC / "self/stat").exists() else _born_by_ps(pid)


def _born_by_proc(pid: int) -> str | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold blanks and brackets: fields count from its last bracket.
    fields = stat.rpartition(")")[2].split()
    is_gone = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return None if is_gone else f"{boot}:{fields[19]}"


def _born_by_ps(pid: int) -> str | None:
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return shown[1].strip() if len(shown) == 2 and not shown[0].startswith("Z") else None


def exists(pid: int) -> bool:
    """Whether the system knows the pid at all: a zombie's counts, another user's too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def command_line(pid: int) -> str:
    """The words that `pid` was started with, separated by blanks; empty if it is gone."""
    if (_PROC / "self/stat").exists():
        try:
            return (_PROC / str(pid) / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    shown = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()


def started_with(*names: str) -> list[tuple[Process, dict[str, str]]]:
    """The processes that were started with all of these in their environment, and with what; of those that
    the system lets us look into, and none where it has no /proc.
    """
    found = []
    for folder in _PROC.glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
        environment = dict(os.fsdecode(word).partition("=")[::2] for word in words)
        began = born(int(folder.name))
        if began is not None and environment.keys() >= set(names):
            found.append((Process(int(folder.name), began), {name: environment[name] for name in names}))
    return found


def alive(process: Process | None) -> bool:
    """Whether exactly this process still runs."""
    if process is None:
        return False
    child = _children.get(process.pid)
    if child is not None and child.poll() is not None:
        del _children[process.pid]
        return False
    return born(process.pid) == process.born


def end(process: Process, steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send one signal after another, each with its seconds to act, until the process is gone.

    A process that is no longer ours (same pid, other start time) gets none.
    """
    for number, seconds in steps:
        if not alive(process):
            return
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + seconds
        while alive(process) and time.monotonic() < deadline:
            time.sleep(0.02)
    if alive(process):
        raise FlowsError(f"Process {process.pid} does not end: end it by hand (`kill -9 {process.pid}`).")


def end_group(process: Process, seconds: float) -> None:
    """End a process politely, then whatever is left in its session (flow runs of a worker)."""
    if not alive(process):
        return
    end(process, [(signal.SIGTERM, seconds), (signal.SIGKILL, 5)])
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def first_ephemeral_port() -> int:
    """The lowest port that the system gives to connections going out (IANA's where it doesn't tell)."""
    try:
        return int(_EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 49152


def free_port() -> int:
    """A port of the loopback interface that nobody listens on and no connection going out is given.

    A part that was killed wants its port again. Had it one of the system's own, any connection going out
    could hold it by then; even that of a client of the part itself, which on loopback then reaches itself.
    """
    below = range(10_000, first_ephemeral_port())
    candidates = random.SystemRandom().sample(below, min(100, len(below)))
    for port in (*candidates, 0):  # 0: any that the system has, where others hold all of these
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])
    raise FlowsError("The system has no free port on 127.0.0.1: see who holds them with `ss -ltn`.")


def remembered_port(port: int | None) -> int:
    """`port` if it can still be had, otherwise a new one: another program may have taken it meanwhile."""
    if port is None:
        return free_port()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return free_port()
        return port


def answers(port: int) -> bool:
    """Whether something accepts connections on the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def healthy(url: str) -> bool:
    """Whether a GET on loopback answers 200, within five seconds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def wait_until(ready: Callable[[], bool], *, process: Process, seconds: float, part: str, log: Path) -> None:
    """Wait for a part. Raises `PartError` with the end of its log if it ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not ready():
        if cancelled.is_set():
            raise interrupted(part)
        if not alive(process):
            raise EndedError(f"{part} ended while it was starting. {tail(log)}")
        if time.monotonic() > deadline:
            raise PartError(f"{part} did not answer within {seconds:.0f} s. {tail(log)}")
        time.sleep(0.05)


def interrupted(part: str) -> PartError:
    """What is raised where Ctrl-C ended the wait for a part."""
    return PartError(f"The start of {part} was interrupted.")


def tail(log: Path, lines: int = 5) -> str:
    """The end of a log, for a message."""
    try:
        last = log.read_text(errors="replace").strip().splitlines()[-lines:]
    except FileNotFoundError:
        last = []
    return f"Its log {log} ends: {' / '.join(last)}" if last else f"Its log {log} is empty."
