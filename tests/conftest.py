"""What every test may ask for: one PostgreSQL 18 pair, one 15, one broker, one Prefect server, one server of
simulated APIs.

Each starts when the first test asks for it. Tests keep out of each other's way by databases, topics and
folders of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from flows.sandbox.prefect_server import QUIET
from tests.house import VERSIONS, House, Server

# Prefect reads the environment when it is imported, and what a developer has set is not what tests are about.
for _name in [name for name in os.environ if name.startswith(("ANALYTICS_", "PREFECT_"))]:
    del os.environ[_name]
os.environ.update(QUIET, PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL", GX_ANALYTICS_ENABLED="false")


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The services of this test run."""
    house = House(tmp_path_factory.mktemp("house") / "sandbox")
    try:
        yield house
    finally:
        house.end()


@pytest.fixture(scope="session")
def postgres18(house: House) -> Server:
    """PostgreSQL 18."""
    return house.server(18)


@pytest.fixture(scope="session")
def postgres15(house: House) -> Server:
    """PostgreSQL 15; skipped where it is not installed, but not in continuous integration."""
    if 15 not in VERSIONS:
        pytest.skip("PostgreSQL 15 is not installed here")
    return house.server(15)


@pytest.fixture(scope="session")
def connect(house: House) -> str:
    """The address of Kafka Connect, beside the broker of this test run."""
    return house.connect
