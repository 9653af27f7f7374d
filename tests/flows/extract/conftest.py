"""What the extraction tests stand on: databases on each version of PostgreSQL, and the broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.extract.parts import ORDERS_DDL, World
from tests.house import EACH_VERSION, House


@pytest.fixture(params=EACH_VERSION)
def world(house: House, request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Empty parts, on each version."""
    return World.build(house.server(request.param), tmp_path)


@pytest.fixture
def shop(world: World) -> World:
    """The same with 1,000 orders, one of each hour until now."""
    world.app(
        ORDERS_DDL,
        "insert into orders select i, i * 1.01, 'EUR', age, age "
        "from (select i, now() - i * interval '1 hour' as age from generate_series(1, 1000) as i) as ages",
    )
    return world


@pytest.fixture(scope="session")
def broker(house: House) -> str:
    """A real Kafka broker."""
    return house.kafka
