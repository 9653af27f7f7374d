"""What a staging model says of single records: the window each would stand in, or why it can't be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from flows.landed import with_place
from flows.services import Services
from flows.spans import partition_expression
from transforms import engine, registry
from transforms.contract import Layer
from transforms.engine import ModelError
from transforms.entities import SourceEntity
from transforms.model import DEAD_LETTER_REASON


@dataclass(frozen=True)
class Verdict:
    """A record is read into a window, or there is a reason why it is not."""

    window: str = ""
    reason: str = ""


class Judge:
    """The staging model of one entity, run over raw rows that are not landed."""

    def __init__(self, services: Services, entity: SourceEntity) -> None:
        self._services = services
        self._entity = entity
        self.table = next(
            table
            for table in registry.build_order()
            if table.layer is Layer.STAGING and entity.table in table.upstreams
        )

    def verdicts(self, rows: Sequence[pa.RecordBatch]) -> list[Verdict]:
        """One for each row, in their order. First all at once, since most are rejected; what is read is asked
        alone for its window.
        """
        if len(rows) == 1:
            return [self._alone(rows[0])]
        try:
            _, reasons = self._run(rows)
        except (ModelError, duckdb.Error):
            reasons = {}  # one of them fails the model: which, is seen when each is alone
        return [
            Verdict(reason=reasons[number]) if number in reasons else self._alone(row)
            for number, row in enumerate(rows)
        ]

    def _alone(self, row: pa.RecordBatch) -> Verdict:
        name = self.table.name
        try:
            windows, reasons = self._run([row])
        except ModelError as error:
            return Verdict(reason=str(error))
        except duckdb.Error as error:
            return Verdict(reason=engine.explain(error))
        if reasons:
            return Verdict(reason=reasons[0])
        if not windows:
            return Verdict(reason=f"{name} gives no row for it")
        if windows[0] is None:
            # The build would stop at it: it belongs to no partition.
            by = self.table.partition.by if self.table.partition else ""
            return Verdict(reason=f"{name} finds no {by} in it")
        return Verdict(windows[0])

    def _run(self, rows: Sequence[pa.RecordBatch]) -> tuple[list[str | None], dict[int, str]]:
        """The windows of the rows that the model gives, and why it rejects which of the records."""
        if not rows:
            return [], {}
        table = self.table
        raw = placed(rows, "replay", self._services.settings.now())
        with self._services.lake.duckdb(keeps_order=False) as connection:
            sources: dict[str, Any] = dict.fromkeys(table.upstreams)
            sources[self._entity.table] = connection.from_arrow(raw)
            computed = engine.compute(table, connection, sources)
            key = partition_expression(table.partition) if table.partition else "''"
            windows = [window for (window,) in computed.rows.project(key).fetchall()]
            if computed.dead_letters is None:
                return windows, {}
            rejected = computed.dead_letters.project(f"_seq, {DEAD_LETTER_REASON}").fetchall()
        return windows, {int(seq): str(reason) for seq, reason in rejected}


def placed(rows: Sequence[pa.RecordBatch], batch_id: str, landed_at: datetime) -> pa.Table:
    """Raw rows as one batch lands them, in their order."""
    return pa.Table.from_batches(
        [with_place(row, batch_id, landed_at, number) for number, row in enumerate(rows)]
    )
