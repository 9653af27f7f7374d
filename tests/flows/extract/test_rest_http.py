"""What holds below any vendor: pauses, encryption, sizes, on the smallest servers that show it."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
import trustme

from flows.extract.http import AnswerError, Http, RestConnection, RestError
from flows.extract.http_said import retry_after

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback; gives its address and the list of keys that reached it."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(str(self.headers.get("Authorization")))
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    class Server(HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that refuses the certificate is no problem of this server."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"[]", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def get(url: str, **settings: float) -> bytes:
    connection = RestConnection(url, "key-canary", wait_initial=0.01, wait_jitter=0, **settings)  # type: ignore[arg-type]
    with Http("stripe.charges", connection) as http:
        return http.get("/", {}, bytes)


@pytest.mark.parametrize("names", [("127.0.0.1",), ("other.example",)])
def test_a_certificate_nobody_vouches_for_gets_no_key(names: tuple[str, ...]) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)

    with (
        serving(lambda handler: send(handler, 200), context) as (url, keys),
        pytest.raises(RestError, match="certificate verify failed"),
    ):
        get(url, tries=1)

    assert keys == []


def test_a_pause_given_as_a_date_counts_from_the_date_of_the_answer() -> None:
    headers = httpx.Headers(
        {"retry-after": "Mon, 03 Nov 2025 12:00:07 GMT", "date": "Mon, 03 Nov 2025 12:00:00 GMT"}
    )

    assert retry_after(headers) == 7
    assert retry_after(httpx.Headers({"retry-after": "2.5"})) == 2.5
    assert retry_after(httpx.Headers({"retry-after": "-1"})) == 0
    assert retry_after(httpx.Headers({"retry-after": "soon"})) is None
    assert retry_after(httpx.Headers({})) is None


@pytest.mark.parametrize(
    ("status", "name"), [(429, "Retry_After"), (429, "RateLimit_Reset"), (200, "RateLimit_Reset")]
)
@pytest.mark.parametrize("wait", ["nan", "inf", "-inf", "1e309", "Fri, 31 Feb 2025 25:61:00 GMT"])
def test_a_pause_that_is_no_time_is_one_of_our_own(status: int, name: str, wait: str) -> None:
    """Asked again or, after an answer, asked for more."""
    said = {name: wait} if name == "Retry_After" else {"RateLimit_Remaining": "0", name: wait}
    answers = [(status, said), (200, {}), (200, {})]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        code, headers = answers.pop(0)
        send(handler, code, b"[]", **headers)

    with serving(answer) as (url, _):
        connection = RestConnection(url, "key-canary", wait_initial=0.01, wait_jitter=0, tries=2)
        with Http("stripe.charges", connection) as http:
            assert [http.get("/", {}, bytes) for _ in range(2)] == [b"[]", b"[]"]


@pytest.mark.parametrize("head", [b"Content-Length: 1000\r\n\r\n", b"X-Drip:"])
def test_an_answer_dripping_in_is_given_up_after_its_deadline(head: bytes) -> None:
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + head)
        for _ in range(100):
            if over.wait(0.1):
                return
            with suppress(OSError):
                handler.wfile.write(b" ")

    with serving(drip) as (url, _):
        try:
            with pytest.raises(RestError, match=r"took longer than 0\.5 s for one answer"):
                get(url, tries=1, deadline=0.5)
        finally:
            over.set()


def test_gzip_in_several_members_is_read_whole_and_the_cap_counts_what_comes_out() -> None:
    body = gzip.compress(b"a" * 1000) + gzip.compress(b"b" * 1000)

    with serving(lambda handler: send(handler, 200, body, Content_Encoding="gzip")) as (url, _):
        assert get(url) == b"a" * 1000 + b"b" * 1000
        assert len(get(url, max_bytes=2000)) == 2000
        with pytest.raises(RestError, match="is larger than"):
            get(url, max_bytes=1999)


def test_a_bomb_takes_no_more_memory_than_the_cap() -> None:
    bomb = gzip.compress(b"0" * 2**27)

    with serving(lambda handler: send(handler, 200, bomb, Content_Encoding="gzip")) as (url, _):
        tracemalloc.start()
        try:
            with pytest.raises(RestError, match="is larger than 1 MiB"):
                get(url, max_bytes=2**20)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    # The cap, the answer's own bytes and the client around them; a single chunk would inflate to 64 MiB.
    assert peak < 8 * 2**20


@pytest.mark.parametrize("cut", [1, 15, 40])
def test_gzip_that_ends_early_is_loud(cut: int) -> None:
    body = gzip.compress(json.dumps(list(range(500))).encode())[:-cut]

    with (
        serving(lambda handler: send(handler, 200, body, Content_Encoding="gzip")) as (url, _),
        pytest.raises(RestError, match="ended in the middle of its gzip body"),
    ):
        get(url, tries=1)


def test_an_encoding_that_was_not_asked_for_is_refused() -> None:
    with (
        serving(lambda handler: send(handler, 200, b"\x0b", Content_Encoding="br")) as (url, _),
        pytest.raises(RestError, match="only gzip was asked for"),
    ):
        get(url)


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_an_error_that_stays_the_same_is_asked_once(status: int) -> None:
    with serving(lambda handler: send(handler, status, b"<html>")) as (url, keys):
        with pytest.raises(AnswerError, match=f"answered {status}; the request and the API do not fit"):
            get(url)
        assert len(keys) == 1
