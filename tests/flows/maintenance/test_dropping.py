"""A table that is removed for good is removed whole, also where a kill comes between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import failpoints
from flows.maintenance import undeclared
from flows.progress import Progress
from flows.services import Services
from tests.flows.recovery.conftest import filled, killed
from tests.flows.stores.world import EVENTS
from tests.house import Server

ROOT = Path(__file__).parents[3]
STEPS = [name for name in failpoints.names(ROOT / "flows" / "maintenance") if name.startswith("drop.")]


@pytest.fixture
def services(postgres18: Server, tmp_path: Path) -> Iterator[Services]:
    """A warehouse of tables that transforms/ does not declare."""
    with filled(postgres18.database(), tmp_path) as services:
        quarantined = services.lake.root / "quarantine" / EVENTS.name
        quarantined.mkdir(parents=True)
        (quarantined / "b0.parquet").touch()
        yield services


def _drop(services: Services, _: Progress) -> None:
    with services.ledger() as ledger:
        undeclared.drop(services, ledger, EVENTS.name, yes=True)


def _left(services: Services) -> undeclared.Undeclared | None:
    with services.ledger() as ledger:
        found = undeclared.find(ledger.connection, services.lake)
    return next((one for one in found if one.name == EVENTS.name), None)


@pytest.mark.parametrize("step", STEPS)
def test_a_table_that_was_killed_while_it_went_is_known_still_and_goes_with_the_same_command(
    services: Services, step: str
) -> None:
    there = _left(services)
    assert there is not None
    assert len(there.folders) == 2

    killed(services, _drop, step)

    left = _left(services)
    assert left is not None
    assert (left.relations, left.is_entered) == (there.relations, True)
    assert (left.folders == there.folders) is (step == "drop.entries_gone")
    _drop(services, Progress("drop"))
    assert _left(services) is None
    assert not any(folder.exists() for folder in there.folders)
