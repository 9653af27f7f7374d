"""What a drill or a restore has left that was killed goes with the upkeep; what is at work is let alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flows import maintain
from flows.progress import Progress
from flows.recovery import drill
from flows.recovery.physical import unfinished
from flows.recovery.physical.restoring import put_together
from flows.recovery.physical.shelf import open_copies
from flows.recovery.physical.taking import take as copy_server
from flows.recovery.scratch import scratch
from flows.recovery.taking import take
from flows.recovery.vault import BackupError
from flows.sandbox import state as states
from flows.services import Services
from tests.flows.recovery.conftest import filled, killed, sealed, unseen
from tests.flows.recovery.own_server import own_server
from tests.flows.small_disk import closed, small_disk


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Services]:
    """A warehouse on a server of its own: a copy has all that is on the server."""
    with own_server() as server, filled(server.database(), tmp_path) as services:
        yield services


def _rehearse(services: Services, progress: Progress) -> None:
    drill.drill(services, None, progress)


def _target(services: Services) -> Path:
    return services.lake.root.parent / "restored"


def _put_together(services: Services, progress: Progress) -> None:
    copies = open_copies(services)
    put_together(copies, copies.find(), _target(services), progress)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.full
def test_the_server_of_a_killed_drill_ends_and_goes_with_the_upkeep(services: Services) -> None:
    home = services.settings.backups_root
    take(sealed(services), unseen())
    killed(services, _rehearse, "restore.opened")
    state = states.read(home / ".drill")
    assert state is not None
    dsn = str(state.warehouse_dsn)
    assert _answers(dsn)

    maintain.tidy(services, unseen())

    assert not (home / ".drill").exists()
    assert not _answers(dsn)


@pytest.mark.full
def test_the_server_of_a_drill_that_is_under_way_is_let_alone(services: Services) -> None:
    take(services, unseen())
    with scratch(services.settings.backups_root) as dsn:
        maintain.tidy(services, unseen())
        assert _answers(dsn)


@pytest.mark.full
def test_what_a_killed_restore_has_put_together_goes_with_the_upkeep(own: Services) -> None:
    services, home, target = own, own.settings.backups_root, _target(own)
    copy_server(sealed(services), unseen())
    killed(services, _put_together, "restore.whole")
    left = target.with_name(".restored.restoring")
    assert (left / "whole" / "PG_VERSION").is_file()
    (note,) = home.glob(".restoring-*")

    elsewhere = json.loads(note.read_text()) | {"host": "another machine"}
    (home / ".restoring-elsewhere").write_text(json.dumps(elsewhere))
    note.rename(home / ".away")
    maintain.tidy(services, unseen())
    assert left.exists(), "a folder of that name on another machine"
    (home / ".away").rename(note)
    maintain.tidy(services, unseen())

    assert not left.exists()
    assert [path.name for path in home.glob(".restoring-*")] == [".restoring-elsewhere"]
    _put_together(sealed(services), unseen())
    assert (target / "PG_VERSION").is_file()


def test_a_restore_that_is_at_work_is_let_alone_by_the_upkeep_and_by_another_one(tmp_path: Path) -> None:
    target = tmp_path / "restored"
    with unfinished.folder(tmp_path, target) as work:
        (work / "whole").mkdir()
        unfinished.remove_left(tmp_path)
        with (
            pytest.raises(BackupError, match=r"Another restore into .*/restored is under way"),
            unfinished.folder(tmp_path, target),
        ):
            pass
        assert (work / "whole").is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
def test_a_server_is_put_together_from_backups_that_can_only_be_read(own: Services, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    services = Services(own.settings.model_copy(update={"backups": disk / "backups"}))
    with small_disk(disk, 400_000):
        copy_server(services, unseen())
        with closed(disk):
            _put_together(services, unseen())
    assert (_target(services) / "PG_VERSION").is_file()
