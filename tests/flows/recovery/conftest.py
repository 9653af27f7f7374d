"""A small warehouse with a lake and a folder for its backups."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyrage
import pytest
from pydantic import SecretStr

from flows.progress import Progress
from flows.services import Services, open_services
from flows.settings import Settings
from flows.stores.manifest import Commit
from flows.stores.publish import publish
from tests import children
from tests.flows.stores.world import DAY, EVENTS, USERS, built, create, visits
from tests.house import Server

ROOT = Path(__file__).parents[3]
KEY = str(pyrage.x25519.Identity.generate())
"""Opens what was sealed for it."""


def services_in(dsn: str, folder: Path) -> Services:
    given: dict[str, Any] = {"_env_file": None, "warehouse_dsn": dsn, "sandbox": folder / "none"}
    return Services(Settings(**given, lake=folder / "lake", backups=folder / "backups"))


def sealed(services: Services) -> Services:
    """The same with the key that seals and opens."""
    return Services(services.settings.model_copy(update={"backup_key": SecretStr(KEY)}))


def unseen() -> Progress:
    """Progress that nobody looks at."""
    return Progress("backup", io.StringIO())


def land(services: Services, number: int) -> None:
    """One more landing with a file of raw."""
    rows = pa.table({"v": [number]})
    with services.ledger() as ledger:
        position = ledger.positions("raw_app__users")
        file = services.lake.write("raw", "raw_app__users", "landed_on", DAY, f"b{number}", rows)
        commit = Commit(f"l{number}", "land", "raw", "raw_app__users", DAY, add=(file,), row_count=1)
        ledger.record(services.lake, commit, version=position.version)


@contextmanager
def filled(dsn: str, folder: Path) -> Iterator[Services]:
    """A warehouse with a published day, people, and one landing."""
    create(dsn, EVENTS, USERS)
    services = services_in(dsn, folder)
    with services.lake:
        day = built(services.lake, EVENTS, DAY, visits(DAY, 500), batch="e1")
        publish(EVENTS, [day], warehouse=services.warehouse, lake=services.lake)
        land(services, 1)
        yield services


def killed(services: Services, take: Callable[..., object], failpoint: str) -> None:
    """What `take` does with sealed backups, in a process of its own, which dies at a failpoint."""
    environment = {
        "ANALYTICS_WAREHOUSE_DSN": services.settings.require("warehouse_dsn"),
        "ANALYTICS_LAKE": str(services.lake.root),
        "ANALYTICS_BACKUPS": str(services.settings.backups_root),
        "ANALYTICS_BACKUP_KEY": KEY,
    }
    assert children.dies(failpoint, _take, take, environment=environment)


def _take(take: Callable[..., object]) -> None:
    take(open_services(), Progress("test"))


@pytest.fixture
def services(postgres18: Server, tmp_path: Path) -> Iterator[Services]:
    """A warehouse that is `filled`."""
    with filled(postgres18.database(), tmp_path) as services:
        yield services
