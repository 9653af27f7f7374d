"""A copy of the server that is damaged, or lacks what it builds on, is named before anything comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.recovery import programs
from flows.recovery.physical.restoring import put_together
from flows.recovery.physical.shelf import DATA, LIST, Copy, open_copies
from flows.recovery.physical.taking import take
from flows.recovery.physical.verified import verify
from flows.recovery.vault import BackupError
from flows.services import Services
from tests.flows.recovery.conftest import unseen

pytestmark = pytest.mark.full


def _take(services: Services) -> Copy:
    with services.lake:
        return take(services, unseen()).copy


def test_a_damaged_or_missing_link_of_a_chain_is_named_and_nothing_is_restored(
    services: Services, tmp_path: Path
) -> None:
    copies, target = open_copies(services), tmp_path / "target"
    full, increment = _take(services), _take(services)
    assert increment.based_on == full.id
    whole = (full.folder / DATA / LIST).read_bytes()
    (full.folder / DATA / LIST).write_bytes(whole.replace(b'"Size": 8192', b'"Size": 8193', 1))
    with pytest.raises(BackupError, match=rf"^{full.id}: data/{LIST} is not the file that was written"):
        put_together(copies, increment, target, unseen())
    (full.folder / DATA / LIST).write_bytes(whole)
    full.folder.rename(tmp_path / "away")

    with pytest.raises(BackupError, match=rf"{increment.id} is an increment, and {full.id}, which it builds"):
        put_together(copies, increment, target, unseen())

    assert not target.exists()
    assert not list(tmp_path.glob(".target*"))


def test_what_is_put_together_is_held_against_the_manifest_file_by_file_and_its_log_is_read(
    services: Services,
) -> None:
    copy = _take(services)
    place, data = programs.folder_of(copy.server_version), copy.folder / DATA
    verify(place, data)
    control = data / "global" / "pg_control"
    whole = control.read_bytes()
    control.write_bytes(whole[:-1] + b"x")
    with pytest.raises(
        BackupError, match=r"^global/pg_control in the copy .* is not what its backup_manifest"
    ):
        verify(place, data)
    control.unlink()
    with pytest.raises(BackupError, match=r"^global/pg_control is missing in the copy of the server"):
        verify(place, data)
    control.write_bytes(whole)
    (data / "base" / "theirs").touch()
    with pytest.raises(BackupError, match=r"^base/theirs is too many in the copy of the server"):
        verify(place, data)
    (data / "base" / "theirs").unlink()
    for log in (data / "pg_wal").glob("0*"):
        log.write_bytes(b"\0" * log.stat().st_size)
    with pytest.raises(programs.ProgramError, match=r"^pg_waldump failed: "):
        verify(place, data)
