"""One new day on a long history beside the same day on a short one: cost follows new data, never history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta

from flows.planner import WHOLE
from flows.services import Services
from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.pipeline import days, downstream, land, whole_run
from tests.benchmarks.server import Server, settle
from transforms import registry

ROWS_A_DAY = 50_000
LONG, SHORT = 400, 10
_NEW = "2026-02-05"
_DAYS_AT_ONCE = 40


def run(server: Server, full: bool) -> Iterator[Result]:
    """Prepare, plan, build, check, publish and refresh everything downstream of the topic. Not counted:
    landing, which is the same on both, and Prefect's own start, which would hide a difference."""
    names = downstream()
    with ExitStack() as stack:
        sides = {length: stack.enter_context(server.services()) for length in ((LONG, SHORT))}
        for length, services in sides.items():
            _fill(services, names, length)

        def new_day(length: int, number: int) -> float:
            services = sides[length]
            day = days(_NEW, number + 1)[-1]
            land(services, [day], ROWS_A_DAY)
            settle(services.settings.require("warehouse_dsn"))
            with stopwatch() as elapsed:
                touched = whole_run(services, names, f"day-{day}")
            _only(touched, day)
            return elapsed()

        times = alternate(
            {
                f"{LONG} days": lambda number: new_day(LONG, number),
                f"{SHORT} days": lambda number: new_day(SHORT, number),
            },
            rounds=6 if full else 4,
        )
    yield Result(
        f"one new day ({ROWS_A_DAY:,} events) on {LONG} days of history ÷ on {SHORT} days",
        times.ratio(f"{LONG} days", f"{SHORT} days"),
        "×",
        1.10,
        "at most",
        None,
        times.details(rows_a_day=ROWS_A_DAY),
    )


def _fill(services: Services, names: list[str], length: int) -> None:
    """History that ends on the day before the first new one."""
    history = days(f"{datetime.fromisoformat(_NEW) - timedelta(days=length):%Y-%m-%d}", length)
    for begin in range(0, length, _DAYS_AT_ONCE):
        land(services, history[begin : begin + _DAYS_AT_ONCE], ROWS_A_DAY)
    whole_run(services, names, "history")


def _only(touched: dict[str, list[str]], day: str) -> None:
    """A new day touches its own partitions and those of the month it is in, nothing else."""
    assert touched["fct_events"] == [day], touched["fct_events"]
    for name, partitions in touched.items():
        partition = registry.table(name).partition
        allowed = {WHOLE, day if partition is None or partition.every == "day" else day[:7]}
        assert set(partitions) <= allowed, f"{name} rebuilt {partitions} for {day}"
