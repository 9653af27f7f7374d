"""Backups: `python -m flows backup`, `backup list`, or the nightly deployment."""

from __future__ import annotations

import argparse
from typing import Any

from prefect import flow

from flows.alerting.made_good import noted
from flows.batch import run_name
from flows.hung import HOUR
from flows.progress import Progress
from flows.recovery.listing import text_of
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
def backup() -> dict[str, Any]:
    """Take a backup of the warehouse with the lake's manifests and raw files, and let old ones go."""
    taken = run()
    return {"backup": taken.backup.id, "rows": taken.backup.rows, "seconds": taken.seconds}


def run() -> Taken:
    """The same outside of Prefect."""
    services = open_services()
    with noted(services, "backup"), services.lake, Progress("backup") as progress:
        return take(services, progress)


def command(_: argparse.Namespace) -> int:
    """`python -m flows backup`."""
    print(text_of(run()))
    return 0
