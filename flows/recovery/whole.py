"""A whole warehouse from the lake, after a restore or where nothing is left: `rebuild --from-lake`."""

from __future__ import annotations

import argparse

from flows import prepare
from flows.erasure import listed
from flows.erasure.erasing import apply_erasures
from flows.errors import FlowsError
from flows.progress import Progress
from flows.recovery.from_lake import Recovered, recover
from flows.services import Services, open_services
from flows.stores.recovery import histories_of
from flows.stores.upkeep import refresh
from transforms import registry


def from_lake(services: Services, progress: Progress) -> Recovered:
    """Make the warehouse what the lake says, whatever it holds; it may be empty.

    1. Schemas, ops tables, tables and views as the models say; who was erased, as the lake's list says.
    2. The ledger from the manifests, and every published partition that is not the lake's (`recover`).
    3. Erasures are applied again; views are refreshed.

    Safe to repeat after a crash. Raises FlowsError for a lake without manifests, or with a damaged list.
    """
    services.lake.begin_session()
    histories = histories_of(services.lake)
    if not any(histories):
        raise FlowsError(
            f"The lake {services.lake.root} has no manifest, so nothing can come back from it: "
            "`python -m flows restore --lake DIR` fills an empty one from a backup."
        )
    prepare.tables(services, progress)
    with services.warehouse.connect() as connection:
        listed.take_over(connection, services.lake)
    now = services.settings.now()
    done = recover(services.warehouse, services.lake, histories, registry.default(), now, progress.say)
    if erased := apply_erasures(services, progress):
        progress.say("erasures", f"{len(erased.users)} persons erased again")
    for view in refresh(services.warehouse):
        progress.say(view.view, f"waits: {view.blocked_by} is in the way" if view.blocked_by else "refreshed")
    return done


def replayed(done: Recovered) -> str:
    """What was done, for people."""
    parts = [f"{done.partitions} partitions of {len(done.loaded)} tables were loaded from the lake"]
    if done.dropped:
        count = sum(map(len, done.dropped.values()))
        parts.append(f"{count} leaves that the lake has not were dropped ({', '.join(sorted(done.dropped))})")
    if done.left:
        more = f" and {len(done.left) - 3} more" if done.left[3:] else ""
        parts.append(
            f"{', '.join(done.left[:3])}{more} have no manifest in the lake: they stay as they are until the "
            "next run builds them from raw"
        )
    return f"{done.entries:,} entries of the ledger are the lake's; {'; '.join(parts)}."


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows rebuild --from-lake`."""
    if arguments.table or arguments.as_of or arguments.into:
        raise FlowsError("rebuild --from-lake is of the whole warehouse: name no table and no other option.")
    services = open_services()
    with services.lake, Progress("rebuild") as progress:
        done = from_lake(services, progress)
    print(f"{replayed(done)} The next run goes on from there: python -m flows")
    return 0
