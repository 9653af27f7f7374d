"""The ledger of a lost warehouse, filled again from what the lake's manifests tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flows.stores.lake import Lake
from flows.stores.ledger import Conflict, Ledger
from flows.stores.manifest import Commit


def rebuild_ledger(ledger: Ledger, lake: Lake) -> int:
    """Fill an empty ledger from the lake's manifests, in one transaction; returns the number of entries.

    Partitions come back unpublished (`published_at` is None). Raises Conflict when the ledger is not empty.
    """
    histories = histories_of(lake)
    with ledger.connection.transaction():
        ledger.connection.execute("LOCK TABLE ops.ledger IN EXCLUSIVE MODE")
        if ledger.connection.execute("SELECT 1 FROM ops.ledger LIMIT 1").fetchone():
            raise Conflict("The ledger is not empty: it can't be filled from the lake. Nothing was changed.")
        fill(ledger, histories)
    return sum(len(history) for history in histories)


def replace_ledger(ledger: Ledger, histories: Iterable[Sequence[Commit]]) -> None:
    """Put what these manifests tell in the place of what the ledger holds, in the caller's transaction."""
    for name in ("ledger", "partition_state", "position", "landed_window", "pending_publish"):
        ledger.connection.execute(f"DELETE FROM ops.{name}".encode())
    fill(ledger, histories)


def histories_of(lake: Lake) -> list[list[Commit]]:
    """Every manifest of a lake, entry by entry."""
    return [lake.manifest(layer, table) for layer, table in lake.manifests()]


def fill(ledger: Ledger, histories: Iterable[Sequence[Commit]]) -> None:
    """Enter the commits of each table in their order, in the caller's transaction.

    Versions of partitions begin above all that were ever used: a version is part of what a commit is named
    by, and of marks (`Ledger.mark`), which raise it, a manifest does not tell.
    """
    versions: dict[tuple[str, str, str], int] = {}
    for commit in (commit for history in histories for commit in history):
        # Of a landing it is the position that has a version, whatever partition its file is of.
        counter = (
            ("land", commit.table, "") if commit.kind == "land" else ("state", commit.table, commit.partition)
        )
        ledger.commit(commit, version=versions.get(counter, 0))
        versions[counter] = versions.get(counter, 0) + 1
    ledger.connection.execute("UPDATE ops.ledger SET in_manifest = true")
    ledger.connection.execute(
        "UPDATE ops.partition_state "
        "SET version = version + (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    )
