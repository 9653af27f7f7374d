"""`--serve`: the written pages over HTTP, and the rows behind a point of a chart, read as the role `reader`.

On loopback whoever is on this machine may read, and no page of the web whose name leads here; elsewhere a
token is asked for, once, and kept in a cookie.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import sys
import threading
from datetime import date
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import psycopg

from flows.addresses import is_loopback
from flows.errors import FlowsError
from flows.portal.reading import as_json
from flows.services import Services
from transforms import charts
from transforms.contract import ContractError

LIMIT = 200
"""Rows that a point shows."""
_COOKIE = "portal"
_SILENT_SECONDS = 30.0
"""After so long a browser that neither asks nor reads is let go of."""
_ASKING = threading.BoundedSemaphore(4)
"""How many points are looked up at once: each takes a connection of the warehouse from others."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PortalError(FlowsError):
    """The portal can't be served; the message says what to set."""


def rows(services: Services, name: str, asked: dict[str, str]) -> dict[str, Any]:
    """What stands behind a point, as the role `reader` sees it. Raises ContractError and ValueError for what
    is no chart or no point of it.
    """
    chart = charts.chart(name)
    if missing := [column for column in chart.points if column not in asked]:
        raise ValueError(
            f"A point of {name} is named by {' and '.join(chart.points)}: {missing[0]} is missing."
        )
    point = {column: _value(column, asked) for column in chart.points}
    with _ASKING, services.warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction read only")
        connection.execute("set local statement_timeout = '10s'")
        connection.execute("set local role reader")
        query = f"select * from ({chart.rows}) as behind limit {LIMIT}"
        try:
            cursor = connection.execute(query.encode(), point)
        except (psycopg.DataError, psycopg.errors.UndefinedFunction):
            # A text where the column has days, or a number where it has words.
            told = " and ".join(f"{column}={asked[column]}" for column in chart.points)
            raise ValueError(f"There is no point {told} of {name}.") from None
        columns = [column.name for column in cursor.description or ()]
        found = [[as_json(cell) for cell in row] for row in cursor]
    return {"columns": columns, "rows": found, "limit": LIMIT}


def _value(column: str, asked: dict[str, str]) -> Any:
    """A point's value as the column has it: a number, a day, a word."""
    text = asked[column]
    if text.lstrip("-").isdigit():
        return int(text)
    with contextlib.suppress(ValueError):
        return date.fromisoformat(text)
    return text


class _Handler(SimpleHTTPRequestHandler):
    """GET alone. Nothing outside the folder is served, and no listing of it."""

    server_version = "portal"
    sys_version = ""
    timeout = _SILENT_SECONDS

    def __init__(self, *arguments: Any, services: Services, token: str | None, **more: Any) -> None:
        self._services, self._token = services, token
        super().__init__(*arguments, **more)

    def do_GET(self) -> None:
        """A page, a file of it, or rows."""
        parts = urlsplit(self.path)
        if not self._may_read(parse_qs(parts.query)):
            return None
        if parts.path.startswith("/rows/"):
            return self._rows(parts.path.removeprefix("/rows/"), parse_qs(parts.query))
        return super().do_GET()

    def do_HEAD(self) -> None:
        """As GET, without what it would send."""
        if self._may_read({}):
            super().do_HEAD()

    def send_head(self) -> Any:
        """What stands before a file, and the file; none that is not a page's."""
        if any(part.startswith(".") for part in urlsplit(self.path).path.split("/")):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, _path: Any) -> None:
        """Folders are not listed."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        """Every answer says what a page may load."""
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a request may hold the token."""

    def _may_read(self, query: dict[str, list[str]]) -> bool:
        """Whether the token was shown. One in the address becomes a cookie, and leaves the address.

        Where none is asked for, another name than localhost is that of a page of the web which had it lead
        here: the browser would let it read the answer.
        """
        if self._token is None:
            with contextlib.suppress(ValueError):  # what is no name is none of this machine's
                if is_loopback(urlsplit(f"//{self.headers.get('Host', 'localhost')}").hostname):
                    return True
            self.send_error(
                HTTPStatus.FORBIDDEN,
                explain="Open it as http://localhost, or set ANALYTICS_PORTAL_TOKEN where it has a name.",
            )
            return False
        given = query.get("token", [""])[0]
        if given and hmac.compare_digest(given.encode(), self._token.encode()):
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header(
                "Set-Cookie", f"{_COOKIE}={quote(self._token, safe='')}; HttpOnly; SameSite=Strict; Path=/"
            )
            self.send_header("Location", urlsplit(self.path).path)
            self.end_headers()
            return False
        cookies = dict(part.strip().partition("=")[::2] for part in self.headers.get("Cookie", "").split(";"))
        shown = unquote(cookies.get(_COOKIE, "")) or self.headers.get("Authorization", "").removeprefix(
            "Bearer "
        )
        if hmac.compare_digest(shown.encode(), self._token.encode()):
            return True
        self.send_error(HTTPStatus.UNAUTHORIZED, explain="Open the address once with ?token= and the token.")
        return False

    def _rows(self, name: str, query: dict[str, list[str]]) -> None:
        try:
            answer, status = (
                rows(self._services, name, {key: values[0] for key, values in query.items()}),
                200,
            )
        except (ContractError, ValueError) as error:
            answer, status = {"problem": str(error)}, 400
        except FlowsError as error:
            answer, status = {"problem": str(error)}, 503
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """A browser that went away, or is let go of, is no error of ours."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a request ended with goes to the terminal, but for that."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


def server(services: Services, folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and not yet running. Raises PortalError for another address than loopback
    without a token, and for one that is taken.
    """
    secret = services.settings.portal_token
    token = secret.get_secret_value() if secret else None
    if not is_loopback(host) and not token:
        raise PortalError(
            f"{host} can be reached from elsewhere: set ANALYTICS_PORTAL_TOKEN to a long random word, or "
            "serve on loopback (leave --host out)."
        )
    handler = partial(_Handler, directory=str(folder), services=services, token=token)
    try:
        return (_Server6 if ":" in host else _Server)((host, port), handler)
    except OSError as error:
        raise PortalError(
            f"{host}:{port} can't be served at: {error.strerror or error}. Choose another: --port 0."
        ) from None


def serve(services: Services, folder: Path, host: str, port: int) -> int:
    """Serve until interrupted."""
    with server(services, folder, host, port) as running:
        named = f"[{host}]" if ":" in host else host
        address = f"http://{named}:{running.server_port}/"
        hint = "?token=… (ANALYTICS_PORTAL_TOKEN)" if services.settings.portal_token else ""
        print(f"Serving {address}{hint} until Ctrl-C; runs write the pages anew.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            running.serve_forever()
    return 0
