"""Rebuild a range of days, or whole tables that can't be trusted: `python -m flows backfill --from DAY --to
DAY [--select NAME+]`, `python -m flows rebuild NAME …`, or the deployment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect import flow

from flows.asked import refused
from flows.batch import run, run_name, runner
from flows.durations import BadRange, days_between
from flows.hung import HOUR
from flows.planner import ASKED_FOR, REPLAYED, WHOLE
from flows.progress import Progress
from flows.services import open_services
from flows.stores.ledger import Ledger
from transforms import registry
from transforms.contract import ContractError


# As of the batch: tasks are tried again, and what was marked and not built stays marked for the next run.
@flow(
    name="backfill",
    flow_run_name=run_name,
    task_runner=runner,
    timeout_seconds=24 * HOUR,
    retries=0,
    result_serializer="json",
)
def backfill(start: str, end: str, select: list[str] | None = None) -> dict[str, Any]:
    """Rebuild the partitions of [start, end), days in UTC, from raw data.

    The partitions are first marked as asked for, then built by the ordinary run: what a killed backfill has
    not built stays marked and is built by the next run of either. Refused for a range or a name that holds
    nothing.

    Args:
        start: First day (UTC), as 2025-10-07.
        end: The day after the last.
        select: Only these tables; NAME+ with what depends on it.
    """
    try:
        mark(start, end, select)
    except (BadRange, ContractError) as error:
        return refused(error)
    return run("backfill", (), select, yes=False).as_json()


@flow(
    name="rebuild",
    flow_run_name=run_name,
    task_runner=runner,
    timeout_seconds=24 * HOUR,
    retries=0,
    result_serializer="json",
)
def rebuild(select: list[str]) -> dict[str, Any]:
    """Rebuild every partition of these tables from raw, believing neither their files nor what PostgreSQL
    holds: rows that differ from the outcome are made right. As resumable as a backfill.

    Args:
        select: These tables; NAME+ with what depends on it.
    """
    _mark(select, REPLAYED)
    return run("rebuild", (), select, yes=False).as_json()


def mark(start: str, end: str, select: Sequence[str] | None) -> int:
    """Mark the standing partitions of a range as due; returns how many. Raises BadRange."""
    return _mark(select, ASKED_FOR, days_between(start, end))


def _mark(
    select: Sequence[str] | None, fingerprint: str, days: tuple[datetime, datetime] | None = None
) -> int:
    """Mark standing partitions, those of `days` or all. Those past their retention stay as they are, and that
    is said. Raises BadRange where there are no others.
    """
    services = open_services()
    with services.ledger() as ledger, Progress("rebuild") as progress:
        wanted, past = _standing(ledger, select, days, services.settings.now())
        for name, count in past.items():
            progress.say(name, f"{count:,} partitions are past their retention and stay as they are")
        return ledger.mark(wanted, fingerprint)


def hold_something(select: Sequence[str] | None, days: tuple[datetime, datetime] | None = None) -> None:
    """Raise BadRange where there is nothing to mark: to be told to who typed it, before a run begins."""
    services = open_services()
    with services.ledger() as ledger:
        _standing(ledger, select, days, services.settings.now())


def _standing(
    ledger: Ledger, select: Sequence[str] | None, days: tuple[datetime, datetime] | None, now: datetime
) -> tuple[list[tuple[str, str]], Counter[str]]:
    """The standing partitions of `days`, or all, and of each table how many more are past their retention:
    what they were made of may be gone. A table without partitions is no day's. Raises BadRange for none.
    """
    chosen = (
        set(registry.select(list(select))) if select else {table.name for table in registry.build_order()}
    )
    wanted: list[tuple[str, str]] = []
    past: Counter[str] = Counter()
    for name, key in ledger.states(sorted(chosen), with_files=False):
        partition = registry.table(name).partition
        if key == WHOLE:
            # Of a partitioned table this only notes what was consumed.
            if partition is None and days is None:
                wanted.append((name, key))
            continue
        if days is not None and partition is not None:
            low, high = partition.span(key)
            if low >= days[1] or high <= days[0]:
                continue
        if registry.table(name).is_past_retention(key, now):
            past[name] += 1
            continue
        wanted.append((name, key))
    if past and not wanted:
        raise BadRange(
            f"All that was asked for is past its retention ({', '.join(past)}): what it was made of may "
            "be gone, so it stays as it is. Nothing was changed."
        )
    if not wanted and days is not None:
        raise BadRange(
            f"Between {days[0]:%Y-%m-%d} and {days[1]:%Y-%m-%d} no partition stands, so there is nothing to "
            "rebuild. A table that has no days: python -m flows rebuild TABLE"
        )
    if not wanted:
        raise BadRange(
            f"No partition of {', '.join(sorted(chosen))} stands yet: `python -m flows` builds it."
        )
    return wanted, past
