"""PostgreSQL's own programs: where they are, and what they say when they fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flows.errors import FlowsError
from flows.sandbox.postgres import packaged_binaries
from flows.stores.warehouse_errors import scrub

NAME = "user-analytics backup"
"""What the sessions of a backup are called in pg_stat_activity."""
COMBINES_SINCE = 17
"""The major version from which on PostgreSQL makes increments, and puts them together."""
TIMES_TRANSACTIONS_SINCE = 17
"""The major version from which on a server knows the setting that pg_restore 17 and newer begin with,
whatever server they speak to."""
_SETTING = b"SET transaction_timeout = 0;\n"
_HEAD_LINES = 100
"""It stands among the first twenty lines."""


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

    def __init__(
        self,
        path: Path,
        words: Sequence[str | Path],
        dsn: str = "",
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> None:
        self._name = path.name
        # A file: whoever waits for another of them meanwhile need not read what this one says.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        given = [str(word) for word in words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        if dsn:
            known = conninfo_to_dict(make_conninfo(dsn, application_name=NAME))
            if password := known.pop("password", None):
                environment["PGPASSWORD"] = str(password)
            given.append(f"--dbname={make_conninfo('', **known)}")
        environment["LC_ALL"] = "C"
        # Another one, which somebody has set for the login, may not have every character.
        environment["PGCLIENTENCODING"] = "UTF8"
        self._process = subprocess.Popen(
            [str(path), *given],
            stdin=stdin,
            stdout=stdout,
            stderr=self._said,
            env=environment,
        )

    @property
    def stdin(self) -> IO[bytes]:
        """What it reads, where that is a pipe."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """What it writes, where that is a pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    def wait(self) -> None:
        """Wait for its end. Raises ProgramError with what it said, or OSError where a disk was full."""
        if self._process.wait() == 0:
            return
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        if "No space left" in said or "Disk quota" in said:
            raise OSError(28, "No space left on device")
        lines = [line for line in said.strip().splitlines() if re.search(r"error:|ERROR:", line)] or [said]
        reason = scrub(re.sub(r"^(?:\w+: error: |psql:<stdin>:\d+: )", "", lines[0]))
        raise ProgramError(f"{self._name} failed: {reason}. Mend that and run again.", reason)

    def end(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        for opened in (self._process.stdin, self._process.stdout, self._said):
            if opened is not None:
                with suppress(BrokenPipeError):
                    opened.close()


def run(path: Path, words: Sequence[str | Path], dsn: str = "") -> None:
    """Run one to its end. Raises ProgramError or, where a disk was full, OSError."""
    program = Program(path, words, dsn)
    try:
        program.wait()
    finally:
        program.end()


def run_as_script(place: Path, words: Sequence[str | Path], dsn: str) -> None:
    """Let pg_restore write a script and psql run it, without the one setting that a server before 17 refuses:
    one session in place of several. Raises like `run`.
    """
    restore = Program(place / "pg_restore", [*words, "--file=-"], stdout=subprocess.PIPE)
    try:
        words = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"]
        psql = Program(place / "psql", words, dsn, stdin=subprocess.PIPE)
        try:
            # Where psql has ended, it says why.
            with suppress(BrokenPipeError):
                _pass_on(restore.stdout, psql.stdin)
                restore.wait()
            psql.wait()
        finally:
            psql.end()
    finally:
        restore.end()


def _pass_on(script: IO[bytes], psql: IO[bytes]) -> None:
    for _ in range(_HEAD_LINES):
        line = script.readline()
        if line == _SETTING:
            break
        psql.write(line)
    shutil.copyfileobj(script, psql, 1 << 20)
    psql.close()


def folder_for(connection: Connection[object]) -> Path:
    """The same for the server at the other end of a connection."""
    return folder(connection.info.server_version)
