"""`portal --serve`: rows behind a point, to whom they may be shown."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flows.portal import serving as serving_module
from flows.portal.serving import LIMIT, PortalError, server
from flows.portal.site import write
from flows.services import Services
from tests.flows.portal import filled
from tests.house import Server

TOKEN = "a long; random word"


@contextmanager
def serving(services: Services, folder: Path) -> Iterator[httpx.Client]:
    """A running server and a client of it."""
    with server(services, folder, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{running.server_port}", trust_env=False) as client:
                yield client
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def services(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> Services:
    return filled.services(postgres18, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def folder(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(services, tmp_path_factory.mktemp("portal")).folder


def test_a_point_leads_to_its_rows(services: Services, folder: Path) -> None:
    with serving(services, folder) as client:
        point = {"date": "2025-10-07", "currency": "EUR"}
        found = client.get("/rows/revenue_chart", params=point).raise_for_status().json()
    revenue = found["columns"].index("revenue")
    assert [row[revenue] for row in found["rows"]] == ["10.00", "7.00"]
    assert found["limit"] == LIMIT


def test_rows_are_read_as_the_role_reader(services: Services, folder: Path) -> None:
    with services.warehouse.connect() as connection:
        connection.execute("revoke select on analytics.fct_orders from reader")
        with serving(services, folder) as client:
            refused = client.get("/rows/revenue_chart", params={"date": "2025-10-07", "currency": "EUR"})
        connection.execute("grant select on analytics.fct_orders to reader")
    assert refused.status_code == 503
    assert "permission denied" in refused.json()["problem"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/rows/no_chart?date=2025-10-07", 400),
        ("/rows/revenue_chart", 400),
        ("/rows/revenue_chart?date=x&currency=EUR", 400),
        ("/rows/revenue_chart?date=7&currency=EUR", 400),
        ("/rows/revenue_chart?date=2025-10-07&currency=7", 400),
        ("/assets/", 404),
        ("/../lake/lake.sql", 404),
        ("/.tmp-1-index.html", 404),
    ],
)
def test_what_is_no_page_and_no_point_is_refused(
    services: Services, folder: Path, path: str, status: int
) -> None:
    with serving(services, folder) as client:
        assert client.get(path).status_code == status


def test_a_file_that_is_no_page_is_not_told_of_either(services: Services, folder: Path) -> None:
    (folder / ".tmp-1-index.html").touch()
    with serving(services, folder) as client:
        assert client.head("/.tmp-1-index.html").status_code == 404
        assert client.head("/index.html").status_code == 200


def test_a_page_of_the_web_whose_name_leads_here_reads_nothing(services: Services, folder: Path) -> None:
    with serving(services, folder) as client:
        for host in ("localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"):
            assert client.get("/", headers={"Host": host}).status_code == 200
        for host in ("pages.example", "pages.example:8080", "127.0.0.1.example", "[", "[::1", "[x]"):
            assert client.get("/", headers={"Host": host}).status_code == 403
            assert client.get("/rows/revenue_chart", headers={"Host": host}).status_code == 403


def test_a_browser_that_asks_nothing_is_let_go_of_and_one_that_went_away_is_no_error(
    services: Services, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(services, folder) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with monkeypatch.context() as soon:
            soon.setattr(serving_module._Handler, "timeout", 0.01)
            with socket.create_connection(address, timeout=60) as silent:
                assert silent.recv(1) == b"", "it is closed"
        with socket.create_connection(address, timeout=60) as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leaving.sendall(b"GET /index.html HTTP/1.0\r\nHost: localhost\r\n")
        assert client.get("/").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_point_without_all_that_names_it_is_told_what_is_missing(services: Services, folder: Path) -> None:
    with serving(services, folder) as client:
        problem = client.get("/rows/revenue_chart?date=2025-10-07").json()["problem"]
    assert problem == "A point of revenue_chart is named by date and currency: currency is missing."


def test_pages_may_load_nothing_from_elsewhere(services: Services, folder: Path) -> None:
    with serving(services, folder) as client:
        answer = client.get("/").raise_for_status()
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")


def test_where_a_token_is_set_it_is_asked_for_once(postgres18: Server, tmp_path: Path) -> None:
    services = filled.services(postgres18, tmp_path, filled=False, portal_token=TOKEN)
    folder = write(services, tmp_path / "portal").folder
    with serving(services, folder) as client:
        assert client.get("/").status_code == 401
        assert client.get("/", params={"token": "another"}).status_code == 401
        assert client.get("/rows/revenue_chart").status_code == 401
        shown = client.get("/", params={"token": TOKEN})
        assert (shown.status_code, shown.headers["location"]) == (303, "/")
        assert client.get("/").status_code == 200
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(client.base_url, headers=bearer, trust_env=False).status_code == 200


def test_other_machines_are_served_only_with_a_token(services: Services, folder: Path) -> None:
    with pytest.raises(PortalError, match="set ANALYTICS_PORTAL_TOKEN"):
        server(services, folder, "0.0.0.0", 0)


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_the_loopback_of_ipv6_is_served_too(services: Services, folder: Path) -> None:
    with server(services, folder, "::1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            answer = httpx.get(f"http://[::1]:{running.server_port}/", trust_env=False)
        finally:
            running.shutdown()
            thread.join()
    assert answer.status_code == 200
