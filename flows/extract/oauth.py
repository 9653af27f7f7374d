"""Access tokens (OAuth 2, the grant of client credentials), asked for as the declaration of an API says.

A token is kept in memory, for all lists of its API, for nine tenths of the time that it is said to hold, or
until it is refused. It goes to the host of the settings only, the client's secret only to where the tokens
are; neither is in any message or log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from flows import scrubbing, setting_checks
from flows.api_settings import KEY, variable
from flows.extract.http import AnswerError, Http, RefusedError, RestConnection, check_base
from flows.extract.http_said import problem
from transforms.entities import Api

_PLACE = "`token_url` in transforms/sources"
_OF_ITS_TIME = 0.9


def opened(name: str, connection: RestConnection, api: Api) -> Http:
    """The requests to an API, which takes its key or a token for it, as `api` says. Raises RefusedError."""
    kind = _WithToken if api.auth == "oauth2" else Http
    return kind(name, connection, api)


def check(name: str, connection: RestConnection, api: Api) -> None:
    """Raise RefusedError unless the key is a client's, and may be sent where the tokens are."""
    user, _, secret = connection.key.partition(":")
    if not (user and secret):
        raise RefusedError(
            f"{name}: {variable(name, KEY)} is no client's id and secret, for which its API gives tokens; "
            "write them with a colon between them, client_id:client_secret."
        )
    check_base(name, _address(connection, api), _PLACE)


@dataclass
class _Client:
    """What is known of one client at one place."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str | None = field(default=None, repr=False)
    until: float | None = None


_CLIENTS: dict[tuple[object, ...], _Client] = {}


class _WithToken(Http):
    """Each request has a token; where that is refused, the request is sent once more with a new one."""

    def __init__(self, name: str, connection: RestConnection, api: Api) -> None:
        check(name, connection, api)
        super().__init__(name, connection, api)
        self._address = _address(connection, api)
        said = (*sorted(api.token_parameters.items()), api.token_client)
        self._kept = _CLIENTS.setdefault((self._address, connection.key, said), _Client())
        self._token: str | None = None

    def _once(self, url: httpx.URL, sent: Mapping[str, Any] | None) -> bytes:
        self._take()
        try:
            return super()._once(url, sent)
        except AnswerError as error:
            if error.status != HTTPStatus.UNAUTHORIZED:
                raise
        self._take(refused=self._token)
        return super()._once(url, sent)

    def _take(self, refused: str | None = None) -> None:
        """Send the token that holds, another than the one that was refused."""
        kept = self._kept
        with kept.lock:
            is_over = kept.until is not None and time.monotonic() >= kept.until
            if kept.token is None or is_over or kept.token == refused:
                kept.token, kept.until = None, None
                asked = time.monotonic()
                with _Giving(self._name, self._connection, self._api) as giving:
                    kept.token, seconds = giving.token()
                kept.until = None if seconds is None else asked + seconds * _OF_ITS_TIME
            self._token = kept.token
        self._client.headers["Authorization"] = f"Bearer {self._token}"

    def _refusal(self, status: int, words: str) -> str:
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return (
                f"{self._base} refused the token that {self._address} gave ({status}); see there what the "
                f"client of {variable(self._name, KEY)} may read, and whether `token_parameters` in "
                "transforms/sources ask for it (scope, audience)."
            )
        return super()._refusal(status, words)

    def _clean(self, text: str) -> str:
        return super()._clean(scrubbing.scrubbed(text, {self._token} if self._token else ()))


class _Giving(Http):
    """The server that gives tokens: one request, with the client's id and secret."""

    _sends = "data"

    def __init__(self, name: str, connection: RestConnection, api: Api) -> None:
        in_header = api.token_client == "header"
        there = replace(connection, base_url=_address(connection, api))
        super().__init__(name, there, Api(auth="http_basic" if in_header else "none"), _PLACE)
        user, _, secret = connection.key.partition(":")
        own = {} if in_header else {"client_id": user, "client_secret": secret}
        self._form = {"grant_type": "client_credentials", **api.token_parameters, **own}

    def token(self) -> tuple[str, float | None]:
        """A token, and for how many seconds it holds, where that is said. Raises RefusedError, RestError."""
        body = self.follow(httpx.URL(self._base), _json, self._form)
        given = orjson.loads(body)
        token = str(given.get("access_token") or "") if isinstance(given, dict) else ""
        try:
            setting_checks.key(token)
        except ValueError:
            said = problem(body)[0]
            words = f"{self._base} answered without a token" + (f" ({self._clean(said)})" if said else "")
            raise RefusedError(f"{self._name}: {self._refusal(HTTPStatus.OK, words)}") from None
        seconds = None
        with suppress(TypeError, ValueError):
            seconds = float(given["expires_in"]) if given.get("expires_in") is not None else None
        return token, seconds

    def _refusal(self, status: int, words: str) -> str:  # noqa: ARG002 - each is about the same words
        return (
            f"{words}, where a token was asked for; check {variable(self._name, KEY)} "
            "(client_id:client_secret), and `token_url`, `token_client` and `token_parameters` in "
            "transforms/sources."
        )


def _json(body: bytes) -> bytes:
    orjson.loads(body)
    return body


def _address(connection: RestConnection, api: Api) -> str:
    """Where tokens are asked for: a path is one at the host of the settings."""
    if not api.token_url.startswith("/"):
        return api.token_url
    base = urlsplit(connection.base_url)
    return f"{base.scheme}://{base.netloc}{api.token_url}"
