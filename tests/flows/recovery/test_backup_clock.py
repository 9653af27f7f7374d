"""A clock that is ahead, or was, takes no backup away and hides none."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.progress import Progress
from flows.recovery.making import FORMAT, NOTED
from flows.recovery.physical.shelf import Copies
from flows.recovery.taking import expire, open_vault, take
from flows.services import Services
from tests.flows.clock import At
from tests.flows.recovery.conftest import unseen

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


class _Jumps(Progress):
    """Moves the clock a year on as soon as a backup says something."""

    def __init__(self, moment: list[datetime]) -> None:
        super().__init__("backup", io.StringIO())
        self._moment = moment

    def say(self, *words: Any) -> None:
        self._moment[0] = NOW + timedelta(days=365)


def test_what_is_old_is_not_told_by_a_clock_that_jumps_while_a_backup_is_taken(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    moment = [NOW]
    given = {name: getattr(services.settings, name) for name in ("warehouse_dsn", "lake", "backups")}
    moved = Services(At(_env_file=None, moment=moment, **given))
    for days in (9, 1, 0):
        moment[0] = NOW - timedelta(days=days)
        last = take(moved, unseen())
        assert last.expired == ()

    with caplog.at_level(logging.WARNING, "flows.backups"):
        jumped = take(moved, _Jumps(moment))

    vault = open_vault(moved)
    assert jumped.expired == ()
    assert len(vault.backups()) == 4
    assert "The clock jumped while this backup was taken" in caplog.text
    moment[0] = NOW + timedelta(hours=1)
    assert expire(moved, vault)[0] == [last.backup.id], "of one day the newest stays"


def _made(copies: Copies, name: str, taken_at: datetime) -> None:
    folder = copies.root / name
    folder.mkdir(parents=True)
    noted = {"format": FORMAT, "taken_at": taken_at.isoformat(), "server_version": 180004}
    noted |= {"sealed_for": None, "system": "7", "timeline": 1, "because": None, "folders": []}
    (folder / NOTED).write_text(json.dumps({**noted, "based_on": None}))


def test_one_of_a_time_to_come_is_the_newest_only_where_there_is_no_other_and_replaces_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copies = Copies(tmp_path, None)
    _made(copies, "2099", NOW + timedelta(days=27_000))
    assert copies.find(None, NOW).id == "2099"
    _made(copies, "2025-old", NOW - timedelta(days=91))
    _made(copies, "2025-newest", NOW - timedelta(days=90))

    assert copies.expire(NOW, 3, 3) == ["2025-old"]

    assert [copy.id for copy in copies.backups()] == ["2099", "2025-newest"]
    assert copies.find(None, NOW).id == "2025-newest"
    assert "Backup 2099 says that it was taken at 2099-10-06 12:00 UTC, which is to come" in caplog.text
    assert copies.find("2099", NOW).id == "2099"
