"""A server of PostgreSQL that only copies of it are taken of, and a warehouse on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.services import Services
from tests.flows.recovery.own_server import own_server, warehouse_on
from tests.house import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One for each file."""
    with own_server() as server:
        yield server


@pytest.fixture
def services(server: Server, tmp_path: Path) -> Iterator[Services]:
    """A warehouse on it, gone afterwards: every copy has all that is on the server."""
    with warehouse_on(server, tmp_path) as services:
        yield services
