"""Warehouses for the stores, on PostgreSQL 18 and 15."""

from __future__ import annotations

import pytest

from tests.house import EACH_VERSION, House, Server


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


@pytest.fixture(params=EACH_VERSION)
def any_dsn(house: House, request: pytest.FixtureRequest) -> str:
    """The same, on both versions."""
    return house.server(request.param).database()
