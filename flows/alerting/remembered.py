"""What is remembered while the warehouse is away: a file in the lake's folder, or in the machine's memory
where the lake's disk takes nothing. One disk often holds both, and when it is full neither can be written.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

_log = logging.getLogger("flows.alerts")

FILE = "_warehouse_away.json"
"""In the lake's folder: what outlasts the warehouse."""
ELSEWHERE = Path(f"/dev/shm/user-analytics-{os.getuid()}")
"""This user's own folder in memory, with a file for each lake; what stands there is newer than the lake's."""


def read(lake: Path) -> dict[str, Any] | None:
    """What was noted last; None where nothing is, or what no crash of the machine has left whole."""
    for place in (_elsewhere, _in_lake):
        try:
            found: dict[str, Any] | None = orjson.loads(place(lake).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        return found
    return None


def write(lake: Path, told: dict[str, Any] | None) -> None:
    """Note it. What can be noted nowhere is a line of the log: who is to be told is told all the same, and
    then more than once.
    """
    try:
        _put(_in_lake(lake), told)
    except OSError as error:
        reason = error.strerror
    else:
        with suppress(OSError):
            _elsewhere(lake).unlink()
        return
    try:
        ELSEWHERE.mkdir(mode=0o700, exist_ok=True)
        _put(_elsewhere(lake), told)
    except OSError as error:
        _log.warning(
            "That the warehouse is away can be noted neither in %s (%s) nor in %s (%s): it is told again by "
            "each look of the monitor. Make room there.",
            lake,
            reason,
            ELSEWHERE,
            error.strerror,
        )


def forget(lake: Path) -> None:
    """The warehouse is back."""
    try:
        _in_lake(lake).unlink(missing_ok=True)
    except OSError:
        write(lake, None)  # a disk that takes nothing any more lets go of nothing either
        return
    with suppress(OSError):
        _elsewhere(lake).unlink()


@contextmanager
def alone(lake: Path) -> Iterator[None]:
    """One process at a time, for as long as it tells: two monitors tell a channel once, and neither takes
    back what somebody else noted.
    """
    with ExitStack() as held:
        for folder, place in ((lake, _in_lake), (ELSEWHERE, _elsewhere)):
            with suppress(OSError):
                folder.mkdir(mode=0o700 if folder is ELSEWHERE else 0o777, parents=True, exist_ok=True)
                path = place(lake)
                lock = held.enter_context(path.with_name(f"{path.name}.lock").open("ab"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                break
        yield


def _in_lake(lake: Path) -> Path:
    return lake / FILE


def _elsewhere(lake: Path) -> Path:
    """Raises OSError where the folder is not there, or anybody else's: others may write beside it."""
    found = ELSEWHERE.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(0, "it is not this user's own folder")
    return ELSEWHERE / sha256(os.fsencode(lake.absolute())).hexdigest()[:16]


def _put(path: Path, told: dict[str, Any] | None) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(orjson.dumps(told))
    temporary.replace(path)
