"""What a service says beside the records: when to ask again, where the next page is, what was wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson

_MESSAGES = ("message", "detail", "error_description", "title")
"""Where an error's sentence stands, by how many APIs have it so."""

_NO_TIME = (ValueError, TypeError, OverflowError)
"""What words raise that are no time."""


def date_of(headers: httpx.Headers) -> datetime | None:
    """When an answer was sent, by the clock of who sent it, to the second."""
    with suppress(*_NO_TIME, KeyError):
        return parsedate_to_datetime(headers["date"])
    return None


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds, from a number or from a date compared with the answer's own; None where it says no time."""
    text = headers.get("retry-after")
    if text is None:
        return None
    with suppress(ValueError):
        return max(0.0, _finite(text))
    with suppress(*_NO_TIME):
        then: datetime = parsedate_to_datetime(text)
        now = date_of(headers)
        return max(0.0, (then - now).total_seconds()) if now is not None else None
    return None


def spent(headers: httpx.Headers) -> float | None:
    """Seconds until requests are allowed again, where an answer says that none is left."""
    for word in ("x-ratelimit", "ratelimit"):
        if headers.get(f"{word}-remaining") == "0":
            with suppress(*_NO_TIME, KeyError):
                reset = _finite(headers.get(f"{word}-reset", ""))
                if reset > 10**8:
                    # A moment, not a duration: compare it with the service's own clock.
                    reset -= parsedate_to_datetime(headers["date"]).timestamp()
                return max(reset, 0.0)
    return None


def _finite(text: str) -> float:
    """A number that can be waited for. Raises ValueError: `nan` and `inf` are numbers to Python."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def next_link(response: httpx.Response) -> str | None:
    """The address of the next page by the `Link` headers (RFC 8288), as it stands there."""
    for link in response.links.values():
        if "next" in link.get("rel", "").lower().split():
            return link.get("url")
    return None


def problem(body: bytes) -> tuple[str | None, str | None]:
    """Message and code of an error's answer, as most APIs have them: {error: {…}}, {errors: [{…}]}, {…}."""
    document: Any = None
    with suppress(ValueError):
        document = orjson.loads(body[: 2**16])
    if not isinstance(document, dict):
        return None, None
    inner = document.get("error", document.get("errors"))
    if isinstance(inner, list) and inner:
        inner = inner[0]
    found = inner if isinstance(inner, dict) else document
    message = _text(found, *_MESSAGES) or (inner if isinstance(inner, str) else None)
    return message, _text(found, "code")


def _text(found: Mapping[str, Any], *names: str) -> str | None:
    return next((found[name] for name in names if isinstance(found.get(name), str)), None)
