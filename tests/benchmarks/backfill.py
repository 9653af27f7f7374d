"""Fifty million events from raw files to published leaves and marts: memory stays, time is linear."""

from __future__ import annotations

from collections.abc import Iterator

from flows.services import Services
from tests.benchmarks.measure import Result
from tests.benchmarks.pipeline import days, downstream, land, whole_run
from tests.benchmarks.processes import in_child
from tests.benchmarks.server import Server, settle

ROWS_A_DAY = 500_000
DAYS = 100
_PARTS = 4
_FIRST = "2025-01-01"


def run(server: Server, full: bool) -> Iterator[Result]:
    """Landed in parts of 25 days; each part is run by a process of its own, as a daily schedule would after
    an outage. The memory is the largest process's; time per part must not grow with what is there."""
    if not full:
        return
    seconds: list[float] = []
    peaks: list[float] = []
    with server.services() as services:
        every = days(_FIRST, DAYS)
        size = DAYS // _PARTS
        for part in range(_PARTS):
            for day in every[part * size : (part + 1) * size]:
                land(services, [day], ROWS_A_DAY)
            settle(services.settings.require("warehouse_dsn"))
            done = in_child(services.settings, _run, f"part-{part}")
            seconds.append(done.seconds)
            peaks.append(done.peak_gb)
        with services.warehouse.connect() as connection:
            found = connection.execute("select count(*) from analytics.fct_events").fetchone()
        distinct = DAYS * (ROWS_A_DAY - ROWS_A_DAY // 40)
        assert found == (distinct,), f"{found} events are published, {distinct} were sent"
    details = {
        "events": DAYS * ROWS_A_DAY,
        "seconds": {"parts": [round(value, 1) for value in seconds]},
        "peak_gb": [round(value, 2) for value in peaks],
    }
    yield Result(
        "backfill of 50,000,000 events: peak memory", max(peaks), "GB", 2.0, "at most", None, details
    )
    yield Result(
        "backfill of 50,000,000 events: last quarter ÷ first quarter (linear is 1)",
        seconds[-1] / seconds[0],
        "×",
        1.25,
        "at most",
        None,
        details,
    )


def _run(services: Services, run_id: str) -> None:
    whole_run(services, downstream(), run_id)
