"""The fault switch: what a real service does on a bad day, on demand and counted.

A fault is a JSON object: `kind` (see KINDS), `path` (prefix of the requests it meets), `skip` (how many pass
first), `count` (how many it meets; null: all), `probability` (of each), and what its kind needs.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.sandbox.apis.store import Store

KINDS = {
    "status": "answer `status` (429, 500, 503) with `retry_after` as Retry-After when given",
    "timeout": "answer after `seconds`",
    "reset": "reset the connection instead of answering",
    "truncated": "end the connection in the middle of the body",
    "cut_json": "send half of the JSON as if it were all",
    "repeated_cursor": "answer the first page again, with has_more",
    "lying_has_more": "say the opposite in has_more",
    "gzip_bomb": "send `bytes` blanks, compressed about a thousandfold",
    "redirect": "redirect to `location`",
    "next_link": "name `location` as the next page in body and headers",
    "bad_record": "put `record` (text, as it stands) before the records",
    "put": "put `objects` into the list `list` before answering",
    "delete": "take object `id` out of the list `list` before answering",
}


@dataclass
class Fault:
    """One armed fault and how often it was met."""

    kind: str
    path: str = "/v"
    skip: int = 0
    count: int | None = 1
    probability: float = 1.0
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    met: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"'{self.kind}' is no fault; known are {', '.join(KINDS)}.")
        self._random = random.Random(self.seed)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Fault:
        """The fault a control request describes; raises ValueError when it makes no sense."""
        own = {"kind", "path", "skip", "count", "probability", "seed"}
        if "kind" not in document:
            raise ValueError(f"'kind' is missing; known are {', '.join(KINDS)}.")
        arguments = {name: value for name, value in document.items() if name not in own}
        return cls(**{name: value for name, value in document.items() if name in own}, arguments=arguments)

    def meets(self, path: str) -> bool:
        """Whether this request is one it meets; counts it."""
        if not path.startswith(self.path) or (self.count is not None and self.met >= self.count):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self._random.random() >= self.probability:
            return False
        self.met += 1
        return True


def _bomb(size: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * 2**20
    parts = [compressor.compress(block) for _ in range(size // len(block) + 1)]
    return b"".join([compressor.compress(b"["), *parts, compressor.flush()])


class FaultSwitch:
    """ASGI application around the real one; a request that none of `faults` meets passes untouched."""

    def __init__(self, app: ASGIApp, store: Store, faults: list[Fault]) -> None:
        self._app = app
        self._store = store
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with the first fault that meets it."""
        fault = None
        if scope["type"] == "http" and not scope["path"].startswith("/_control"):
            fault = next((item for item in self._faults if item.meets(scope["path"])), None)
        if fault is None:
            await self._app(scope, receive, send)
        else:
            await self._misbehave(fault, scope, receive, send)

    async def _misbehave(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        arguments = fault.arguments
        match fault.kind:
            case "status":
                headers = {"Retry-After": str(arguments["retry_after"])} if "retry_after" in arguments else {}
                await _answer(
                    send, int(arguments.get("status", 500)), b'{"error":{"message":"fault"}}', headers
                )
            case "timeout":
                await asyncio.sleep(float(arguments.get("seconds", 5)))
                await self._app(scope, receive, send)
            case "reset":
                await _end(receive, send, reset=True)
            case "gzip_bomb":
                body = await asyncio.to_thread(_bomb, int(arguments.get("bytes", 2**28)))
                await _answer(send, 200, body, {"Content-Encoding": "gzip"})
            case "redirect":
                await _answer(send, 302, b"", {"Location": str(arguments["location"])})
            case "put" | "delete":
                if fault.kind == "put":
                    self._store.put(arguments["list"], arguments["objects"])
                else:
                    self._store.delete(arguments["list"], arguments["id"])
                await self._app(scope, receive, send)
            case _:
                await self._falsify(fault, scope, receive, send)

    async def _falsify(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the real answer be made, then send it changed."""
        if fault.kind == "repeated_cursor":
            query = dict(parse_qsl(scope["query_string"].decode()))
            query.pop("starting_after", None)
            query.pop("offset", None)
            scope = {**scope, "query_string": urlencode(query).encode()}
        status, body = await self._real_answer(scope, receive)
        headers: dict[str, str] = {}
        match fault.kind:
            case "truncated":
                await _start(send, status, {"Content-Length": str(len(body))})
                await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
                await _end(receive, send, reset=False)
                return
            case "cut_json":
                body = body[: len(body) // 2]
            case "repeated_cursor":
                body = body.replace(b'"has_more":false', b'"has_more":true', 1)
            case "lying_has_more":
                said = b'"has_more":true' in body
                words = (b'"has_more":true', b'"has_more":false')
                body = body.replace(words[not said], words[said], 1)
            case "next_link":
                location = str(fault.arguments["location"])
                headers["Link"] = f'<{location}>; rel="next"'
                if body.startswith(b"{"):
                    links = {"next": location, "_metadata": {"next": location}}
                    body = orjson.dumps(links)[:-1] + b"," + body[1:]
            case "bad_record":
                record = str(fault.arguments["record"]).encode("utf-8", "surrogateescape")
                start = body.index(b"[") + 1
                comma = b"" if body[start : start + 1] == b"]" else b","
                body = body[:start] + record + comma + body[start:]
        await _answer(send, status, body, headers)

    async def _real_answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        status = 500
        parts: list[bytes] = []

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, keep)
        return status, b"".join(parts)


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    pairs = {"Content-Type": "application/json", **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    await _start(send, status, {"Content-Length": str(len(body)), **headers})
    await send({"type": "http.response.body", "body": body})


async def _end(receive: Receive, send: Send, *, reset: bool) -> None:
    """End the connection below HTTP; uvicorn's `send` is a method of the object that holds the transport."""
    transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]
    if reset:
        # No lingering: the kernel answers with RST instead of FIN.
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        continue
