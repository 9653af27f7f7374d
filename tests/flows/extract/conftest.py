"""What the extraction tests stand on: databases on each version of PostgreSQL, and the broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.extract.parts import World
from tests.house import VERSIONS, House


@pytest.fixture(params=VERSIONS, ids=lambda version: f"postgresql {version}")
def world(house: House, request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Empty parts, on each version."""
    return World.build(house.server(request.param), tmp_path)


@pytest.fixture(scope="session")
def broker(house: House) -> str:
    """A real Kafka broker."""
    return house.kafka
