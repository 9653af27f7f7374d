"""What channels do to messages, and messages to channels: answers that are none, servers that never end,
texts that nobody can take as they are.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import psycopg
import pytest
import trustme

from flows.alerting import delivery, words
from flows.alerting.delivery import Message, NotSent
from flows.alerting.incidents import owe
from flows.alerting.routes import Channel, Routes
from flows.monitoring.health import record
from flows.monitoring.verdict import State
from tests.flows.alerting.conftest import START, Watch
from tests.flows.small_disk import small_disk

LATE = "data_freshness"


@dataclass
class Receiver:
    """An HTTP server that answers as it is told. `posted`: path and length of what was sent there."""

    port: int
    answer: bytes = b"HTTP/1.0 200 OK\r\n\r\n"
    drips: bool = False
    posted: list[tuple[str, int]] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with _receiving() as told:
        yield told


@contextmanager
def _receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            told.bodies.append(self.rfile.read(length).decode())
            told.posted.append((self.path, length))
            self.wfile.write(told.answer if self.path != "/elsewhere" else b"HTTP/1.0 200 OK\r\n\r\n")
            with suppress(OSError):
                while told.drips and not told.over.wait(0.1):
                    self.wfile.write(b"x")

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    told = Receiver(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield told
    told.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _hook(watch: Watch, receiver: Receiver, kind: str = "json", path: str = "hook") -> None:
    watch.write(
        f"channels: {{hook: '{kind}://127.0.0.1:{receiver.port}/{path}', log: 'file://{watch.log}'}}\n"
        "routes: [{severity: critical, channels: [hook]}, {severity: warning, channels: [log]}]\n"
    )


def _problem(watch: Watch) -> str:
    ((problem,),) = watch.rows("select problem from ops.notification where channel = 'hook'")
    return str(problem)


@pytest.mark.parametrize("status", ["404 Not Found", "429 Too Many Requests", "500 Internal Server Error"])
def test_a_server_that_refuses_is_told_by_its_status_not_by_the_page_that_it_shows(
    watch: Watch, receiver: Receiver, status: str
) -> None:
    receiver.answer = f"HTTP/1.0 {status}\r\n\r\n<p>An Error\r\nan Exception \x1b[31m".encode()
    _hook(watch, receiver)
    (told,) = watch.minute(watch.verdict(LATE, "fct_orders"))
    assert f"error={status[:3]}" in told["title"]
    assert "\n" not in _problem(watch)
    assert "Exception" not in _problem(watch)


def test_a_message_is_not_lost_at_the_page_that_a_redirect_leads_to(watch: Watch, receiver: Receiver) -> None:
    receiver.answer = b"HTTP/1.0 302 Found\r\nLocation: /elsewhere\r\n\r\n"
    _hook(watch, receiver)
    bad = watch.verdict(LATE, "fct_orders")
    assert [one["title"].split(" takes")[0] for one in watch.minute(bad)] == ["WARNING: Channel hook"]
    assert "error=302" in _problem(watch)
    _hook(watch, receiver, path="hook?redirect=yes")
    watch.minute(bad)
    assert [path for path, _ in receiver.posted] == ["/hook", "/hook", "/elsewhere"]


@pytest.mark.parametrize("header", [b"x: ", b"Content-Length: 99999\r\n\r\n"])
def test_a_server_that_never_comes_to_its_end_keeps_nobody_else_from_being_told(
    watch: Watch, receiver: Receiver, header: bytes
) -> None:
    receiver.answer, receiver.drips = b"HTTP/1.0 200 OK\r\n" + header, True
    _hook(watch, receiver)
    begun = time.monotonic()
    with mock.patch.object(delivery, "SECONDS", 1.0):
        (told,) = watch.minute(watch.verdict(LATE, "fct_orders"))
    assert time.monotonic() - begun < 10
    assert "Channel hook takes no message: it took longer than 1 s" in told["title"]


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 a letter", "\x1b[31mred\r\nX-Header: \u202etxt"])
def test_a_text_that_postgresql_or_a_terminal_can_not_take_is_written_out(watch: Watch, text: str) -> None:
    told = replace(watch.verdict(LATE, "fct_orders"), message=text, action=text)
    with psycopg.connect(watch.dsn, autocommit=True) as connection:
        record(connection, [told], watch.now)
    (message,) = watch.minute(told)
    assert not set("\0\ud800\x1b\r\u202e") & set(message["title"] + message["body"])
    watch.reported("one", "maintain", "Crashed", text)
    watch.ran("two", f"raw_app__orders: {text}", flow="analytics_pipeline")
    rows = watch.rows("select state, summary -> 'failures' ->> 0 from ops.run order by run_id")
    assert [state for state, _ in rows] == ["Crashed", "Failed"]
    assert "\\" in rows[0][1]


def test_a_long_text_is_told_with_what_to_do_in_as_many_messages_as_its_service_takes(
    watch: Watch, receiver: Receiver
) -> None:
    _hook(watch, receiver, "mmost", "token0token0token0token000")  # takes 4,000 characters at a time
    watch.minute(replace(watch.verdict(LATE, "fct_orders"), message="word " * 20_000, action="Look. " * 500))
    assert 1 < len(receiver.posted) < 4
    assert max(length for _, length in receiver.posted) < 4_500
    ((title, body),) = watch.rows("select title, body from ops.notification where channel = 'hook'")
    assert len(title) == words.MOST_TITLE
    assert "(98,000 more characters)\n" in body
    assert "To do:    Look. Look." in body
    assert body.splitlines()[-1].startswith("Incident: ")


def test_a_pager_is_told_once_in_as_many_characters_as_it_takes_what_to_do_among_them(
    watch: Watch, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apprise.plugins import pagerduty

    monkeypatch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, "us", f"http://127.0.0.1:{receiver.port}/enqueue")
    watch.write(
        "channels: {hook: 'pagerduty://integration@key'}\nroutes: [{severity: critical, channels: [hook]}]\n"
    )
    bad = watch.verdict(LATE, "fct_orders")
    watch.minute(replace(bad, message="ein längeres Wort " * 2_000, action="Look there. " * 200))
    (sent,) = receiver.bodies
    summary = json.loads(sent)["payload"]["summary"]
    assert len(summary) <= 1_024
    assert "\nTo do:    Look there. Look there." in summary
    assert summary.splitlines()[-1].startswith("Incident: ")
    watch.minute(replace(watch.verdict("disk_space", "lake"), message="Short.", action="Wait."))
    assert len(receiver.bodies) == 2
    assert "more characters" not in receiver.bodies[1]


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_in_teams_each_line_of_a_message_stands_by_itself(watch: Watch) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with _receiving(tls) as receiver:
        watch.write(
            f"channels: {{hook: 'workflows://127.0.0.1:{receiver.port}/workflow/signature?verify=no'}}\n"
            "routes: [{severity: critical, channels: [hook]}]\n"
        )
        watch.minute(replace(watch.verdict(LATE, "fct_orders"), message="It is late.", action="Look there."))
    (sent,) = receiver.bodies
    card = json.loads(sent)["attachments"][0]["content"]
    (text,) = [block["text"] for block in card["body"] if block.get("id") == "body"]
    # A card's text is Markdown: only a blank line ends one.
    lines = text.split("\n\n")
    assert lines[0] == "What:     It is late."
    assert "To do:    Look there." in lines
    assert not any("\n" in line for line in lines)


def test_a_message_is_from_us_and_not_from_who_carries_it(
    watch: Watch, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apprise.plugins import pagerduty

    monkeypatch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, "us", f"http://127.0.0.1:{receiver.port}/enqueue")
    watch.write("channels: {hook: 'pagerduty://integration@key'}\nroutes: [{channels: [hook]}]\n")
    watch.minute(watch.verdict(LATE, "fct_orders"))
    (sent,) = receiver.bodies
    assert json.loads(sent)["client"] == "User analytics"


def test_a_line_of_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 64):
        channel = Channel("log", f"file://{disk}/alerts.jsonl")
        long, short = (Message("t", "x" * size, "critical", "opened", None, START) for size in (50_000, 10))
        for message in (short, long):
            delivery.send(channel, message)
        with pytest.raises(NotSent, match="can't be written: its disk takes no whole line any more"):
            delivery.send(channel, long)
        delivery.send(channel, short)
        lines = (disk / "alerts.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["body"]) for line in lines] == [10, 50_000, 10]


def test_what_a_channel_says_of_its_failure_holds_no_part_of_its_address(watch: Watch) -> None:
    watch.write(
        "channels: {hook: 'json://eve:word-of-eve@127.0.0.1:1/token-of-the-path'}\n"
        "routes: [{channels: [hook]}]\n"
    )
    watch.minute(watch.verdict(LATE, "fct_orders"))
    said = str(watch.rows("select problem, title, body from ops.notification"))
    assert "refused" in said
    assert not [word for word in ("word-of-eve", "token-of-the-path") if word in said]


def test_a_channel_that_does_not_take_one_message_is_not_asked_for_the_next_at_once(
    watch: Watch, receiver: Receiver
) -> None:
    receiver.answer = b"HTTP/1.0 500 Broken\r\n\r\n"
    _hook(watch, receiver)
    watch.minute(watch.verdict(LATE, "fct_orders"), watch.verdict(LATE, "fct_emails"))
    assert len(receiver.posted) == 1


def test_an_end_is_never_told_before_what_it_ends(watch: Watch, receiver: Receiver) -> None:
    receiver.answer = b"HTTP/1.0 500 Broken\r\n\r\n"
    _hook(watch, receiver)
    watch.minute(watch.verdict(LATE, "fct_orders"))
    watch.minute(watch.verdict(LATE, "fct_orders"))
    receiver.answer = b"HTTP/1.0 200 OK\r\n\r\n"
    good = watch.verdict(LATE, "fct_orders", State.OK)
    for _ in range(3):
        watch.minute(good)
    taken = [json.loads(body)["title"].split(":")[0].split(" ")[0] for body in receiver.bodies[2:]]
    assert taken == ["CRITICAL", "RESOLVED"]


def test_a_message_that_somebody_else_sends_just_now_keeps_nobody_waiting(watch: Watch) -> None:
    watch.write(f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n")
    told = Routes({"log": Channel("log", f"file://{watch.log}")})
    with psycopg.connect(watch.dsn, autocommit=True) as connection:
        for title in ("first", "second"):
            owe(
                connection,
                ["log"],
                kind="info",
                severity="info",
                title=title,
                body="",
                now=START,
                due_at=START,
            )
        with psycopg.connect(watch.dsn) as other:
            other.execute("select from ops.notification where title = 'first' for update")
            connection.execute("set lock_timeout = '2s'")
            delivery.deliver(connection, told, watch.now, [])
            assert [one["title"] for one in watch.messages()] == ["second"]
        delivery.deliver(connection, told, watch.now, [])
    assert [one["title"] for one in watch.messages()] == ["second", "first"]
