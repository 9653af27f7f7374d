"""A stream makes one raw file of its small ones at any moment, also while a backup is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.failpoints import failpoint
from flows.recovery import raw_files
from flows.recovery.taking import open_vault, take
from flows.recovery.vault import Backup
from flows.streaming import taking_in
from tests.flows.recovery.conftest import unseen
from tests.flows.streaming.topics import Topics
from tests.house import House

BATCHES, EVENTS = 3, 20


@pytest.fixture
def topics(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topics:
    """What some micro-batches took in: the first of them landed, the others not yet."""
    topics = Topics.build(house, tmp_path, backups=tmp_path / "backups")
    with monkeypatch.context() as patched:
        for number in range(BATCHES + 1):
            topics.send(topics.event(EVENTS * number + i) for i in range(EVENTS))
            topics.stream()
            patched.setattr(taking_in, "land", lambda *_, **__: None)
    return topics


def _taken(topics: Topics) -> Backup:
    services = topics.world.services()
    with services.lake:
        return take(services, unseen()).backup


def _once(name: str, do: Callable[[], Any]) -> Callable[[str], None]:
    """Something that happens when a failpoint is passed for the first time."""
    left = [name]

    def passed(passing: str) -> None:
        failpoint(passing)
        if passing in left:
            left.remove(passing)
            do()

    return passed


@pytest.mark.parametrize(
    ("module", "name"),
    [("taking", "backup.snapshot"), ("taking", "backup.dumped"), ("raw_files", "backup.raw_written")],
)
def test_a_backup_beside_which_the_stream_joins_its_files_is_whole(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setattr(f"flows.recovery.{module}.failpoint", _once(name, topics.roll_up))

    backup = _taken(topics)

    assert topics.rows("select count(*) from ops.stream_batch") == [(1,)]
    assert list(raw_files.problems(open_vault(topics.world.services()), backup)) == []
    assert sum(file.rows for file in raw_files.listed(backup)) == (BATCHES + 1) * EVENTS
