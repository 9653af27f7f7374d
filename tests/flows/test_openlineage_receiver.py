"""Whoever is told of runs harms none: not by being away, not by refusing."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psycopg
import pytest

from flows.diagnosis.servers import lineage
from flows.openlineage import receiver as receiving_module
from flows.openlineage.receiver import AGAIN_AFTER_SECONDS, Receiver
from flows.settings import Settings, load
from tests.flows.extract.parts import World
from tests.flows.openlineage_run import listening, read, run, world_in
from tests.flows.openlineage_schema import validator
from tests.house import House

KEY = "hunter2-canary-77"
_SCHEMA = validator()


@pytest.fixture(scope="module")
def world(house: House, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(house, tmp_path_factory.mktemp("openlineage"))


@contextmanager
def receiving(
    status: int = 201, *, after: float = 0.0, drips: int = 0, key: str | None = None
) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A receiver on loopback; gives its address and what it got: path and event. It answers `after` so many
    seconds, and then so many bytes, a tenth of a second for each. Who does not show the `key` gets 401.
    """
    got: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(405)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, json.loads(body)))
            time.sleep(after)
            self._answer(status)

        def _answer(self, status: int) -> None:
            if key is not None and self.headers.get_all("Authorization") != [f"Bearer {key}"]:
                status = 401
            self.send_response(status)
            self.send_header("Content-Length", str(drips))
            self.end_headers()
            with suppress(OSError):
                for _ in range(drips):
                    time.sleep(0.1)
                    self.wfile.write(b".")

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def test_a_receiver_gets_the_same_events_by_http(world: World) -> None:
    with receiving() as (address, got):
        summary = run(listening(world, address))
    assert summary.warnings == []
    assert {path for path, _ in got} == {"/api/v1/lineage"}
    assert len(got) == 6
    for _, event in got:
        _SCHEMA.validate(event)


@pytest.mark.parametrize("form", ["{address}", "http://eve:other@{host}"])
def test_a_receiver_that_asks_for_a_key_gets_it_and_no_log_does(
    form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(key=KEY) as (address, got):
        target = form.format(address=address, host=address.removeprefix("http://"))
        monkeypatch.setenv("ANALYTICS_OPENLINEAGE", target)
        monkeypatch.setenv("ANALYTICS_OPENLINEAGE_KEY", KEY)
        settings = load(_env_file=None)
        receiver = Receiver.of(settings)
        assert receiver is not None
        receiver.send(lambda: {"number": 1})
        assert receiver.told() is None
        assert [event for _, event in got] == [{"number": 1}]
        (found,) = lineage(settings)
        assert found.well, found
    assert caplog.records
    assert KEY not in caplog.text
    assert KEY not in settings.scrub(f"refused: Bearer {KEY}")


@pytest.mark.parametrize("key", [None, "another"])
def test_a_key_that_is_missing_or_wrong_is_told_as_that(key: str | None) -> None:
    with receiving(key=KEY) as (address, _):
        receiver = Receiver(address, key)
        receiver.send(lambda: {"number": 1})
        told = str(receiver.told())
        assert "it answers 401. The run goes on without them; set ANALYTICS_OPENLINEAGE_KEY" in told
        settings = Settings(_env_file=None, openlineage=address, openlineage_key=key)
        (found,) = lineage(settings)
    assert (found.well, found.seen) == (False, f"{address}: it answers 401")
    assert found.advice == "Set ANALYTICS_OPENLINEAGE_KEY to a key that it takes."


def test_a_receiver_that_refuses_is_asked_once_and_the_run_goes_on(world: World) -> None:
    with receiving(status=503) as (address, got):
        summary = run(listening(world, f"{address}/lineage"))
    assert [path for path, _ in got] == ["/lineage"]
    (warning,) = summary.warnings
    assert "it answers 503. The run goes on without them" in warning


def test_a_receiver_that_answers_a_byte_at_a_time_holds_no_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving_module, "_SECONDS", 0.4)
    with receiving(drips=30) as (address, got):
        receiver = Receiver(address)
        begun = time.monotonic()
        receiver.send(lambda: {"number": 1})
        receiver.send(lambda: {"number": 2})
        assert time.monotonic() - begun < 2
    assert len(got) == 1
    assert "no whole answer came within 0.4 s" in str(receiver.told())


