"""Upkeep of lake, ledger and warehouse: `python -m flows maintain`, or the nightly deployment."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass

from prefect import flow

from flows import as_of_schemas, lakeshell
from flows.alerting.made_good import noted
from flows.batch import run_name
from flows.doubted import doubt
from flows.errors import FlowsError
from flows.hung import HOUR
from flows.landed import landed_on
from flows.maintenance import pruning, tending, undeclared
from flows.maintenance.letting_go import let_go
from flows.maintenance.tidying import RAW_FILES, TOPIC_FILES, fold, join_landed, tidied, topics
from flows.progress import Progress
from flows.recovery import scratch
from flows.recovery.agreement import refuse_two_stories
from flows.recovery.identity import OthersBackups
from flows.recovery.physical import unfinished
from flows.recovery.physical.shelf import open_copies
from flows.recovery.physical.taking import expire as expire_copies
from flows.recovery.taking import expire, open_vault
from flows.recovery.vault import BackupError
from flows.services import Services, open_services
from flows.settings import SettingsError
from flows.stores.ledger import Ledger
from transforms import registry
from transforms.contract import Layer, Table


@dataclass(frozen=True)
class Maintained:
    """What there is less of: raw files past their retention, others that were joined, entries of the ledger,
    files that nobody names, rows of ops and backups past their time. And tables vacuumed, indexes built anew,
    leaves for the days to come.
    """

    let_go: int = 0
    joined: int = 0
    folded: int = 0
    swept: int = 0
    pruned: int = 0
    expired: int = 0
    vacuumed: int = 0
    reindexed: int = 0
    ahead: int = 0

    def __str__(self) -> str:
        return (
            f"{self.let_go:,} raw files let go of, past their retention; "
            f"{self.joined:,} raw files fewer, {self.folded:,} entries of the ledger fewer; "
            f"{self.swept:,} files removed that were replaced long ago; {self.pruned:,} rows of ops and "
            f"{self.expired:,} backups whose time had passed; {self.vacuumed:,} tables vacuumed, "
            f"{self.reindexed:,} indexes built anew, {self.ahead:,} leaves ahead"
        )


# Each step finds its work done, or does it.
@flow(
    name="maintain",
    flow_run_name=run_name,
    timeout_seconds=2 * HOUR,
    retries=1,
    retry_delay_seconds=600,
    result_serializer="json",
)
def maintain() -> dict[str, int]:
    """Let go of raw past its retention, join small raw files, tell the ledger's past in fewer entries, remove
    files that nobody names, what of ops and of the backups has had its time, dead rows and bloat; attach
    leaves for the days to come.

    No row of a published table changes, and readers and runs beside it need not know of it.
    """
    return asdict(run())


def run() -> Maintained:
    """The same outside of Prefect."""
    services = open_services()
    with noted(services, "maintain"), services.lake, Progress("maintain") as progress:
        return tidy(services, progress)


def tidy(services: Services, progress: Progress) -> Maintained:
    """What is past its retention; every table that is tidied, in turn, and the files of topics; then
    `lake.sql` names the files that count now, and the sweep, what has expired, and PostgreSQL's own upkeep.

    Raises TwoStories before anything is changed: the sweep would take the files of a lake of which the ledger
    does not know.
    """
    gone = joined = folded = 0
    progress.expect(len(tidied()))
    with services.ledger() as ledger:
        refuse_two_stories(ledger, services.lake)
        unsure = doubt(ledger.connection, services.settings.now())
        if unsure:
            progress.say("clock", unsure)
        for entity in registry.entities():
            if entity.retention is None or unsure:
                continue
            with ledger.locked("land", entity.table):
                files = let_go(services, ledger, entity, "maintain")
            if files:
                days = sorted({landed_on(file) for file in files})
                kept = entity.retention.days
                progress.say(entity.table, f"{days[0]} to {days[-1]} let go of: kept for {kept} days")
            gone += len(files)
        for table in tidied():
            if table.layer is Layer.RAW:
                joined += _join(services, ledger, table, RAW_FILES)
            folded += fold(services, ledger, table)
            progress.advance()
        for table in topics():
            joined += _join(services, ledger, table, TOPIC_FILES)
        # Before the sweep, whoever joined or let go of what it removes.
        lakeshell.write(services.lake, registry.tables().values())
        swept = services.lake.sweep(ledger.named_paths)
        as_of_schemas.remove_left(ledger.connection)
        pruned = {} if unsure else pruning.prune(ledger.connection, services.settings.now())
        vacuumed = tending.vacuum(ledger.connection)
        reindexed = tending.reindex(ledger.connection)
    _remove_left(services)
    ahead = tending.leaves_ahead(services)
    return Maintained(
        gone,
        joined,
        folded,
        len(swept),
        sum(pruned.values()),
        0 if unsure else _expire_backups(services, progress),
        len(vacuumed),
        len(reindexed),
        len(ahead),
    )


def _join(services: Services, ledger: Ledger, table: Table, at_most: int) -> int:
    """How many raw files there are fewer. Whoever waits to land has its turn between two joins."""
    joined = 0
    while True:
        with ledger.locked("land", table.name):
            fewer = join_landed(services, ledger, table, "maintain", at_most)
        if not fewer:
            return joined
        joined += fewer


def _remove_left(services: Services) -> None:
    """What killed drills and restores have left beside the backups, where a place for these is named."""
    try:
        root = services.settings.backups_root
        scratch.remove_left(root)
        unfinished.remove_left(root)
    except (SettingsError, BackupError):
        return


def _expire_backups(services: Services, progress: Progress) -> int:
    """Also where no new one is taken for a while. Nothing where no place for backups is named, and while one
    is being taken: that ends with the same. That they lie among those of another warehouse is told: none
    would ever go.
    """
    try:
        vault, copies = open_vault(services), open_copies(services)
        gone = expire(services, vault)[0] if vault.root.is_dir() else []
        gone += expire_copies(services, copies) if copies.root.is_dir() else []
        return len(gone)
    except OthersBackups as error:
        progress.say("backups", str(error), logging.WARNING)
        return 0
    except (SettingsError, BackupError):
        return 0


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows maintain [--drop TABLE --yes]`."""
    if arguments.drop:
        print(_dropped(arguments.drop, yes=arguments.yes))
    elif arguments.yes:
        raise FlowsError("--yes belongs to --drop TABLE: the upkeep itself asks nothing.")
    else:
        print(run())
    return 0


def _dropped(name: str, *, yes: bool) -> str:
    services = open_services()
    with services.lake, services.ledger() as ledger:
        one = undeclared.drop(services, ledger, name, yes=yes)
    return (
        f"{name} is gone: {one.where}. Backups hold it until they expire. Take one next (`python -m flows "
        "backup`): the drill would find the table in an older one alone."
    )
