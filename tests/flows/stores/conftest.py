"""Warehouses for the stores, on PostgreSQL 18 and 15, and an empty lake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.stores.lake import Lake
from flows.stores.warehouse import Warehouse
from tests.house import VERSIONS, House, Server


class _Servers(dict[int, Server]):
    """Each starts when it is asked for."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self._house = house

    def __missing__(self, version: int) -> Server:
        return self._house.server(version)


@pytest.fixture(scope="session")
def servers(house: House) -> dict[int, Server]:
    """PostgreSQL servers by version."""
    return _Servers(house)


@pytest.fixture
def dsn(postgres18: Server) -> str:
    """A fresh database of PostgreSQL 18 with schemas and ops tables."""
    return postgres18.database()


@pytest.fixture(params=VERSIONS, ids=lambda version: f"postgresql {version}")
def any_dsn(house: House, request: pytest.FixtureRequest) -> str:
    """The same, on both versions."""
    return house.server(request.param).database()


@pytest.fixture
def warehouse(dsn: str) -> Warehouse:
    return Warehouse(dsn)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake(tmp_path / "lake") as lake:
        yield lake
