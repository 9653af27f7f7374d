"""The ledger as the lake's manifests tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit


def histories_of(lake: Lake) -> list[list[Commit]]:
    """Every manifest of a lake, entry by entry."""
    return [lake.manifest(layer, table) for layer, table in lake.manifests()]


def replace_ledger(ledger: Ledger, histories: Iterable[Sequence[Commit]]) -> None:
    """Put the commits of these manifests, of each table in their order, in the place of what the ledger
    holds, in the caller's transaction. Partitions come back unpublished (`published_at` is None).

    Versions of partitions begin above all that were ever used: a version is part of what a commit is named
    by, and of marks (`Ledger.mark`), which raise it, a manifest does not tell.
    """
    for name in ("ledger", "partition_state", "position", "landed_window", "pending_publish"):
        ledger.connection.execute(f"DELETE FROM ops.{name}".encode())
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
