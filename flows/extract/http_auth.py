"""How a request takes its key, as the declaration of the API says, and what of it no message may show."""

from __future__ import annotations

import base64

import httpx

from flows import scrubbing
from transforms.entities import Api


def headers(api: Api, key: str) -> httpx.Headers:
    """The headers of every request; what the protocol needs counts before what is declared."""
    given = httpx.Headers({"Accept": "application/json"})
    for more in (api.headers, _authorization(api, key), {"Accept-Encoding": "gzip"}):
        given.update(more)
    given.setdefault("User-Agent", "user-analytics")
    return given


def with_key(url: httpx.URL, api: Api, key: str) -> httpx.URL:
    """The address, with the key where the API takes it there, in the place of one that it holds."""
    in_query = api.auth == "api_key" and api.location == "query"
    return url.copy_set_param(api.name, key) if in_query else url


def scrubbed(text: str, key: str) -> str:
    """A text of others without the key in any form that it is sent in."""
    if not key:
        return text
    return scrubbing.scrubbed(text.replace(key, scrubbing.STARS), {key, *scrubbing.of_key(key)})


def _authorization(api: Api, key: str) -> dict[str, str]:
    match api.auth, api.location:
        case "bearer", _:
            return {"Authorization": f"Bearer {key}"}
        case "http_basic", _:
            user, _, password = key.partition(":")
            return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
        case "api_key", "header":
            return {api.name: f"{api.prefix}{key}"}
    return {}
