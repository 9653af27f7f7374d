"""What stands, as the planner wants to see it: one query for built tables, one for landings."""

from __future__ import annotations

from collections.abc import Iterable

from flows.build.as_of import AS_OF
from flows.build.guard import needs
from flows.planner import PartitionState, States, differing
from flows.stores.ledger import Ledger
from transforms import registry
from transforms.contract import Table


def planner_states(ledger: Ledger, tables: Iterable[str] | None = None) -> States:
    """Table → partition → state, of all built and landed tables or of some; and of histories that others
    join as of a time, since when they differ.
    """
    found: dict[str, dict[str, PartitionState]] = {}
    tables = None if tables is None else list(tables)
    for name, windows in ledger.landed_windows(tables).items():
        found[name] = {
            key: PartitionState(token=window.token, sequence=window.sequence, rows=window.row_count)
            for key, window in windows.items()
        }
    for name, key, *values in ledger.outlines(tables):
        found.setdefault(name, {})[key] = PartitionState(*values)
    for name in sorted({history for table in registry.build_order() for history in table.as_of}):
        if tables is None or name in tables:
            days = ledger.differing(name, AS_OF)
            found[differing(name)] = {day: PartitionState(token, sequence) for day, token, sequence in days}
    return found


def never_built(ledger: Ledger, chosen: Iterable[Table]) -> dict[str, str]:
    """Model of which nothing stands, and that is not among the chosen → the table that needs it, however far
    up: built without it, that one would come out empty, and nothing would say so.
    """
    models = {table.name: table for table in registry.build_order()}
    waiting: list[Table] = list(chosen)
    known = {table.name for table in waiting} | {name for name, *_ in ledger.outlines()}
    found: dict[str, str] = {}
    while waiting:
        table = waiting.pop()
        for name in sorted((needs(table) & models.keys()) - known):
            known.add(name)
            found[name] = table.name
            waiting.append(models[name])
    return found
