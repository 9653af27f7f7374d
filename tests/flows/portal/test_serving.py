"""`portal --serve`: rows behind a point, to whom they may be shown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flows.portal.serving import LIMIT, PortalError, server
from flows.portal.site import write
from flows.services import Services
from tests.flows.portal import filled
from tests.house import Server

TOKEN = "a-long-random-word"


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
