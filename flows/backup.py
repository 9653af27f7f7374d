"""Backups: `python -m flows backup [--physical]`, `backup list`, or the nightly deployment."""

from __future__ import annotations

import argparse
from typing import Any

from prefect import flow

from flows.alerting.made_good import noted
from flows.batch import run_name
from flows.errors import FlowsError
from flows.flow_names import BACKUP, PHYSICAL
from flows.hung import HOUR
from flows.progress import Progress
from flows.recovery.listing import text_of, text_of_copy
from flows.recovery.physical import taking as physically
from flows.recovery.physical.taking import TakenCopy
from flows.recovery.taking import Taken, take
from flows.services import open_services


# One that was not completed leaves nothing that counts.
@flow(
    name="backup",
    flow_run_name=run_name,
    retries=2,
    retry_delay_seconds=600,
    timeout_seconds=4 * HOUR,
    result_serializer="json",
)
def backup(physical: bool = False, full: bool = False) -> dict[str, Any]:
    """Take a backup of the warehouse with the lake's manifests and raw files, and let old ones go.

    Args:
        physical: A copy of the server's files in its place, an increment where that is possible.
        full: With physical: a full one in any case. Without it there is nothing to choose, a dump always is.
    """
    if physical:
        copied = run_physical(full=full)
        return {"backup": copied.copy.id, "based_on": copied.copy.based_on, "seconds": copied.seconds}
    taken = run()
    return {"backup": taken.backup.id, "rows": taken.backup.rows, "seconds": taken.seconds}


def run() -> Taken:
    """The same outside of Prefect."""
    services = open_services()
    with noted(services, BACKUP), services.lake, Progress("backup") as progress:
        return take(services, progress)


def run_physical(*, full: bool) -> TakenCopy:
    """The copy of the server's files, outside of Prefect. It is not the backup that each day promises, which
    has the lake too.
    """
    services = open_services()
    with noted(services, BACKUP, [PHYSICAL]), services.lake, Progress("backup") as progress:
        return physically.take(services, progress, full=full)


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows backup`."""
    if arguments.physical:
        print(text_of_copy(run_physical(full=arguments.full)))
    else:
        if arguments.full:
            raise FlowsError("A dump is always full: --full belongs to `python -m flows backup --physical`.")
        print(text_of(run()))
    return 0
