"""Whether warehouse and lake are of one story: a restore of either makes them tell two, and so does a setting
that names another one, or a disk that is not mounted.

Every run asks for it, every backup, and whatever removes files from the lake that the ledger does not name.
It costs a look at each manifest and two queries; only where that raises a suspicion are files compared.
"""

from __future__ import annotations

from flows.errors import FlowsError
from flows.stores import manifest
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import fold
from flows.stores.verified import LakeError

_REMEDY = (
    "Nothing was changed. See that ANALYTICS_WAREHOUSE_DSN and ANALYTICS_LAKE belong together. Where they "
    "do, `python -m flows rebuild --from-lake` makes the warehouse what the lake says; the next run reads "
    "again what the sources have had since (docs/recovery.md)."
)


class TwoStories(FlowsError):
    """The warehouse's ledger and the lake's manifests are not of the same past."""


def refuse_two_stories(ledger: Ledger, lake: Lake, besides: str | None = None) -> None:
    """Called before anything is changed. Raises TwoStories where the warehouse is older than the lake (a
    backup was restored, or it is empty), or newer (the lake came back from a copy, or is not there).

    A single manifest that was moved away is no such thing: it is written anew from the ledger. `besides`: a
    table that may be half gone and is not asked about. Raises LakeError for a manifest that can't be read.
    """
    try:
        _compare(ledger, lake, besides)
    except OSError as error:
        # Named here: within a session of the warehouse it would be told as something that PostgreSQL refused.
        at = f" at {error.filename}" if error.filename else ""
        raise LakeError(
            f"The lake can't be read in {lake.root}{at}: {error.strerror or error}. Nothing was changed. See "
            "after its disk and whose the file is, or correct ANALYTICS_LAKE, and run again."
        ) from error


def _compare(ledger: Ledger, lake: Lake, besides: str | None) -> None:
    ahead = [table for table in _ahead(ledger, lake) if table != besides]
    if ahead:
        raise TwoStories(
            f"The lake is ahead of the warehouse: {_listed(ahead)} have commits that the ledger does not "
            f"know. The warehouse is new or came back from a backup, it seems. {_REMEDY}"
        )
    behind = [table for table in _behind(ledger, lake) if table != besides]
    if behind and not lake.manifests():
        raise TwoStories(
            f"The lake is not there: {lake.root} has no manifest, and the ledger names files of "
            f"{_listed(behind)}. Its disk is not mounted, or ANALYTICS_LAKE names another folder, it seems. "
            "Nothing was changed: mount it or correct that, and run again. One that is lost comes back by "
            "`python -m flows restore --lake DIR` (docs/recovery.md)."
        )
    if behind:
        raise TwoStories(
            f"The lake is behind the warehouse: {_listed(behind)} lack commits that the ledger has. The "
            f"lake is another one or came back from a copy, it seems. {_REMEDY}"
        )


def _ahead(ledger: Ledger, lake: Lake) -> list[str]:
    """Tables whose manifest ends with a commit that the ledger has not: a line follows its commit."""
    last: dict[str, str] = {}
    for layer, table in lake.manifests():
        commit = manifest.last(lake.manifest_path(layer, table))
        if commit is not None:
            last[commit.token] = table
    known = ledger.committed(last)
    return sorted(table for token, table in last.items() if token not in known)


def _behind(ledger: Ledger, lake: Lake) -> list[str]:
    """Tables whose newest commit that should have a line has none, and whose files are not the same."""
    rows = ledger.connection.execute(
        "SELECT DISTINCT ON (table_name) layer, table_name, token FROM ops.ledger WHERE in_manifest "
        "ORDER BY table_name, sequence DESC"
    ).fetchall()
    suspect = [
        (layer, table)
        for layer, table, token in rows
        if not manifest.names(lake.manifest_path(layer, table), token)
    ]
    return sorted(table for layer, table in suspect if _is_other(ledger, lake, layer, table))


def _is_other(ledger: Ledger, lake: Lake, layer: str, table: str) -> bool:
    """A fold that was killed leaves a ledger that tells the same at greater length; that is one story."""
    files = fold(ledger.history(table))
    if not lake.manifest_path(layer, table).exists() and all(
        (lake.root / file.path).exists() for file in files
    ):
        ledger.connection.execute("UPDATE ops.ledger SET in_manifest = false WHERE table_name = %s", (table,))
        return False
    return {file.path for file in fold(lake.manifest(layer, table))} != {file.path for file in files}


def _listed(tables: list[str]) -> str:
    more = f" and {len(tables) - 3} more" if tables[3:] else ""
    return f"{', '.join(tables[:3])}{more}"
