"""Forgetting a person: `python -m flows erase --user ID [--yes] [--reason TEXT]`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import prepare
from flows.alerting.made_good import noted, people
from flows.asked import refused
from flows.batch import run_name
from flows.erasure.erasing import Erased, erase
from flows.erasure.identify import BadErasure
from flows.errors import FlowsError
from flows.flow_names import ERASE
from flows.hung import HOUR
from flows.progress import Progress
from flows.recovery.agreement import refuse_two_stories
from flows.services import open_services


# The same call makes a crash anywhere good; a shift of the stream that was being stopped is gone by then.
@flow(
    name=ERASE,
    flow_run_name=run_name,
    timeout_seconds=6 * HOUR,
    retries=1,
    retry_delay_seconds=300,
    result_serializer="json",
)
def erase_people(users: Annotated[list[int], Field(min_length=1)], reason: str = "") -> dict[str, Any]:
    """Take these users out of warehouse, lake and dead letters, and prove it.

    Returns where it looked and what was found: nothing, or the run fails. Backups lose them when they expire.
    Refused for an id that nobody has, and for one whose address is that of somebody else too.

    Args:
        users: Ids of the application's users.
        reason: Why, kept for good; name nobody in it.
    """
    try:
        return asdict(run(users, reason))
    except BadErasure as error:
        return refused(error)


def run(users: list[int], reason: str) -> Erased:
    """The same outside of Prefect."""
    services = open_services()
    with noted(services, ERASE, people(users)), services.lake, Progress("erase") as progress:
        services.lake.begin_session()
        with services.ledger() as ledger:
            prepare.schemas(ledger)
            refuse_two_stories(ledger, services.lake)  # it removes what the ledger does not name
            ledger.repair_manifest(services.lake)
        return erase(services, sorted(set(users)), reason, ERASE, progress)


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows erase`."""
    users = sorted(set(arguments.user))
    if not arguments.yes and not _agreed(users):
        raise FlowsError("Nothing was erased: say yes at the question, or give --yes.")
    done = run(users, arguments.reason)
    print(
        f"Erased: user {', '.join(map(str, users))}. {done.raw_files} raw files written anew, "
        f"{done.partitions} partitions built anew, {done.entries} dead letters and other entries emptied, "
        f"{done.files_removed} files removed."
    )
    print("Searched for their addresses, and their rows for personal data:")
    for place in done.places:
        print(f"  {place}")
    print(
        "Their orders, events and payments stay, under a number that leads to nobody. Backups lose them when "
        "they expire; a backup that is restored has them erased again."
    )
    return 0


def _agreed(users: list[int]) -> bool:
    if not sys.stdin.isatty():
        return False
    named = ", ".join(map(str, users))
    return input(f"Erase user {named} for good? This can't be undone. [yes/no] ").strip().lower() == "yes"
