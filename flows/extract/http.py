"""One GET to one host, as often as it takes: the connection below rest.py.

What it holds to: the host of the settings and no other, a key that leaves over TLS only (or loopback), time
and size limits counted after decompression, and the pace the service asks for.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import orjson
import stamina

from flows import setting_checks
from flows.addresses import is_loopback
from flows.extract import SourceError, SourceRefused
from flows.http_client import client
from flows.hung import within

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class RestError(SourceError):
    """A REST source can't be read; the message names entity and address, says what to do, holds no key.
    `status` is what the service answered, where it did.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RefusedError(RestError, SourceRefused):
    """Asking again does not help: an address, a position or an API that has to be changed first."""


class AnswerError(RefusedError):
    """The service answered with an error that asking again does not change."""

    status: int

    def __init__(self, message: str, status: int, code: str | None) -> None:
        super().__init__(message, status)
        self.code = code


class _PassingError(RestError):
    """Asking again may help; after `wait` seconds when the service said so."""

    def __init__(self, message: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(message, status)
        self.wait = wait


@dataclass(frozen=True)
class RestConnection:
    """Where a REST source is and how patiently it is asked. Times in seconds, sizes in bytes."""

    base_url: str
    key: str = field(repr=False)
    tries: int = 3
    wait_initial: float = 1.0
    wait_jitter: float = 1.0
    wait_max: float = 30.0
    longest_pause: float = 120.0
    """The longest pause a service may ask for; more than that ends the read with a message instead."""
    timeout: float = 30.0
    """Between two signs of life."""
    deadline: float = 300.0
    """For one whole answer, so that one byte a minute does not hold a read for ever."""
    max_bytes: int = 64 * 2**20
    """Of one answer, decompressed."""
    max_pages: int = 200_000
    """Of one read."""


def check_base(name: str, base_url: str) -> None:
    """Raise RefusedError unless the key may be sent to this address."""
    setting = f"ANALYTICS_{name.partition('.')[0].upper()}_URL"
    try:
        setting_checks.address(base_url)
        is_address = httpx.URL(base_url).host != ""
    except (ValueError, httpx.InvalidURL):
        is_address = False
    address = urlsplit(base_url) if is_address else None
    if address is None or address.username is not None:
        raise RefusedError(
            f"{name}: {setting} is no address of an API; write it like https://api.example.com (no user)."
        )
    if address.scheme == "http" and not is_loopback(address.hostname):
        raise RefusedError(
            f"{name}: http://{address.hostname} would carry the key in the clear; set {setting} to https://…"
        )


class Http:
    """GETs against one base address. `name` (source.entity) stands in every message. Use it with `with`."""

    def __init__(self, name: str, connection: RestConnection) -> None:
        check_base(name, connection.base_url)
        self._name = name
        self._connection = connection
        self._base = connection.base_url.rstrip("/")
        self._client = self._opened()
        self._pause_until = 0.0
        self.requests = 0
        self.answered_at: datetime | None = None
        """When the last answer was sent, by the service's own clock, where it says so."""

    def _opened(self) -> httpx.Client:
        return client(
            self._base,
            headers={
                "Authorization": f"Bearer {self._connection.key}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": "user-analytics",
            },
            seconds=self._connection.timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, parameters: Mapping[str, str], parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of the decompressed body of a 200 answer; it raises ValueError for a broken one.

        Order: wait as long as the last answer's rate limit asks; send; on a passing failure (connection,
        timeout, 429, 5xx, a body that ends early or is broken) wait for Retry-After, or with growing jittered
        pauses, and send again, `tries` times in all. Raises AnswerError for an answer that would stay the
        same, RestError for everything else.
        """
        connection = self._connection
        try:
            for attempt in stamina.retry_context(
                on=_pause,
                attempts=connection.tries,
                timeout=None,
                wait_initial=connection.wait_initial,
                wait_jitter=connection.wait_jitter,
                wait_max=connection.wait_max,
            ):
                with attempt:
                    body = self._get_once(path, parameters)
                    try:
                        return parse(body)
                    except ValueError as error:
                        problem = self._clean(str(error))
                        raise self._passing(path, f"sent a broken answer: {problem}") from None
        except _PassingError as error:
            tried = f" Tried {connection.tries} times; run again later." if connection.tries > 1 else ""
            raise RestError(f"{error}{tried}", error.status) from None
        raise AssertionError("a retry loop ends by returning or raising")

    def _get_once(self, path: str, parameters: Mapping[str, str]) -> bytes:
        pause = self._pause_until - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        self.requests += 1
        seconds = self._connection.deadline
        try:
            # Also its head can come a byte at a time, and each byte is a sign of life.
            response, body = within(seconds, partial(self._answer, self._client, path, parameters))
        except TimeoutError:
            self._client = self._opened()
            raise self._passing(path, f"took longer than {seconds:g} s for one answer") from None
        except httpx.TimeoutException:
            raise self._passing(path, f"did not answer within {self._connection.timeout:g} s") from None
        except httpx.ConnectError as error:
            raise self._passing(path, f"can't be reached ({self._clean(str(error))})") from None
        except httpx.TransportError as error:
            raise self._passing(path, f"broke the connection ({self._clean(str(error))})") from None
        self.answered_at = date_of(response.headers)
        self._note_rate_limit(response)
        if response.status_code == 200:
            return body
        raise self._problem(path, response, body)

    def _answer(
        self, client: httpx.Client, path: str, parameters: Mapping[str, str]
    ) -> tuple[httpx.Response, bytes]:
        with client.stream("GET", self._base + path, params=dict(parameters)) as response:
            self._check_place(response)
            return response, self._body(response)

    def _check_place(self, response: httpx.Response) -> None:
        """A redirect is never followed: the key and the request stay with the host of the settings."""
        if response.is_redirect:
            target = urlsplit(response.headers.get("location", ""))
            place = f"{target.scheme}://{target.hostname}" if target.hostname else "another path"
            raise RefusedError(
                f"{self._name}: {self._base} redirects to {self._clean(place)}; nothing was sent there. "
                f"If the API has moved, change {self._setting('URL')}."
            )

    def _body(self, response: httpx.Response) -> bytes:
        """Read and decompress within the size and time limits; raises on anything beyond them."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip"}:
            raise RestError(
                f"{self._name}: {self._base} sent {self._clean(encoding)}; only gzip was asked for."
            )
        limit = self._connection.max_bytes
        deadline = time.monotonic() + self._connection.deadline
        inflater = zlib.decompressobj(31) if encoding == "gzip" else None
        parts: list[bytes] = []
        size = 0
        for chunk in response.iter_raw():
            while chunk:
                if inflater is None:
                    part, chunk = chunk, b""
                else:
                    # Never more than one byte over the limit is inflated, however small the chunk.
                    try:
                        part = inflater.decompress(chunk, limit - size + 1)
                    except zlib.error:
                        raise self._passing(response.url.path, "sent broken gzip") from None
                    chunk = inflater.unconsumed_tail
                    if inflater.eof:
                        chunk = inflater.unused_data
                        inflater = zlib.decompressobj(31) if chunk else inflater
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise RestError(
                        f"{self._name}: an answer of {self._base} is larger than {limit / 2**20:g} MiB; the "
                        "rest was not read, nothing was landed. A smaller page size may help."
                    )
            if time.monotonic() > deadline:
                seconds = self._connection.deadline
                raise self._passing(response.url.path, f"took longer than {seconds:g} s for one answer")
        if inflater is not None and not inflater.eof:
            raise self._passing(response.url.path, "ended in the middle of its gzip body")
        return b"".join(parts)

    def _note_rate_limit(self, response: httpx.Response) -> None:
        """Where an answer says that no request is left, the next one waits for the reset."""
        headers = response.headers
        if headers.get("x-ratelimit-remaining") != "0":
            return
        with suppress(ValueError, TypeError):
            reset = float(headers.get("x-ratelimit-reset", ""))
            if reset > 10**8:
                # A moment, not a duration: compare it with the service's own clock.
                reset -= parsedate_to_datetime(headers["date"]).timestamp()
            self._pause_until = time.monotonic() + min(max(reset, 0.0), self._connection.longest_pause)

    def _problem(self, path: str, response: httpx.Response, body: bytes) -> RestError:
        status = response.status_code
        if status in {401, 403}:
            return AnswerError(
                f"{self._name}: {self._base} refused the key ({status}); check {self._setting('KEY')}.",
                status,
                None,
            )
        said, code = _vendor_words(body)
        words = f"{path} answered {status}" + (f" ({self._clean(said)})" if said else "")
        if status not in _RETRIED:
            return AnswerError(
                f"{self._name}: {self._base}{words}; the request and the API do not fit together.",
                status,
                code,
            )
        wait = _retry_after(response.headers)
        if wait is not None and wait > self._connection.longest_pause:
            return RestError(
                f"{self._name}: {self._base}{words} and asks to come back in {wait:.0f} s; run again then.",
                status,
            )
        return _PassingError(f"{self._name}: {self._base}{words}.", wait, status)

    def _passing(self, path: str, what: str) -> _PassingError:
        return _PassingError(f"{self._name}: {self._base}{path} {what}.")

    def _setting(self, part: str) -> str:
        return f"ANALYTICS_{self._name.partition('.')[0].upper()}_{part}"

    def _clean(self, text: str) -> str:
        """Foreign words for a message: one line, short, without the key."""
        line = " ".join(text.replace(self._connection.key or "\0", "***").split())
        return "".join(letter for letter in line if letter.isprintable())[:200]


def _pause(error: Exception) -> bool | float:
    if not isinstance(error, _PassingError):
        return False
    _LOG.info("%s Asking again.", error)
    return True if error.wait is None else error.wait


def date_of(headers: httpx.Headers) -> datetime | None:
    """When an answer was sent, by the clock of who sent it, to the second."""
    with suppress(ValueError, TypeError, KeyError):
        return parsedate_to_datetime(headers["date"])
    return None


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds, from a number or from a date compared with the answer's own."""
    text = headers.get("retry-after")
    if text is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        then: datetime = parsedate_to_datetime(text)
        now = date_of(headers)
        return max(0.0, (then - now).total_seconds()) if now is not None else None
    return None


def _vendor_words(body: bytes) -> tuple[str | None, str | None]:
    """Message and code of an error answer, in either vendor's shape: {error: {…}} or {errors: [{…}]}."""
    problem: Any = None
    with suppress(ValueError, LookupError, TypeError):
        document = orjson.loads(body[: 2**16])
        problem = document["error"] if "error" in document else document["errors"][0]
    if not isinstance(problem, dict):
        return None, None
    message, code = problem.get("message"), problem.get("code")
    return message if isinstance(message, str) else None, code if isinstance(code, str) else None
