"""Which way the requests to a server go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from flows.http_client import client

ELSEWHERE = "http://nowhere.invalid/"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The environment names a proxy; gives what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def test_a_server_elsewhere_is_asked_through_the_proxy_of_the_environment(proxy: list[str]) -> None:
    with client(ELSEWHERE, seconds=10) as server:
        assert server.get("lists").status_code == 204
    assert proxy == [f"{ELSEWHERE}lists"]


@pytest.mark.parametrize(
    ("url", "is_direct"), [("http://127.0.0.1:1/", False), ("http://localhost:1/", False), (ELSEWHERE, True)]
)
def test_this_machine_and_who_is_to_be_reached_directly_are_asked_themselves(
    proxy: list[str], url: str, is_direct: bool
) -> None:
    with client(url, seconds=10, is_direct=is_direct) as server, pytest.raises(httpx.ConnectError):
        server.get("lists")
    assert proxy == []
