"""One request to one host, as often as it takes: the connection below rest.py.

What it holds to: the host of the settings and no other, a key that leaves over TLS only (or loopback), time
and size limits counted after decompression, and the pace the service asks for.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import stamina

from flows import setting_checks
from flows.addresses import is_loopback
from flows.api_settings import KEY, URL, variable
from flows.extract import SourceError, SourceRefused, http_auth, http_said
from flows.http_client import client
from flows.hung import within
from transforms.entities import Api

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


def check_base(name: str, base_url: str, place: str | None = None) -> None:
    """Raise RefusedError unless the key may be sent to this address, which stands at `place` (a setting)."""
    place = place or variable(name, URL)
    try:
        setting_checks.address(base_url)
        is_address = httpx.URL(base_url).host != ""
    except (ValueError, httpx.InvalidURL):
        is_address = False
    address = urlsplit(base_url) if is_address else None
    if address is None or address.username is not None or address.query or address.fragment:
        raise RefusedError(
            f"{name}: {place} is no address of an API; write it like https://api.example.com or "
            "https://example.com/api/v2 (no user, nothing behind ? or #)."
        )
    if address.scheme == "http" and not is_loopback(address.hostname):
        raise RefusedError(
            f"{name}: http://{address.hostname} would carry the key in the clear; set {place} to https://…"
        )


class Http:
    """Requests to one base address, asked as `api` says, which stands at `place` (`check_base`). `name`
    (source.entity) stands in every message. Use it with `with`.
    """

    _sends: Literal["json", "data"] = "json"
    """How a body goes: as JSON, or as a form."""

    def __init__(
        self, name: str, connection: RestConnection, api: Api | None = None, place: str | None = None
    ) -> None:
        check_base(name, connection.base_url, place)
        self._name = name
        self._place = place or variable(name, URL)
        self._connection = connection
        self._api = api or Api()
        self._base = connection.base_url.rstrip("/")
        self._client = self._opened()
        self._asked = httpx.URL(self._base)
        self._pause_until = 0.0
        self.requests = 0
        self.answered_at: datetime | None = None
        """When the last answer was sent, by the service's own clock, where it says so."""
        self.next_link: str | None = None
        """The address of the next page by the last answer's headers, as it stands there."""

    def _opened(self) -> httpx.Client:
        return client(
            self._base,
            headers=http_auth.headers(self._api, self._connection.key),
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

    def get(
        self,
        path: str,
        parameters: Mapping[str, str],
        parse: Callable[[bytes], T],
        body: Mapping[str, Any] | None = None,
    ) -> T:
        """What `parse` makes of the decompressed body of a 200 answer; it raises ValueError for a broken one.
        With a `body` it is a POST of that, as JSON, which changes nothing there: a search.

        Order: wait as long as the last answer's rate limit asks; send; on a passing failure (connection,
        timeout, 429, 5xx, a body that ends early or is broken) wait for Retry-After, or with growing jittered
        pauses, and send again, `tries` times in all. Raises AnswerError for an answer that would stay the
        same, RestError for everything else.
        """
        url = httpx.URL(self._base + path)
        return self.follow(url.copy_merge_params(dict(parameters)) if parameters else url, parse, body)

    def address(self, link: str) -> httpx.URL:
        """Where a link to the next page leads that the last answer held: its path and query, at the host of
        the settings. Raises RefusedError for a link to another one; nothing is sent there.
        """
        base = httpx.URL(self._base)
        try:
            url = self._asked.join(link)
        except (httpx.InvalidURL, ValueError):
            raise RestError(f"{self._name}: {self._base} gave a next page whose address is none.") from None
        # Behind a proxy many a service takes itself for one of http: it is asked where the settings say.
        is_own = url.scheme in {"http", "https"} and url.host == base.host and not url.userinfo
        if not is_own or url.port not in {base.port, None}:
            place = self._clean(f"{url.scheme}://{url.host}")
            raise RefusedError(
                f"{self._name}: {self._base} names a next page at {place}; nothing was sent there, nothing "
                f"was landed. If the API has moved, change {self._place}."
            )
        return url.copy_with(scheme=base.scheme, port=base.port, fragment=None)

    def follow(self, url: httpx.URL, parse: Callable[[bytes], T], body: Mapping[str, Any] | None = None) -> T:
        """The same of an address that `address` gave."""
        self._asked = url
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
                    answer = self._once(url, body)
                    try:
                        return parse(answer)
                    except ValueError as error:
                        problem = self._clean(str(error))
                        raise self._passing(url, f"sent a broken answer: {problem}") from None
        except _PassingError as error:
            tried = f" Tried {connection.tries} times; run again later." if connection.tries > 1 else ""
            raise RestError(f"{error}{tried}", error.status) from None
        raise AssertionError("a retry loop ends by returning or raising")

    def _once(self, url: httpx.URL, sent: Mapping[str, Any] | None) -> bytes:
        pause = self._pause_until - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        self.requests += 1
        seconds = self._connection.deadline
        try:
            # Also its head can come a byte at a time, and each byte is a sign of life.
            response, body = within(seconds, partial(self._answer, self._client, url, sent))
        except TimeoutError:
            self._client = self._opened()
            raise self._passing(url, f"took longer than {seconds:g} s for one answer") from None
        except httpx.TimeoutException:
            raise self._passing(url, f"did not answer within {self._connection.timeout:g} s") from None
        except httpx.ConnectError as error:
            raise self._passing(url, f"can't be reached ({self._clean(str(error))})") from None
        except httpx.TransportError as error:
            raise self._passing(url, f"broke the connection ({self._clean(str(error))})") from None
        self.answered_at = http_said.date_of(response.headers)
        self.next_link = http_said.next_link(response)
        spent = http_said.spent(response.headers)
        if spent is not None:
            # Where no request is left, the next one waits until there is.
            self._pause_until = time.monotonic() + min(spent, self._connection.longest_pause)
        if response.status_code == HTTPStatus.OK:
            return body
        raise self._problem(url, response, body)

    def _answer(
        self, client: httpx.Client, url: httpx.URL, sent: Mapping[str, Any] | None
    ) -> tuple[httpx.Response, bytes]:
        method = "GET" if sent is None else "POST"
        body: dict[str, Any] = {} if sent is None else {self._sends: sent}
        with client.stream(
            method, http_auth.with_key(url, self._api, self._connection.key), **body
        ) as response:
            self._check_place(response)
            return response, self._body(response)

    def _check_place(self, response: httpx.Response) -> None:
        """A redirect is never followed: the key and the request stay with the host of the settings."""
        if response.is_redirect:
            target = urlsplit(response.headers.get("location", ""))
            place = f"{target.scheme}://{target.hostname}" if target.hostname else "another path"
            raise RefusedError(
                f"{self._name}: {self._base} redirects to {self._clean(place)}; nothing was sent there. "
                f"If the API has moved, change {self._place}."
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
                        raise self._passing(response.url, "sent broken gzip") from None
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
                raise self._passing(response.url, f"took longer than {seconds:g} s for one answer")
        if inflater is not None and not inflater.eof:
            raise self._passing(response.url, "ended in the middle of its gzip body")
        return b"".join(parts)

    def _problem(self, url: httpx.URL, response: httpx.Response, body: bytes) -> RestError:
        status = response.status_code
        wait = http_said.retry_after(response.headers)
        wait = http_said.spent(response.headers) if wait is None else wait
        if status == HTTPStatus.FORBIDDEN and wait is not None:
            status = HTTPStatus.TOO_MANY_REQUESTS  # some say so of a limit, not of the key
        said, code = http_said.problem(body)
        words = f"{_shown(url)} answered {response.status_code}" + (f" ({self._clean(said)})" if said else "")
        if status not in _RETRIED:
            return AnswerError(f"{self._name}: {self._refusal(status, words)}", status, code)
        if wait is not None and wait > self._connection.longest_pause:
            return RestError(
                f"{self._name}: {words} and asks to come back in {wait:.0f} s; run again then.",
                status,
            )
        return _PassingError(f"{self._name}: {words}.", wait, status)

    def _refusal(self, status: int, words: str) -> str:
        """What to say, and to do, of a refusal that asking again does not change."""
        key = variable(self._name, KEY)
        if status == HTTPStatus.UNAUTHORIZED:
            return f"{self._base} refused the key ({status}); check {key}."
        if status == HTTPStatus.FORBIDDEN:
            # Other lists may be open to the same key: which right it lacks only the service knows.
            return f"{words}; let the key of {key} read that there, or set one that may."
        return f"{words}; the request and the API do not fit together."

    def _passing(self, url: httpx.URL, what: str) -> _PassingError:
        return _PassingError(f"{self._name}: {_shown(url)} {what}.")

    def _clean(self, text: str) -> str:
        """Foreign words for a message: one line, short, without the key."""
        line = " ".join(http_auth.scrubbed(text, self._connection.key).split())
        return "".join(letter for letter in line if letter.isprintable())[:200]


def _shown(url: httpx.URL) -> str:
    """An address for a message: its query may hold a key."""
    return str(url.copy_with(query=None, fragment=None))


def _pause(error: Exception) -> bool | float:
    if not isinstance(error, _PassingError):
        return False
    _LOG.info("%s Asking again.", error)
    return True if error.wait is None else error.wait
