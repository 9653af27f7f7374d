"""Raw files of the stream: small ones become one in the journal, and from time to time an entry of the ledger
names what is there.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from psycopg import Connection

from flows.failpoints import failpoint
from flows.landed import (
    BY,
    BY_STREAM,
    CLOCK,
    LANDED_ON,
    OFFSETS,
    STREAMED,
    add_span,
    landing_time,
    spans_without_records,
)
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, LakeFile
from flows.streaming.journal import Journal, Journaled
from transforms import engine
from transforms.contract import Layer
from transforms.entities import SourceEntity

ROWS_AT_ONCE = 5_000_000
"""About so many rows are one landing, and one file of a crowded day: 1,382 files a day at 80,000 a second, of
all topics together."""
FULL_ROWS = 50_000
"""A raw file of so many rows stays as it is, unless its day is crowded: to write it again costs as much."""
CROWDED_FILES = 100
"""Raw files of a topic and day, after which each landing of it is one file."""
_READ_ROWS = 30_720
"""Rows of a file that are in memory at once while it is joined with others, beside the micro-batches."""


def roll_up(lake: Lake, ledger: Ledger, entity: SourceEntity) -> int:
    """Make one raw file of the small ones that the journal names, run by run; returns the rows that wait.

    To be called under the entity's landing lock. The last micro-batch of a run stands for all of it: offsets,
    windows and file move over in one transaction, the files go after it.
    """
    journal = Journal(ledger.connection)
    waiting = journal.unlanded(entity.table)
    for run in _runs(waiting):
        file = _merged(lake, run[-1].batch_id, [batch.file for batch in run])
        failpoint("rollup.written")
        journal.merge(run, file)
        failpoint("rollup.journaled")
        for batch in run:
            lake.discard(batch.file)
    return sum(batch.file.rows for batch in waiting)


def land_journal(lake: Lake, ledger: Ledger, entity: SourceEntity, now: datetime, run_id: str) -> int:
    """Land the micro-batches of a topic that no landing names yet; returns their rows.

    To be called under the entity's landing lock. In one transaction a landing with all their rows comes and
    they go from the journal; their files go after it. A crash in between leaves files that nobody names.
    """
    journal = Journal(ledger.connection)
    there = Counter(file.partition for file in ledger.files(entity.table))
    rows = 0
    while batches := journal.unlanded(entity.table, ROWS_AT_ONCE):
        position = ledger.positions(entity.table)
        landed_at = landing_time(now, position)
        offsets = {**position.positions.get("offsets", {})}
        windows: Counter[str] = Counter()
        spans = spans_without_records(position)
        for batch in batches:
            offsets.update({str(partition): after for partition, (_, after) in batch.offsets.items()})
            windows.update(batch.windows)
            for partition, span in batch.offsets.items():
                add_span(spans, partition, span)
        # A warehouse that was made anew, or is from before, gives the same numbers again: never the same id.
        name = f"{batches[0].sequence}-{batches[-1].sequence}-{batches[-1].batch_id.removeprefix(STREAMED)}"
        token = f"stream-{entity.table}-{name}"
        replaced = _replaced([batch.file for batch in batches], there)
        files = [batch.file for batch in batches if batch.file not in replaced]
        if replaced:
            files.append(_merged(lake, token, replaced))
        there.update(file.partition for file in files)
        failpoint("stream.gathered")
        commit = Commit(
            token=token,
            kind="land",
            layer=Layer.RAW.value,
            table=entity.table,
            run_id=run_id,
            add=tuple(files),
            positions={"topic_id": batches[-1].topic_id, "offsets": offsets, CLOCK: landed_at.isoformat()},
            windows={window: count for window, count in windows.items() if count},
            control={BY: BY_STREAM, OFFSETS: spans},
            row_count=sum(file.rows for file in files),
            landed_at=landed_at,
        )
        ledger.record(lake, commit, version=position.version, within=partial(_forget, journal, batches))
        failpoint("stream.landed")
        for file in replaced:
            lake.discard(file)
        rows += commit.row_count
    return rows


def _runs(waiting: Sequence[Journaled]) -> Iterator[list[Journaled]]:
    """Small micro-batches in a row, at least two, whose offsets go on where those of the one before end."""
    run: list[Journaled] = []
    ends: dict[int, int] = {}
    for batch in waiting:
        goes_on = all(ends.get(part, first) == first for part, (first, _) in batch.offsets.items())
        is_small = batch.file.rows < FULL_ROWS
        if run and not (is_small and goes_on and batch.file.partition == run[0].file.partition):
            yield from [run] if len(run) > 1 else []
            run, ends = [], {}
        if is_small:
            run.append(batch)
            ends.update({part: after for part, (_, after) in batch.offsets.items()})
    yield from [run] if len(run) > 1 else []


def _replaced(files: Sequence[LakeFile], there: Mapping[str, int]) -> list[LakeFile]:
    """Which files of a landing had better be one; `there`: day → the files it has already."""
    is_crowded = there.get(files[-1].partition, 0) + len(files) > CROWDED_FILES
    chosen = [file for file in files if is_crowded or file.rows < FULL_ROWS]
    return chosen if len(chosen) > 1 else []


def _merged(lake: Lake, name: str, files: Sequence[LakeFile]) -> LakeFile:
    """One new file with the rows of all, in the folder of the last."""
    last = files[-1]
    # One thread: the micro-batches want the others, and the memory.
    with engine.connect(threads=1, keeps_order=True) as session:
        rows = lake.read(session, files).to_arrow_reader(_READ_ROWS)
        batch_id = f"{name}-{secrets.token_hex(4)}"
        return lake.write(
            last.layer, last.table, LANDED_ON, last.partition, batch_id, rows, measured="_landed_at"
        )


def _forget(journal: Journal, batches: Sequence[Journaled], _: Connection[Any]) -> None:
    journal.forget(batches)
