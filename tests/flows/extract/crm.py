"""An API that the project has no word about: deals, listed in each of the ways in which APIs list."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from flows.extract import Extract
from flows.extract.http import RestConnection
from flows.extract.rest import read
from transforms.contract import Partition
from transforms.entities import Rest, SourceEntity

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
KEY = "crm_key_canary"


@dataclass
class Sent:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: str
    body: Any = None


@dataclass
class Answer:
    """What is sent back, for a test to spoil."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Crm:
    """The service. `most` is its largest page; `spoil` sees the number of each request, from 0, and its
    answer, and may change both it and the deals.
    """

    url: str = ""
    deals: list[dict[str, Any]] = field(default_factory=list)
    most: int = 100
    sent: list[Sent] = field(default_factory=list)
    spoil: Callable[[int, Answer], None] = lambda number, answer: None
    otherwise: Callable[[], Any] | None = None
    """What each page holds instead, where it is set."""
    client: str = ""
    """Id and secret, with a colon: whom it gives tokens at /oauth/token. Where set, pages ask for one."""
    holds: Any = 3600
    """How many seconds it says that a token holds."""
    tokens: list[str] = field(default_factory=list)
    """Those that it takes."""

    def put(self, count: int, first: int = 0) -> list[str]:
        """So many deals, one a minute before now; their ids."""
        made = [deal(number) for number in range(first, first + count)]
        self.deals += made
        return [one["id"] for one in made]

    def token(self, sent: Sent) -> Answer:
        """What a client gets (RFC 6749, 4.4 and 5)."""
        form = sent.body or {}
        kind, _, told = sent.headers.get("Authorization", "").partition(" ")
        who = (
            b64decode(told).decode()
            if kind == "Basic"
            else ":".join(str(form.get(name)) for name in ("client_id", "client_secret"))
        )
        if form.get("grant_type") != "client_credentials":
            return Answer({"error": "unsupported_grant_type"}, 400)
        if who != self.client:
            return Answer({"error": "invalid_client", "error_description": f"who is {who}?"}, 401)
        self.tokens.append(f"token-canary-{len(self.sent)}")
        life = {} if self.holds is None else {"expires_in": self.holds}
        return Answer({"access_token": self.tokens[-1], "token_type": "Bearer", **life})

    def answered(self, sent: Sent, is_there: bool) -> Answer:
        """A token, a page, or that there is none for whoever asks."""
        if sent.path == "/oauth/token":
            return self.token(sent)
        if not is_there:
            return Answer({"message": "no such page"}, 404)
        taken = sent.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.answer(sent) if not self.client or taken in self.tokens else Answer({}, 401)

    def answer(self, sent: Sent) -> Answer:
        """The page that a request asks for."""
        if self.otherwise is not None:
            return Answer(self.otherwise())
        asked = {**sent.query, **(sent.body or {})}
        since, until = (
            str(asked.get(name, bound)) for name, bound in (("updated_from", ""), ("updated_to", "9"))
        )
        deals = [one for one in self.deals if since <= one["updated_at"] < until]
        size = min(int(asked.get("per_page", 20)), self.most)
        way = sent.path.rpartition("/")[2]
        number = int(asked.get("page", 1))
        start = (number - 1) * size if way in {"numbered", "deals"} else int(asked.get("after", 0))
        page, behind = deals[start : start + size], start + size
        more = behind < len(deals)
        there = f"{self.url}{sent.path}?{urlencode({**sent.query, 'after': behind})}"
        match way:
            case "numbered" | "deals":
                pages = -(-len(deals) // size)
                return Answer({"data": {"items": page}, "meta": {"total": len(deals), "pages": pages}})
            case "linked":
                return Answer(
                    page, headers={"Link": f'<{there}>; rel="next", <x>; rel="last"'} if more else {}
                )
            case "addressed":
                return Answer({"items": page, "@next.link": there if more else None})
            case "search" | "tokens":
                flags = {"more": more, "last": not more}
                return Answer({"items": page, "next": {"after": str(behind) if more else ""}, **flags})
            case "account":
                return Answer({"id": "acc_1", "plan": "big", "updated_at": f"{NOW:%FT%TZ}"})
        return Answer(page)


def deal(number: int, **fields: Any) -> dict[str, Any]:
    """A deal."""
    at = NOW - timedelta(minutes=number + 1)
    return {
        "id": f"d{number:05d}",
        "amount": "100.50",
        "currency": "eur",
        "stage": "open",
        "created_at": "2025-10-07T12:00:00Z",
        "updated_at": f"{at:%FT%TZ}",
        **fields,
    }


@contextmanager
def serving(crm: Crm) -> Iterator[Crm]:
    """Serve it on loopback, below /api/v2, while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            told = self.rfile.read(length)
            is_form = "form" in self.headers.get("Content-Type", "")
            body = (dict(parse_qsl(told.decode())) if is_form else json.loads(told)) if length else None
            query = dict(parse_qsl(address.query))
            headers = {name.title(): value for name, value in self.headers.items()}
            path = address.path.removeprefix("/api/v2")
            sent = Sent(self.command, path, query, headers, self.path, body)
            crm.sent.append(sent)
            is_there = address.path.startswith("/api/v2/")
            answer = crm.answered(sent, is_there)
            crm.spoil(len(crm.sent) - 1, answer)
            text = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(text)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    crm.url = f"http://127.0.0.1:{server.server_port}/api/v2"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield crm
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def listed(way: str, **words: Any) -> SourceEntity:
    """Its list of deals, declared."""
    read = Rest(
        **{
            "path": f"/{way}",
            "records": "items",
            "limit_param": "per_page",
            "page_size": 20,
            "since": "updated_from",
            "until": "updated_to",
            "time_format": "iso",
            "recorded_at": "updated_at",
            "event_time": "updated_at",
            **words,
        }
    )
    return SourceEntity(
        source="crm",
        name="deals",
        read=read,
        key=("id",),
        grain="one row per version of a deal",
        partition=Partition("updated_at", "day"),
    )


WAYS = {
    "numbered, with a total": listed(
        "numbered", paging="page_number", records="data.items", total_path="meta.total"
    ),
    "numbered, with pages": listed(
        "numbered", paging="page_number", records="data.items", pages_path="meta.pages"
    ),
    "numbered": listed("numbered", paging="page_number", records="data.items"),
    "linked by the header": listed("linked", paging="header_link", records=None),
    "linked by the body": listed("addressed", paging="json_link", next_path="@next.link"),
    "tokens": listed("tokens", paging="cursor", next_path="next.after", cursor_param="after"),
    "tokens, with more": listed(
        "tokens", paging="cursor", next_path="next.after", cursor_param="after", more_path="more"
    ),
    "tokens, with an end": listed(
        "tokens", paging="cursor", next_path="next.after", cursor_param="after", end_path="last"
    ),
    "search": listed("search", paging="cursor", next_path="next.after", cursor_param="after", body={}),
    "offset": listed("offset", paging="offset", records=None, offset_param="after"),
}
"""Each way that goes on, declared for the same deals."""


def asked(
    crm: Crm, entity: SourceEntity, position: Any = None, now: datetime = NOW, **limits: Any
) -> Extract:
    """A read of the list; nothing is asked yet."""
    short: dict[str, Any] = {"wait_initial": 0.01, "wait_jitter": 0.0, **limits}
    return read(entity, RestConnection(crm.url, KEY, **short), position, now)


def ids(extract: Extract) -> list[str]:
    """Ids of what a read brings, in order."""
    return [one for batch in extract.batches for one in batch.column("id").to_pylist()]
