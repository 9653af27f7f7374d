"""The services that tests read from, the databases and lakes that they fill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.extract.http import RestConnection
from flows.http_client import client
from flows.sandbox import Part
from flows.sandbox.apis import SENDGRID_KEY, STRIPE_KEY
from flows.sandbox.apis.store import Store
from flows.stores.lake import Lake
from flows.stores.warehouse import Warehouse
from tests.flows.capture import Capture
from tests.flows.extract.crm import Crm, serving
from tests.flows.kill_story import story
from tests.flows.warehouses import Warehouses
from tests.house import House, Server, behave

__all__ = ["story"]


@dataclass
class Apis:
    """The running services: their address, their objects, their switches."""

    url: str
    store: Store
    control: httpx.Client

    def connection(self, vendor: str = "stripe", **settings: Any) -> RestConnection:
        """Settings of a client that does not wait long."""
        key = STRIPE_KEY if vendor == "stripe" else SENDGRID_KEY
        short = {"wait_initial": 0.01, "wait_jitter": 0.01, "wait_max": 0.05, "timeout": 10.0}
        return RestConnection(**{"base_url": self.url, "key": key, **short, **settings})

    def fault(self, kind: str, **arguments: Any) -> None:
        """Arm a fault (see flows/sandbox/apis/faults.py)."""
        answer = self.control.post("/_control/faults", json={"kind": kind, **arguments})
        assert answer.status_code == 200, answer.text

    def limit(self, vendor: str, requests: int, seconds: float) -> None:
        """Set a rate limit."""
        limits = {vendor: {"requests": requests, "seconds": seconds}}
        assert self.control.put("/_control/limits", json=limits).status_code == 200

    def requests(self, path: str) -> int:
        """How many requests to a path were seen behind the faults."""
        return int(self.control.get("/_control/requests").json().get(path, 0))


@pytest.fixture
def apis(house: House) -> Iterator[Apis]:
    """The simulated services, empty and well-behaved."""
    state = house.apis()
    url = str(state.stripe_url)
    store = Store(state.folder)
    store.clear()
    behave(url)
    with client(url, seconds=10) as control:
        yield Apis(url, store, control)
    store.close()


@pytest.fixture
def crm() -> Iterator[Crm]:
    """A service that the project has no word about, with nothing in it."""
    with serving(Crm()) as crm:
        yield crm


@pytest.fixture(scope="module")
def own_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house whose parts a test may kill: no other test stands on them."""
    own = House(tmp_path_factory.mktemp("house") / "sandbox", "main")
    try:
        yield own
    finally:
        own.leave()
        own.end()


@pytest.fixture(scope="module")
def prefect(house: House) -> Iterator[None]:
    """The Prefect server that this module's runs are seen at."""
    state = house.parts(Part.PREFECT)
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    assert state.prefect_url is not None
    with temporary_settings({PREFECT_API_URL: state.prefect_url, PREFECT_HOME: state.prefect_home}):
        yield


@pytest.fixture(scope="session")
def warehouses(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> Warehouses:
    """Warehouses by the dozen."""
    return Warehouses(postgres18, tmp_path_factory.mktemp("warehouses"))


@pytest.fixture
def capture(house: House, tmp_path: Path) -> Iterator[Capture]:
    """A database that real Debezium can read, for one test."""
    capture = Capture.build(house, tmp_path)
    try:
        yield capture
    finally:
        capture.end()


@pytest.fixture
def dsn(postgres18: Server) -> str:
    """A fresh database of PostgreSQL 18 with schemas and ops tables."""
    return postgres18.database()


@pytest.fixture
def warehouse(dsn: str) -> Warehouse:
    return Warehouse(dsn)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake(tmp_path / "lake") as lake:
        yield lake
