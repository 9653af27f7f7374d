"""Landing what the stream took in: many small raw files become one, and an entry of the ledger names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
    add_span,
    landing_time,
    spans_without_records,
)
from flows.stores.difference import duckdb_session
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit
from flows.streaming.journal import Journal, Journaled
from transforms.contract import Layer
from transforms.entities import SourceEntity

ROWS_AT_ONCE = 300_000
"""Rows of one landed file: it is written beside the micro-batches, in their memory."""


def land_journal(lake: Lake, ledger: Ledger, entity: SourceEntity, now: datetime, run_id: str) -> int:
    """Land the micro-batches of a topic that no landing names yet; returns their rows.

    To be called under the entity's landing lock. In one transaction a landing with all their rows comes and
    they go from the journal; their files go after it. A crash in between leaves files that nobody names.
    """
    journal = Journal(ledger.connection)
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
        token = f"stream-{entity.table}-{batches[0].sequence}-{batches[-1].sequence}"
        with duckdb_session() as session:
            file = lake.write(
                Layer.RAW.value,
                entity.table,
                LANDED_ON,
                f"{landed_at:%Y-%m-%d}",
                token,
                lake.read(session, [batch.file for batch in batches]),
                measured="_landed_at",
            )
        failpoint("stream.rolled_up")
        commit = Commit(
            token=token,
            kind="land",
            layer=Layer.RAW.value,
            table=entity.table,
            run_id=run_id,
            add=(file,),
            positions={"topic_id": batches[-1].topic_id, "offsets": offsets, CLOCK: landed_at.isoformat()},
            windows=dict(windows),
            control={BY: BY_STREAM, OFFSETS: spans},
            row_count=file.rows,
            landed_at=landed_at,
        )
        ledger.record(lake, commit, version=position.version, within=partial(_forget, journal, batches))
        failpoint("stream.landed")
        for batch in batches:
            lake.discard(batch.file)
        rows += file.rows
    return rows


def _forget(journal: Journal, batches: Sequence[Journaled], _: Connection[Any]) -> None:
    journal.forget(batches)
