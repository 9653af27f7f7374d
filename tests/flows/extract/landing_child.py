"""`python -m tests.flows.extract.landing_child FAILPOINT PASSES TABLE …`: land the tables' changes as one run
of a process that dies at the failpoint, after passing it so often.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flows import failpoints
from flows.change_landing import land_changes
from flows.services import open_services
from tests.flows.extract.told import declared


def dies(environment: dict[str, str], name: str, passes: int, tables: Sequence[str]) -> bool:
    """Land in a process that is to die at `name`; False when it landed everything without getting there."""
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, name, str(passes), *tables],
        cwd=Path(__file__).parents[3],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def main() -> None:
    """The process."""
    name, passes, *tables = sys.argv[1:]
    services = open_services()
    failpoints.arm(name, int(passes))
    land_changes(services, [declared(table, "cdc") for table in tables], os.urandom(4).hex())
    services.lake.close()


if __name__ == "__main__":
    main()