def test_a_slow_receiver_is_left_alone_when_its_events_have_taken_long_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiving_module, "PATIENCE_SECONDS", 0.25)
    with receiving(after=0.1) as (address, got):
        receiver = Receiver(address)
        for number in range(20):
            receiver.send(partial(dict, number=number))
        assert 2 <= len(got) <= 4
    assert "it is slow, the last events took" in str(receiver.told())


def test_time_that_events_took_long_ago_is_not_held_against_a_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(receiving_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def answer(_seconds: float, _call: object) -> mock.Mock:
        now[0] += 1.5
        return mock.Mock()

    monkeypatch.setattr(receiving_module, "within", answer)
    receiver = Receiver("http://127.0.0.1:9/")
    for _ in range(20):
        receiver.send(dict)
        now[0] += AGAIN_AFTER_SECONDS / 5
    assert receiver.told() is None


def test_a_receiver_that_is_away_is_a_warning_told_once(world: World) -> None:
    summary = run(listening(world, "http://127.0.0.1:9/"))
    (warning,) = summary.warnings
    assert warning.startswith("OpenLineage events do not reach http://127.0.0.1:9/: ")
    assert warning.endswith("correct ANALYTICS_OPENLINEAGE or start what listens there.")
    with psycopg.connect(world.warehouse_dsn) as connection:
        state = connection.execute("select state, summary ->> 'warnings' from ops.run").fetchone()
    assert state is not None
    assert state[0] == "Completed"
    assert warning in str(state[1])


def test_a_folder_in_place_of_the_file_is_a_warning_too(world: World, tmp_path: Path) -> None:
    (warning,) = run(listening(world, str(tmp_path))).warnings
    assert str(tmp_path) in warning


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:port/", "http://[::1/", "marquez:5000", "localhost:5000/api", "ftp://marquez/x"],
)
def test_what_is_no_address_is_trouble_and_ends_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    receiver = Receiver(address)
    assert receiver.tried()
    receiver.send(dict)
    assert f"do not reach {address}: " in str(receiver.told())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["http://eve:hunter2@127.0.0.1:9/events", "http://hunter2@127.0.0.1:9/events",
                                     "http://127.0.0.1:9/events?key=hunter2"])  # fmt: skip
def test_who_may_tell_a_receiver_is_no_part_of_what_is_said_of_it(address: str) -> None:
    receiver = Receiver(address)
    receiver.send(dict)
    assert "do not reach http://127.0.0.1:9/events: " in str(receiver.told())


@pytest.mark.parametrize("form", ["{folder}/told/events.jsonl", "file://{folder}/told/events.jsonl",
                                  "~/told/events.jsonl"])  # fmt: skip
def test_a_file_takes_events_behind_those_it_has_however_it_is_named(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("first", "über"):
        Receiver(form.format(folder=tmp_path)).send(partial(dict, text=text))
    file = tmp_path / "told" / "events.jsonl"
    assert [event["text"] for event in read(file)] == ["first", "über"]


def test_where_nobody_listens_nothing_is_told(world: World) -> None:
    services = listening(world, None)
    assert services.openlineage is None
    assert run(services).warnings == []


def test_a_receiver_that_is_back_is_told_again_and_the_next_absence_is_said_too(tmp_path: Path) -> None:
    """Of one that lives long, as a stream does."""
    target, now = tmp_path / "events.jsonl", [1_000.0]
    receiver = Receiver(str(target))
    target.mkdir()
    with mock.patch.object(receiving_module, "time", SimpleNamespace(monotonic=lambda: now[0])):
        receiver.send(lambda: {"number": 1})
        assert "do not reach" in str(receiver.told())
        assert receiver.told() is None
        target.rmdir()
        receiver.send(lambda: {"number": 2})
        assert not target.exists()
        now[0] += AGAIN_AFTER_SECONDS
        receiver.send(lambda: {"number": 3})
        receiver.send(lambda: {"number": 4})
        assert [event["number"] for event in read(target)] == [3, 4]
        assert receiver.told() is None
        target.unlink()
        target.mkdir()
        receiver.send(lambda: {"number": 5})
        assert "do not reach" in str(receiver.told())
