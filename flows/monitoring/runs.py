"""The runs of the batch, and which tables each of them has left undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

from flows.flow_names import MENDING, OF_SOURCES
from transforms import registry

_REMEMBERED = timedelta(days=35)
_MOST = 1_000


@dataclass(frozen=True)
class Run:
    """One run. `undone` are the tables that it did not bring to an end; None: it was not brought to one.

    `only` are the tables that it was about, where these are not all: a backfill, a rebuild, a selection.
    """

    flow: str
    started_at: datetime
    state: str
    undone: frozenset[str] | None
    only: frozenset[str] | None = None

    def has_done(self, table: str) -> bool:
        """Whether all that was to be done of a table was done, and seen, when it ended."""
        is_meant = self.only is None or table in self.only
        return is_meant and self.undone is not None and table not in self.undone


def recent(connection: Connection[Any], now: datetime) -> list[Run]:
    """The newest first."""
    rows = connection.execute(
        "select flow, started_at, state, summary -> 'failures', summary -> 'skipped', "
        "coalesce(summary -> 'selected', '[]') from ops.run "
        "where flow = any(%s) and state <> 'Late' and started_at > %s order by started_at desc limit %s",
        ([*OF_SOURCES, *MENDING], now - _REMEMBERED, _MOST),
    ).fetchall()
    return [
        Run(flow, started, state, left_undone(state, failures or (), skipped or ()), _only(flow, selected))
        for flow, started, state, failures, skipped, selected in rows
    ]


def _only(flow: str, selected: Sequence[str]) -> frozenset[str] | None:
    """A backfill of all tables is still none of the sources."""
    if selected:
        return frozenset(selected)
    return None if flow in OF_SOURCES else frozenset(table.name for table in registry.build_order())


def failed_tables(failures: Sequence[str]) -> frozenset[str]:
    """What a run's failures begin with: tables, views; anything else is about the whole run."""
    return frozenset(line.partition(":")[0].strip() for line in failures)


def left_undone(state: str, failures: Sequence[str], skipped: Sequence[str]) -> frozenset[str] | None:
    """From what a run said: what it skipped begins with all that it left out, too."""
    if state not in ("Completed", "Failed"):
        return None
    known = registry.tables()
    failed = failed_tables(failures)
    left_out = {name.strip() for line in skipped for name in line.partition(":")[0].split(",")}
    if any(name not in known and not name.startswith("mv_") for name in failed):
        return None
    return frozenset(failed | left_out)
