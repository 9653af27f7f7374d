"""Upkeep of lake and ledger: `python -m flows maintain`, or the nightly deployment."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass

from prefect import flow

from flows.batch import run_name
from flows.maintenance.tidying import fold, join_landed, tidied
from flows.progress import Progress
from flows.services import Services, open_services
from transforms.contract import Layer


@dataclass(frozen=True)
class Maintained:
    """What there is less of: raw files that were joined, entries of the ledger, files that nobody names."""

    joined: int = 0
    folded: int = 0
    swept: int = 0

    def __str__(self) -> str:
        return (
            f"{self.joined:,} raw files fewer, {self.folded:,} entries of the ledger fewer; "
            f"{self.swept:,} files removed that were replaced long ago"
        )


@flow(name="maintain", flow_run_name=run_name, result_serializer="json")
def maintain() -> dict[str, int]:
    """Join small raw files, tell the ledger's past in fewer entries, remove files that nobody names.

    No row changes, and readers and runs beside it need not know of it.
    """
    return asdict(run())


def run() -> Maintained:
    """The same outside of Prefect."""
    services = open_services()
    with services.lake, Progress("maintain") as progress:
        return tidy(services, progress)


def tidy(services: Services, progress: Progress) -> Maintained:
    """Every table that is tidied, in turn; then the sweep."""
    joined = folded = 0
    progress.expect(len(tidied()))
    with services.ledger() as ledger:
        for table in tidied():
            if table.layer is Layer.RAW:
                with ledger.locked("land", table.name):
                    while fewer := join_landed(services, ledger, table, "maintain"):
                        joined += fewer
            folded += fold(services, ledger, table)
            progress.advance()
        swept = services.lake.sweep(ledger.named_paths)
    return Maintained(joined, folded, len(swept))


def command(_: argparse.Namespace) -> int:
    """`python -m flows maintain`."""
    print(run())
    return 0
