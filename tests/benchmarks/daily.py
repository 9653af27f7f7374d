"""The daily run on the whole sandbox: 500,000 events of a new day, with everything that belongs to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

import flows.sandbox as sandbox
from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.server import CACHE, Server

EVENTS_A_DAY = 500_000
_SCALE = 23.4
"""flows.sandbox.world: 23.4 is 500,000 events a day."""
_ROOT = Path(__file__).resolve().parents[2]


def run(_server: Server, full: bool) -> Iterator[Result]:
    """`python -m flows` as a person types it: starting Python and Prefect, landing from PostgreSQL, Kafka,
    Stripe and SendGrid, staging, facts, marts, both kinds of checks, views, lake.sql. Warm: the services run
    and the warehouse holds the days before."""
    folder = CACHE / "company"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANALYTICS_")}
    environment["ANALYTICS_SANDBOX"] = str(folder)

    def flows(*words: str) -> float:
        with stopwatch() as elapsed:
            done = subprocess.run(
                [sys.executable, "-m", "flows", *words],
                cwd=_ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return elapsed()

    if sandbox.read(folder) is not None:
        sandbox.reset(folder)
    events: list[int] = []
    try:
        flows("sandbox", "start", "--scale", str(_SCALE), "--days", "1")
        flows()
        before = _published_events(folder)

        def next_day(_: int) -> float:
            nonlocal before
            flows("sandbox", "advance", "--days", "1")
            seconds = flows()
            after = _published_events(folder)
            events.append(after - before)
            before = after
            return seconds

        times = alternate({"daily run": next_day}, rounds=3 if full else 2)
        assert all(count > 0.9 * EVENTS_A_DAY for count in events), events
        flows("check")
    finally:
        sandbox.reset(folder)
    yield Result(
        "the daily run at 500,000 events, everything included, warm",
        times.median("daily run"),
        "s",
        20.0,
        "at most",
        None,
        times.details(events=events),
    )


def _published_events(folder: Path) -> int:
    state = sandbox.read(folder)
    assert state is not None
    assert state.warehouse_dsn is not None
    with psycopg.connect(state.warehouse_dsn) as connection:
        row = connection.execute("select count(*) from analytics.fct_events").fetchone()
    assert row is not None
    return int(row[0])
