"""Raw that is past its declared retention: the files of whole days of landing, gone for good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import date

from flows.landed import landed_on, rows_by_window
from flows.planner import WHOLE
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.stores.ledger_reader import now_in
from flows.stores.ledger_rows import RETIRED
from flows.stores.manifest import Commit, LakeFile
from transforms import registry
from transforms.contract import Table, Write
from transforms.entities import SourceEntity


def let_go(services: Services, ledger: Ledger, entity: SourceEntity, run_id: str) -> list[LakeFile]:
    """Take the days of landing out of an entity's raw table whose retention is over; returns their files.

    A day stays as a whole while a table that is continued has not read all of it, and while a row of it is of
    a window that is not past and that a table has: it would be built anew of less. Of other windows are only
    claims of a time to come that no model believed.

    To be called under the table's landing lock. Each day is one entry in the ledger, then one line in the
    manifest. The files go with a sweep, when who had begun to read them has ended. Landings, windows and
    offsets stay in the ledger: nothing is due by this. Raises DamagedFile.
    """
    table, now = registry.table(entity.table), services.settings.now()
    if table.retention is None or table.partition is None:
        return []
    unread = _unread(ledger, table)
    days: dict[str, list[LakeFile]] = {}
    for file in ledger.files(table.name):
        if table.is_past_retention(table.partition.key(date.fromisoformat(landed_on(file))), now):
            days.setdefault(landed_on(file), []).append(file)
    gone: list[LakeFile] = []
    for day, files in sorted(days.items()):
        if unread is None or unread.intersection(file.path for file in files):
            continue
        with services.lake.duckdb() as session:
            windows = rows_by_window(session, entity, services.lake.paths(files))
        left = [key for key in windows if key != WHOLE and not table.is_past_retention(key, now)]
        if not _are_built(ledger, table, left):
            ledger.record(services.lake, _gone(table, day, files, run_id), version=0)
            gone += files
    return gone


def _unread(ledger: Ledger, table: Table) -> set[str] | None:
    """Files of landings that some table which is continued has not read yet; None: nobody knows which."""
    followers = [one.name for one in _readers(table) if one.write is Write.APPEND]
    markers = ledger.states(followers, [WHOLE], with_files=False)
    known = [name for (name, _), marker in markers.items() if table.name in marker.based_on]
    read = ledger.read_up_to(table.name, followers)
    if len(known) < len(followers) or (followers and read is None):
        return None
    if read is None:
        return set()
    joined = ledger.joined(table.name)
    behind = ledger.landed(table.name, after=read[0])
    return {now_in(file, joined).path for landing in behind for file in landing.add}


def _are_built(ledger: Ledger, table: Table, windows: Iterable[str]) -> bool:
    """Whether a table that reads this one has a window that one of these reaches into."""
    assert table.partition is not None
    spans = [table.partition.span(key) for key in windows]
    for reader in _readers(table) if spans else ():
        assert reader.partition is not None
        for _, key in ledger.states([reader.name], with_files=False):
            if key == WHOLE:
                continue
            start, end = reader.partition.span(key)
            if any(start < last and first < end for first, last in spans):
                return True
    return False


def _readers(table: Table) -> list[Table]:
    return [one for one in registry.build_order() if table.name in one.upstreams]


def _gone(table: Table, day: str, files: Sequence[LakeFile], run_id: str) -> Commit:
    paths = sorted(file.path for file in files)
    name = hashlib.sha256(" ".join(paths).encode()).hexdigest()[:20]
    return Commit(
        token=f"retire-{table.name}-{day}-{name}",
        kind="compact",
        layer=table.layer.value,
        table=table.name,
        partition=day,
        run_id=run_id,
        remove=tuple(paths),
        control={RETIRED: True},
    )
