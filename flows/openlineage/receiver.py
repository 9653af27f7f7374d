"""Where events go: a file, one a line, or an address that takes them by HTTP."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx

from flows.http_client import client
from flows.hung import within
from flows.stores.warehouse_errors import scrub

if TYPE_CHECKING:
    from flows.settings import Settings

_ENDPOINT = "/api/v1/lineage"
"""The specification's, where the setting names a server alone."""
_SECONDS = 2.0
"""What one event may take in all, however many signs of life its receiver gives."""
PATIENCE_SECONDS = 10.0
"""What all events of `AGAIN_AFTER_SECONDS` may take together: a run has hundreds, and waits for each."""
AGAIN_AFTER_SECONDS = 300.0
"""How long one that did not take an event is left alone."""
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(frozen=True)
class Trouble:
    """Why events do not arrive, and what to do."""

    reason: str
    advice: str = "correct ANALYTICS_OPENLINEAGE or start what listens there."

    @classmethod
    def answered(cls, status: int) -> Self:
        """By an answer that takes nothing."""
        if status in _REFUSED:
            return cls(f"it answers {status}", "set ANALYTICS_OPENLINEAGE_KEY to a key that it takes.")
        return cls(f"it answers {status}")


class Receiver:
    """Takes the events of one process. Nothing here raises: what can't be told keeps no run from its work.

    After an event that it does not take, the others are not tried for a while: a receiver that is away would
    make each build wait. `trouble` says what happened, in a sentence, until it takes one again.
    """

    def __init__(self, target: str, key: str | None = None) -> None:
        self._target = target
        self._key = key
        self._lock = threading.Lock()
        self._is_told = False
        self.trouble: str | None = None
        self._again_at = 0.0
        self._waited, self._waited_since = 0.0, -AGAIN_AFTER_SECONDS
        self.run: tuple[str, str] | None = None
        """Id and job of the run that builds and landings are part of, once it has begun."""

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """The receiver that the settings name; None where they name none."""
        if not settings.openlineage:
            return None
        key = settings.openlineage_key
        return cls(settings.openlineage, key.get_secret_value() if key is not None else None)

    @cached_property
    def _address(self) -> str | None:
        """None where a file takes the events. Raises ValueError for what names neither."""
        address = urlsplit(self._target)
        if address.scheme not in {"http", "https"}:
            if re.match(r"(?!file:)\w+://|[\w.-]+:\d+(/|$)", self._target):
                raise ValueError("it is neither a file nor written like http://marquez:5000")
            return None
        path = address.path if address.path not in {"", "/"} else _ENDPOINT
        # Of a user in the address the client would make the one header that the key goes into.
        host = address.netloc.rpartition("@")[2] if self._key is not None else address.netloc
        return address._replace(path=path, netloc=host).geturl()

    @cached_property
    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key is not None else None
        return client(self._target, seconds=_SECONDS, headers=headers)

    @property
    def shown(self) -> str:
        """The target as anybody may read it: nobody's name, password or token."""
        return re.sub(r"(://)[^/?#]*@|\?.*", r"\1", self._target) if "://" in self._target else self._target

    def tried(self) -> Trouble | None:
        """What keeps events from there, without sending one; None where nothing does that can be known."""
        try:
            if self._address is not None:
                # Whatever else it answers, it is there: it need not answer a GET.
                status = within(_SECONDS, partial(self._client.get, self._address)).status_code
                return Trouble.answered(status) if status in _REFUSED else None
            self._append("")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Trouble(scrub(str(error)) if str(error) else type(error).__name__)
        return None

    def send(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Make an event and hand it over, or note why that was not possible."""
        if self.trouble is not None and time.monotonic() < self._again_at:
            return
        try:
            event = make()
            if self._address is None:
                self._append(json.dumps(event, ensure_ascii=False) + "\n")
            elif (waited := self._post(self._address, event)) > PATIENCE_SECONDS:
                self._give_up(Trouble(f"it is slow, the last events took {waited:.0f} s"))
                return
        except TimeoutError:
            self._give_up(Trouble(f"no whole answer came within {_SECONDS:g} s"))
        except httpx.HTTPStatusError as error:
            self._give_up(Trouble.answered(error.response.status_code))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._give_up(Trouble(scrub(str(error)) if str(error) else type(error).__name__))
        else:
            with self._lock:
                self.trouble, self._is_told = None, False

    def _post(self, address: str, event: Mapping[str, Any]) -> float:
        """Hand an event over; returns how many seconds were lately spent on that. Raises TimeoutError."""
        begun = time.monotonic()
        try:
            within(_SECONDS, partial(self._client.post, address, json=event)).raise_for_status()
        except TimeoutError:
            self.__dict__.pop("_client", None)  # who hangs keeps it
            raise
        with self._lock:
            if begun - self._waited_since >= AGAIN_AFTER_SECONDS:
                self._waited, self._waited_since = 0.0, begun
            self._waited += time.monotonic() - begun
            return self._waited

    def told(self) -> str | None:
        """What happened, the first time that somebody asks; None when all is well."""
        with self._lock:
            if self.trouble is None or self._is_told:
                return None
            self._is_told = True
            return self.trouble

    def _append(self, line: str) -> None:
        path = Path(self._target.removeprefix("file://")).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            # One write at the file's end: processes that append at once do not mix their lines.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)

    def _give_up(self, why: Trouble) -> None:
        self._again_at = time.monotonic() + AGAIN_AFTER_SECONDS
        self.trouble = (
            f"OpenLineage events do not reach {self.shown}: {why.reason}. The run goes on without them; "
            f"{why.advice}"
        )
