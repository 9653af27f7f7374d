"""A process is known by pid and start time; ports are remembered; what does not come up says why."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.sandbox import processes
from flows.sandbox.state import Process
from tests.flows.streaming.topics import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
TERM = [(signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)]


def _sleeper(folder: Path, *command: str) -> Process:
    return processes.spawn(list(command) or SLEEP, log=folder / "log", cwd=folder)


def test_a_process_is_alive_until_it_is_ended(tmp_path: Path) -> None:
    process = _sleeper(tmp_path)
    assert processes.alive(process)
    processes.end(process, TERM)
    assert not processes.alive(process)
    processes.end(process, TERM)


def test_a_killed_child_is_dead_and_no_zombie_passes_for_it(tmp_path: Path) -> None:
    process = _sleeper(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.born(process.pid) is None
    assert not processes.alive(process)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are told by /proc")
def test_a_process_is_not_gone_before_the_last_of_its_threads_and_its_port_with_it(tmp_path: Path) -> None:
    port = processes.free_port()
    code = (
        "import ctypes, platform, socket, threading, time\n"
        f"listening = socket.create_server(('127.0.0.1', {port}))\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "exit_of_a_thread = {'x86_64': 60, 'aarch64': 93}[platform.machine()]\n"
        "ctypes.CDLL(None).syscall(exit_of_a_thread, 0)"
    )
    process = _sleeper(tmp_path, sys.executable, "-c", code)
    stat = Path(f"/proc/{process.pid}/stat")
    until(lambda: ") Z " in stat.read_text())
    assert processes.alive(process)
    assert processes.remembered_port(port) != port
    processes.end(process, [(signal.SIGKILL, 5.0)])
    assert not processes.alive(process)
    assert processes.remembered_port(port) == port


def test_another_process_with_the_same_pid_is_neither_alive_nor_ended(tmp_path: Path) -> None:
    stranger = _sleeper(tmp_path)
    stale = Process(stranger.pid, "another boot:1")
    assert not processes.alive(stale)
    processes.end(stale, TERM)
    assert processes.alive(stranger)
    processes.end(stranger, TERM)


def test_a_process_that_ignores_a_signal_gets_the_next(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); time.sleep(60)"
    )
    process = _sleeper(tmp_path, sys.executable, "-c", deaf)
    processes.wait_until(
        lambda: "deaf" in (tmp_path / "log").read_text(),
        process=process,
        seconds=20,
        part="deaf",
        log=tmp_path / "log",
    )
    processes.end(process, [(signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)])
    assert not processes.alive(process)


def test_what_the_ended_one_left_in_its_session_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    parent = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(pids)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    process = _sleeper(tmp_path, sys.executable, "-c", parent)
    processes.wait_until(
        lambda: pids.exists() and pids.read_text() != "",
        process=process,
        seconds=20,
        part="parent",
        log=tmp_path / "log",
    )
    child = int(pids.read_text())
    processes.end_group(process, 5)
    subprocess.run(["sleep", "0.2"], check=True)
    assert processes.born(child) is None


def test_a_part_that_ends_by_itself_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = _sleeper(tmp_path, "/bin/sh", "-c", "echo no such luck; exit 3")
    with pytest.raises(processes.EndedError, match=r"broker ended while it was starting.*no such luck"):
        processes.wait_until(lambda: False, process=process, seconds=10, part="broker", log=tmp_path / "log")


def test_a_part_that_does_not_answer_is_reported_after_its_time(tmp_path: Path) -> None:
    process = _sleeper(tmp_path)
    with pytest.raises(processes.PartError, match="did not answer within 0 s"):
        processes.wait_until(lambda: False, process=process, seconds=0.2, part="broker", log=tmp_path / "log")
    processes.end(process, TERM)


def test_a_connection_going_out_is_never_given_a_part_s_port() -> None:
    assert {processes.free_port() < processes.first_ephemeral_port() for _ in range(50)} == {True}


def test_where_the_system_gives_every_port_to_connections_a_part_still_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = tmp_path / "ip_local_port_range"
    everything.write_text("1024\t65535\n")
    monkeypatch.setattr(processes, "_EPHEMERAL_PORTS", everything)
    port = processes.free_port()
    assert processes.remembered_port(port) == port


def test_a_remembered_port_is_kept_unless_somebody_took_it() -> None:
    port = processes.free_port()
    assert processes.remembered_port(port) == port
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert processes.answers(port)
        assert processes.remembered_port(port) != port
    assert not processes.answers(port)


def test_a_person_s_own_prefect_does_not_reach_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.test/api")
    monkeypatch.setenv("LANG", "C")
    inherited = processes.inherited()
    assert "PREFECT_API_URL" not in inherited
    assert inherited["LANG"] == "C"
