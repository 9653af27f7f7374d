"""A copy of the server, put together again from its chain into a folder that PostgreSQL starts on."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from flows.failpoints import failpoint
from flows.progress import Progress
from flows.recovery import programs
from flows.recovery.physical import unfinished
from flows.recovery.physical.shelf import DATA, Copies, Copy
from flows.recovery.physical.verified import HASHED, verify
from flows.recovery.vault import BackupError


def put_together(copies: Copies, copy: Copy, target: Path, progress: Progress) -> None:
    """Make `target`, which is empty or not there, the data folder of a server as it was at a copy's moment.

    It is made beside it and gets its name at the end, verified; killed before, `target` is as it was. Raises
    BackupError for a target that is occupied, being filled or can't be written and for files that are
    damaged, SealError for another key, ProgramError for what PostgreSQL's programs say.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(f"{target} is not empty: name a folder that is, or that is not there yet.")
    chain = copies.chain(copy)
    place = programs.folder_of(copy.server_version)
    for one in chain:
        copies.opener(one)
    progress.say(copy.id, f"{len(chain)} copies are checked")
    if problems := [problem for one in chain for problem in copies.problems(one)]:
        raise BackupError("\n".join([*problems, "Nothing was restored."]))
    try:
        with unfinished.folder(copies.home, target) as work:
            folders = [_opened(copies, one, work / one.id) for one in chain]
            progress.say(copy.id, "put together")
            whole = work / "whole"
            if chain[1:]:
                programs.run(place / "pg_combinebackup", [*folders, f"--output={whole}", "--no-sync", HASHED])
            elif copy.recipient is None:
                shutil.copytree(folders[0], whole)
            else:
                folders[0].rename(whole)
            _close(whole)
            verify(place, whole)
            progress.say(copy.id, "verified")
            failpoint("restore.whole")
            os.sync()  # for thousands of files at once
            whole.rename(target)
    except OSError as error:
        # What copies a folder tells of each of its files, in words alone.
        is_full = error.errno == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if is_full else error.strerror or str(error)[:300]
        raise BackupError(
            f"{target} can't be filled: {reason}. It is as it was; mend that, or name another folder."
        ) from error


def _opened(copies: Copies, copy: Copy, work: Path) -> Path:
    """The files of one copy, readable, with the folders that hold none."""
    data = copies.open(copy, DATA, work)
    for name in copy.folders:
        (data / name).mkdir(parents=True, exist_ok=True)
    return data


def _close(whole: Path) -> None:
    """As PostgreSQL wants it: for its own user alone."""
    for folder, _, names in os.walk(whole):
        Path(folder).chmod(0o700)
        for name in names:
            Path(folder, name).chmod(0o600)
