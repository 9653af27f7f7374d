"""A pooler between clients and PostgreSQL, as PgBouncer is one: it answers a client's start itself, with a
number of its own for the process that serves, and lends it a session for each transaction, or for good.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from queue import LifoQueue
from threading import Thread
from typing import Literal

import psycopg

_SESSIONS = 3
_PARAMETERS = ("server_version", "client_encoding", "standard_conforming_strings", "integer_datetimes")
_NO_TLS = {80877103, 80877104}
_NOBODY = 1


class Gone(Exception):
    """One side has closed its connection."""


@contextmanager
def pooled(dsn: str, mode: Literal["transaction", "session"]) -> Iterator[str]:
    """The same database through such a pooler, while the block lasts."""
    with ExitStack() as opened:
        servers: LifoQueue[socket.socket] = LifoQueue()
        for _ in range(_SESSIONS):
            # libpq signs in; what follows is spoken here.
            session = opened.enter_context(closing(psycopg.connect(dsn, autocommit=True, sslmode="disable")))
            servers.put(opened.enter_context(socket.socket(fileno=_copy(session.fileno()))))
        told = [(name, session.info.parameter_status(name) or "") for name in _PARAMETERS]
        listening = opened.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        host, port = listening.getsockname()
        Thread(target=_serve, args=(listening, servers, told, mode), daemon=True).start()
        yield psycopg.conninfo.make_conninfo(dsn, host=host, hostaddr=host, port=port)


def _copy(descriptor: int) -> int:
    copy = socket.socket(fileno=descriptor)
    try:
        copy.setblocking(True)
        return copy.dup().detach()
    finally:
        copy.detach()


def _serve(
    listening: socket.socket, servers: LifoQueue[socket.socket], told: list[tuple[str, str]], mode: str
) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            Thread(target=_attend, args=(client, servers, told, mode), daemon=True).start()


def _attend(
    client: socket.socket, servers: LifoQueue[socket.socket], told: list[tuple[str, str]], mode: str
) -> None:
    server: socket.socket | None = None
    with client, suppress(Gone, OSError):
        while struct.unpack("!i", _exactly(client, _length(client))[:4])[0] in _NO_TLS:
            client.sendall(b"N")
        client.sendall(b"R" + struct.pack("!ii", 8, 0))
        for name, value in told:
            text = f"{name}\0{value}\0".encode()
            client.sendall(b"S" + struct.pack("!i", 4 + len(text)) + text)
        client.sendall(b"K" + struct.pack("!iii", 12, _NOBODY, _NOBODY) + b"Z" + struct.pack("!i", 5) + b"I")
        while (message := _message(client))[:1] != b"X":
            server = server or servers.get()
            server.sendall(message)
            if message[:1] in b"QS":
                while (answer := _message(server))[:1] != b"Z":
                    client.sendall(answer)
                if answer[-1:] == b"I" and mode == "transaction":
                    servers.put(server)
                    server = None
                client.sendall(answer)
    if server is not None:
        servers.put(server)


def _message(peer: socket.socket) -> bytes:
    kind = _exactly(peer, 1)
    size = _exactly(peer, 4)
    return kind + size + _exactly(peer, struct.unpack("!i", size)[0] - 4)


def _length(peer: socket.socket) -> int:
    return int(struct.unpack("!i", _exactly(peer, 4))[0]) - 4


def _exactly(peer: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = peer.recv(count - len(found))
        if not part:
            raise Gone
        found += part
    return found
