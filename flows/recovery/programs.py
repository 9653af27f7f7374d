"""PostgreSQL's own programs: where they are, and what they say when they fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flows.errors import FlowsError
from flows.sandbox.postgres import packaged_binaries
from flows.stores.warehouse import scrub

NAME = "user-analytics backup"
"""What the sessions of a backup are called in pg_stat_activity."""
COMBINES_SINCE = 17
"""The major version from which on PostgreSQL makes increments, and puts them together."""


class ProgramError(FlowsError):
    """One of PostgreSQL's programs is missing, too old, or failed; the message holds no secret. `said` is
    what the program said.
    """

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


def folder(server_version: int) -> Path:
    """The folder with pg_dump and pg_restore for a server of this version (`180004`): those that came with
    the sandbox, or the first in PATH, whichever is new enough. Raises ProgramError when none is.
    """
    wanted, seen = server_version // 10_000, []
    for place in _candidates():
        version = _version(place)
        if version >= wanted:
            return place
        seen.append(f"{version} in {place}")
    found = f"found {', '.join(seen)}" if seen else "found none"
    raise ProgramError(
        f"The warehouse runs PostgreSQL {wanted}, and its pg_dump must be at least as new ({found}): install "
        f"PostgreSQL's client programs of version {wanted} and put them first in PATH."
    )


def folder_of(server_version: int) -> Path:
    """The folder with the programs that read the files of a server of this version: unlike a dump, those are
    read by programs of the same major version alone. Raises ProgramError when there are none.
    """
    major = server_version // 10_000
    wanted = ["pg_basebackup", "pg_waldump", *(["pg_combinebackup"] if major >= COMBINES_SINCE else [])]
    # Where the packages of Debian and of Red Hat put them, outside of PATH.
    usual = [Path(f"/usr/lib/postgresql/{major}/bin"), Path(f"/usr/pgsql-{major}/bin")]
    for place in [*usual, *_candidates()]:
        if all((place / name).exists() for name in wanted) and _version(place) == major:
            return place
    raise ProgramError(
        f"The warehouse runs PostgreSQL {major}, and a copy of its files needs {', '.join(wanted)} of the "
        f"same version: install PostgreSQL {major}'s programs and put them first in PATH."
    )


def _candidates() -> Iterator[Path]:
    with suppress(FlowsError):
        yield packaged_binaries()
    if there := shutil.which("pg_dump"):
        yield Path(there).parent
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False).stdout
        if told.strip():
            yield Path(told.strip())


def _version(place: Path) -> int:
    """The major version of the programs in a folder; 0 where they don't run."""
    try:
        told = subprocess.run([place / "pg_dump", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    found = re.search(r"\) (\d+)", told.stdout)
    return int(found[1]) if found else 0


class Program:
    """One of the programs at work. Its password is in nobody's list of processes."""

    def __init__(self, path: Path, words: Sequence[str | Path], dsn: str = "") -> None:
        self._name = path.name
        given = [str(word) for word in words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        if dsn:
            known = conninfo_to_dict(make_conninfo(dsn, application_name=NAME))
            if password := known.pop("password", None):
                environment["PGPASSWORD"] = str(password)
            given.append(f"--dbname={make_conninfo('', **known)}")
        environment["LC_ALL"] = "C"
        self._process = subprocess.Popen(
            [str(path), *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
        )

    def wait(self) -> None:
        """Wait for its end. Raises ProgramError with what it said, or OSError where a disk was full."""
        _, said = self._process.communicate()
        if self._process.returncode == 0:
            return
        if "No space left" in said or "Disk quota" in said:
            raise OSError(28, "No space left on device")
        lines = [line for line in said.strip().splitlines() if "error:" in line] or [said]
        reason = scrub(re.sub(r"^\w+: error: ", "", lines[0]))
        raise ProgramError(f"{self._name} failed: {reason}. Mend that and run again.", reason)

    def end(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()


def run(path: Path, words: Sequence[str | Path], dsn: str = "") -> None:
    """Run one to its end. Raises ProgramError or, where a disk was full, OSError."""
    program = Program(path, words, dsn)
    try:
        program.wait()
    finally:
        program.end()


def folder_for(connection: Connection[object]) -> Path:
    """The same for the server at the other end of a connection."""
    return folder(connection.info.server_version)
