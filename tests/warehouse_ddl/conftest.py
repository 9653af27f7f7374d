"""A database of its own for each test, on PostgreSQL 18 and 15."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.house import EACH_VERSION, House


@pytest.fixture(params=EACH_VERSION)
def database(house: House, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """A new database with schemas and roles made, the connection in autocommit."""
    with psycopg.connect(house.server(request.param).database(), autocommit=True) as connection:
        yield connection
