"""Prefect's server hangs, or is gone, while a run goes on: what the run did is told all the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import pytest
from prefect import flow

from flows import commands, finish
from flows.batch import RunFailed, _ended
from flows.progress import Progress
from flows.sandbox import Part
from flows.summary import Summary
from tests.house import House


class Relay:
    """A way to a server that hangs from a moment on (nothing is passed on, and nothing closed) or is gone."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._hangs = Event()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        Thread(target=self._accept, daemon=True).start()

    def hang(self) -> None:
        self._hangs.set()

    def be_gone(self) -> None:
        for one in (self._listening, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._open += [client, server]
                for pair in ((client, server), (server, client)):
                    Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self._hangs.is_set():
                    Event().wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def _relay(house: House) -> Iterator[tuple[Relay, str]]:
    url = house.parts(Part.PREFECT).prefect_url
    assert url is not None
    port = url.rsplit(":", 1)[1].split("/")[0]
    relay = Relay(int(port))
    try:
        yield relay, url.replace(f":{port}/", f":{relay.port}/")
    finally:
        relay.be_gone()


_CHILD = """
import sys
from functools import partial
from flows import commands, finish, hung
from flows.errors import FlowsError
from tests.flows.test_prefect_hangs import run

finish._SHOW_SECONDS = 1.0
commands.end_process_soon = partial(hung.end_process_soon, 1.0)
try:
    code = run(sys.argv[1])
except FlowsError as error:
    print(error, file=sys.stderr)
    code = 2
sys.exit(code)
"""


@flow
def landing(ends: str) -> dict[str, Any]:
    """What a run is for Prefect, whose server answers until somebody has read that it goes on."""
    print("goes on", flush=True)
    sys.stdin.readline()
    summary = Summary("run", "analytics_pipeline", landed={"raw_app__orders": 7})
    summary.failures += ["raw_app__users: its source is away"] if ends == "badly" else []
    if ends != "never":
        _ended.append(summary)
    finish.show_in_prefect(summary, Progress("test"))
    if summary.failures:
        raise RunFailed(summary)
    return summary.as_json()


def run(ends: str) -> int:
    return commands._run(lambda: landing(ends))


@pytest.mark.parametrize(
    ("ends", "code", "told"),
    [
        ("well", 0, "7 rows landed"),
        pytest.param("badly", 1, "FAILED:  raw_app__users: its source is away", marks=pytest.mark.full),
        pytest.param("never", 2, "had not come to its end", marks=pytest.mark.full),
    ],
)
def test_what_a_run_did_is_told_though_the_server_is_gone(
    house: House, ends: str, code: int, told: str
) -> None:
    with _relay(house) as (relay, url), _running(url, ends) as child:
        relay.be_gone()
        _, said = child.communicate("\n")
    _see(child, said, code, told)


@pytest.mark.full
def test_so_it_is_where_the_server_hangs(house: House) -> None:
    """Each request is waited for until its time is up, and then what Prefect's threads have still to tell for
    a while, which the process does not outlive.
    """
    with _relay(house) as (relay, url), _running(url, "well", PREFECT_API_REQUEST_TIMEOUT="20") as child:
        relay.hang()
        _, said = child.communicate("\n")
    _see(child, said, 0, "7 rows landed")


@contextmanager
def _running(url: str, ends: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process whose run goes on."""
    given = {
        "PREFECT_API_URL": url,
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, ends],
        env=os.environ | given | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert "goes on" in child.stdout.readline()
        yield child


def _see(child: subprocess.Popen[str], said: str, code: int, told: str) -> None:
    assert child.returncode == code, said
    assert told in said
    assert "Prefect's server does not answer any more" in said
    assert "The artifacts of this run can't be written at its server" in said
    assert "Traceback" not in said
