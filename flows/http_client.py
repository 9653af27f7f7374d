"""A client for the requests to one server, made the same way whoever asks."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx

from flows.addresses import is_loopback


def client(
    url: str, *, seconds: float, headers: Mapping[str, str] | None = None, is_direct: bool = False
) -> httpx.Client:
    """A client for what is at this address and below. It follows no redirect.

    A proxy of the environment is for the way out, not for this machine's own services; with `is_direct` it is
    for no other either. `seconds` is the time between two signs of life. Raises httpx.InvalidURL.
    """
    host = httpx.URL(url).host
    return httpx.Client(
        base_url=url,
        headers=headers,
        timeout=seconds,
        trust_env=not (is_direct or is_loopback(host)),
        verify=_certificates(),
    )


@cache
def _certificates() -> ssl.SSLContext:
    """The certificates to trust, read once: each reading takes 20 ms."""
    return httpx.create_ssl_context()


def asked(server: httpx.Client, method: str, path: str, body: Any = None) -> httpx.Response:
    """What a Prefect server answers, asked again for some seconds while it fails: its SQLite says 503 while
    somebody else writes for long. Raises httpx.HTTPError where it does not answer, or fails on.
    """
    import stamina

    for attempt in stamina.retry_context(on=httpx.HTTPError, attempts=6, wait_initial=0.2, wait_max=2.0):
        with attempt:
            answer = server.request(method, path, json=body)
            if answer.is_server_error:
                answer.raise_for_status()
    return answer
