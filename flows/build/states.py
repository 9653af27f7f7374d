"""What stands, as the planner wants to see it: one query for built tables, one for landings."""

from __future__ import annotations

from collections.abc import Iterable

from flows.planner import PartitionState, States
from flows.stores.ledger import Ledger


def planner_states(ledger: Ledger, tables: Iterable[str] | None = None) -> States:
    """Table → partition → state, of all built and landed tables or of some."""
    found: dict[str, dict[str, PartitionState]] = {}
    tables = None if tables is None else list(tables)
    for name, windows in ledger.landed_windows(tables).items():
        found[name] = {
            key: PartitionState(token=window.token, sequence=window.sequence, rows=window.row_count)
            for key, window in windows.items()
        }
    for name, key, *values in ledger.outlines(tables):
        found.setdefault(name, {})[key] = PartitionState(*values)
    return found
