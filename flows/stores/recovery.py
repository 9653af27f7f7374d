"""The ledger of a lost warehouse, filled again from what the lake's manifests tell."""

from __future__ import annotations

from flows.stores.lake import Lake
from flows.stores.ledger import Conflict, Ledger


def rebuild_ledger(ledger: Ledger, lake: Lake) -> int:
    """Fill an empty ledger from the lake's manifests, in one transaction; returns the number of entries.

    Partitions come back unpublished (`published_at` is None). Raises Conflict when the ledger is not empty.
    """
    histories = [lake.manifest(layer, table) for layer, table in lake.manifests()]
    with ledger.connection.transaction():
        ledger.connection.execute("LOCK TABLE ops.ledger IN EXCLUSIVE MODE")
        if ledger.connection.execute("SELECT 1 FROM ops.ledger LIMIT 1").fetchone():
            raise Conflict("The ledger is not empty: it can't be filled from the lake. Nothing was changed.")
        versions: dict[tuple[str, str, str], int] = {}
        for commit in (commit for history in histories for commit in history):
            counter = (commit.kind if commit.kind == "land" else "state", commit.table, commit.partition)
            ledger.commit(commit, version=versions.get(counter, 0))
            versions[counter] = versions.get(counter, 0) + 1
        ledger.connection.execute("UPDATE ops.ledger SET in_manifest = true")
    return sum(len(history) for history in histories)
