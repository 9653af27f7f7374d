"""`--serve`: the written pages over HTTP, and the rows behind a point of a chart, read as the role `reader`.

On loopback whoever can reach the port may read; elsewhere a token is asked for, once, and kept in a cookie.
"""

from __future__ import annotations

import contextlib
import hmac
import json
from datetime import date
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
    with services.warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction read only")
        connection.execute("set local statement_timeout = '10s'")
        connection.execute("set local role reader")
        cursor = connection.execute(f"select * from ({chart.rows}) as behind limit {LIMIT}".encode(), point)
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
        if any(part.startswith(".") for part in parts.path.split("/")):
            return self.send_error(HTTPStatus.NOT_FOUND)
        return super().do_GET()

    def do_HEAD(self) -> None:
        """As GET, without what it would send."""
        if self._may_read({}):
            super().do_HEAD()

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
        """Whether the token was shown. One in the address becomes a cookie, and leaves the address."""
        if self._token is None:
            return True
        given = query.get("token", [""])[0]
        if given and hmac.compare_digest(given.encode(), self._token.encode()):
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Set-Cookie", f"{_COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/")
            self.send_header("Location", urlsplit(self.path).path)
            self.end_headers()
            return False
        cookies = dict(part.strip().partition("=")[::2] for part in self.headers.get("Cookie", "").split(";"))
        shown = cookies.get(_COOKIE) or self.headers.get("Authorization", "").removeprefix("Bearer ")
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
        except (ContractError, ValueError, psycopg.DataError) as error:
            answer, status = {"problem": str(error)}, 400
        except FlowsError as error:
            answer, status = {"problem": str(error)}, 503
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
        return ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise PortalError(
            f"{host}:{port} can't be served at: {error.strerror or error}. Choose another: --port 0."
        ) from None


def serve(services: Services, folder: Path, host: str, port: int) -> int:
    """Serve until interrupted."""
    with server(services, folder, host, port) as running:
        address = f"http://{host}:{running.server_port}/"
        hint = "?token=… (ANALYTICS_PORTAL_TOKEN)" if services.settings.portal_token else ""
        print(f"Serving {address}{hint} until Ctrl-C; runs write the pages anew.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            running.serve_forever()
    return 0
