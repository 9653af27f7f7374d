"""Servers for the extraction tests, one of each kind per test run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.flows.extract.parts import VERSIONS, World, kafka_broker, postgres_server


@pytest.fixture(scope="session")
def app_servers() -> Iterator[dict[int, str]]:
    """PostgreSQL servers by version."""
    with ExitStack() as stack:
        yield {version: stack.enter_context(postgres_server(version)) for version in VERSIONS}


@pytest.fixture(params=VERSIONS)
def world(app_servers: dict[int, str], request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Empty parts, on each version."""
    return World.build(app_servers[request.param], tmp_path)


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """A real Kafka broker."""
    with kafka_broker() as address:
        yield address
