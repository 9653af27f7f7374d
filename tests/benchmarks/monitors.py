"""How well the monitors find what is wrong with a year of figures, and what a minute's look costs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.monitoring import profiles
from quality.monitors import NORMAL, Numbers, Share, Shares, Volumes, drift, judge_share
from tests.benchmarks.measure import Result
from tests.benchmarks.planted import DAYS, FIRST, Planted, Year, year
from tests.benchmarks.server import Server
from transforms import registry

_ROOT = Path(__file__).resolve().parents[2]
SEED = 6
RECALL, PRECISION = 0.95, 0.90
_REMEMBERED = 56
"""Days of rates and distributions that are looked back at, as in flows.monitoring."""
Alarm = tuple[str, str, date, frozenset[int]]
"""Signal, subject, day, and the hours of it that were unusual: one message a day."""


def run(_server: Server, full: bool) -> Iterator[Result]:
    """Every day of the year as the monitor would have seen it: with the past of that day, nothing later."""
    made = year(SEED)
    begun = time.process_time()
    alarms = raised(made)
    seconds = time.process_time() - begun
    found, false = compared(made, alarms)
    details = {
        "seed": SEED,
        "planted": dict(Counter(f"{one.signal}: {one.size}" for one in made.planted)),
        "missed": [
            f"{one.signal} {one.subject} {one.day}: {one.size}" for one in made.planted if one not in found
        ],
        "false": [f"{signal} {subject} {day}" for signal, subject, day, _ in false],
        "cpu_seconds_of_the_year": round(seconds, 1),
    }
    recall = len(found) / len(made.planted)
    yield Result(
        "anomalies found of 60 planted in a year of figures",
        recall,
        "of 1",
        RECALL,
        "at least",
        None,
        details,
    )
    precision = 1 - len(false) / max(1, len(alarms))
    yield Result(
        "messages of that year that were about one of them", precision, "of 1", PRECISION, "at least"
    )


def raised(made: Year) -> list[Alarm]:
    """What would have been told, day by day."""
    alarms: list[Alarm] = []
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        for on, table, old, factor in made.backfilled:
            if on == day:
                for moment in [moment for moment in made.hours[table] if moment.date() == old]:
                    made.hours[table][moment] = round(made.hours[table][moment] * factor)
        alarms += [*_volumes(made, day), *_rates(made, day), *_distributions(made, day)]
    return alarms


def compared(made: Year, alarms: list[Alarm]) -> tuple[list[Planted], list[Alarm]]:
    """The anomalies that an alarm told of, and the alarms that told of none."""

    def tells(alarm: Alarm, one: Planted) -> bool:
        signal, subject, day, hours = alarm
        is_there = (signal, subject, day) == (one.signal, one.subject, one.day)
        return is_there and (one.hour is None or not hours or one.hour in hours)

    found = [one for one in made.planted if any(tells(alarm, one) for alarm in alarms)]
    false = [alarm for alarm in alarms if not any(tells(alarm, one) for one in made.planted)]
    return found, false


def _volumes(made: Year, day: date) -> Iterator[Alarm]:
    for table, hours in made.hours.items():
        begin = day - timedelta(days=70)
        recent = {moment: rows for moment, rows in hours.items() if begin <= moment.date() <= day}
        days: dict[date, int] = {}
        for moment, rows in recent.items():
            days[moment.date()] = days.get(moment.date(), 0) + rows
        volumes = Volumes(days, recent)
        whole = volumes.day(day, NORMAL)
        of_day = [moment for moment in recent if moment.date() == day]
        judged = {moment.hour: volumes.hour(moment, NORMAL) for moment in of_day}
        unusual = frozenset(hour for hour, found in judged.items() if found and found.is_unusual)
        if whole and whole.is_unusual:
            yield "row_count", table, day, frozenset()
        elif unusual:
            yield "row_count", table, day, unusual


def _rates(made: Year, day: date) -> Iterator[Alarm]:
    for signal, of in (("null_rate", made.nulls), ("duplicate_rate", made.copies)):
        for name, rates in of.items():
            history = [Share(each, *rates[each]) for each in _before(day)]
            judged = judge_share(history, Share(day, *rates[day]), NORMAL)
            if judged and judged.is_unusual:
                yield signal, name, day, frozenset()


def _distributions(made: Year, day: date) -> Iterator[Alarm]:
    for column, counts in made.shares.items():
        judged = drift(
            [Shares(each, counts[each]) for each in _before(day)], Shares(day, counts[day]), NORMAL
        )
        if judged and judged.is_unusual:
            yield "drift", column, day, frozenset()
    for column, numbers in made.numbers.items():
        past = [Numbers(each, numbers[each]) for each in _before(day)]
        judged = drift(past, Numbers(day, numbers[day]), NORMAL)
        if judged and judged.is_unusual:
            yield "drift", column, day, frozenset()


def _before(day: date) -> list[date]:
    first = max(FIRST, day - timedelta(days=_REMEMBERED))
    return [first + timedelta(days=number) for number in range((day - first).days)]


def run_look(server: Server, full: bool) -> Iterator[Result]:
    """`python -m flows monitor` as the deployment's minute costs it, on a warehouse that has been there for a
    year: CPU of the process, whatever else the machine does.
    """
    with server.services() as services:
        with services.warehouse.connect() as connection:
            fill(connection, services.settings.now())
        given = {
            "ANALYTICS_WAREHOUSE_DSN": services.settings.require("warehouse_dsn"),
            "ANALYTICS_APP_DSN": services.settings.require("app_dsn"),
            "ANALYTICS_KAFKA_BOOTSTRAP": "127.0.0.1:9",
            "ANALYTICS_STRIPE_URL": "http://127.0.0.1:9",
            "ANALYTICS_SENDGRID_URL": "http://127.0.0.1:9",
            "ANALYTICS_LAKE": str(services.settings.lake_root),
            "ANALYTICS_METRICS_FOLDER": str(services.settings.lake_root / "metrics"),
        }
        seconds = sorted(_cpu_of_a_look(given) for _ in range(9 if full else 5))
    details = {"cpu_seconds": [round(each, 2) for each in seconds], "days": DAYS}
    middle = seconds[len(seconds) // 2]
    yield Result(
        "CPU of a minute's look (`monitor`) after a year of runs", middle, "s", 2.0, "at most", None, details
    )


def _cpu_of_a_look(given: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "flows", "monitor", "--json"]
    done = subprocess.run(
        command, cwd=_ROOT, env={**os.environ, **given}, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (0, 1), done.stderr
    measured = {(one["signal"], one["subject"]) for one in json.loads(done.stdout)}
    assert ("row_count", "fct_events") in measured, "there was nothing to look at"
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fill(connection: Connection[Any], now: datetime) -> None:
    """What a year of daily and hourly runs leaves in the ops tables."""
    today = now.date()
    days = [today - timedelta(days=DAYS - number) for number in range(DAYS)]
    hours = {str(hour): 20_000 + hour for hour in range(24)}
    said = Jsonb({"failures": [], "skipped": []})
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) "
            "values (gen_random_uuid()::text, %s, %s, %s, 'Completed', %s)",
            [
                (flow, at, at, said)
                for number in range(DAYS * 24)
                for at in [now - timedelta(hours=number)]
                for flow in ("analytics_pipeline", "api_ingest")
                if flow == "api_ingest" or number % 24 == 0
            ],
        )
        for table in registry.build_order():
            if table.partition is None:
                continue
            columns = Jsonb(
                {column.name: {"nulls": 10} for column in profiles.nullable(table)}
                | {
                    column.name: {"values": {f"v{n}": n for n in range(20)}}
                    for column in profiles.kinds(table)
                }
                | {column.name: {"quantiles": [1, 2, 3, 4, 5]} for column in profiles.numbers(table)}
            )
            keys = sorted({table.partition.key(day) for day in days})
            cursor.executemany(
                "insert into ops.partition_state "
                "(table_name, partition, token, version, row_count, published_at) "
                "values (%s, %s, 't', 1, 480276, now())",
                [(table.name, key) for key in keys],
            )
            if table.is_published:
                cursor.executemany(
                    "insert into ops.partition_profile values (%s, %s, %s, 't', %s, 480276, %s, %s, %s)",
                    [
                        (
                            table.name,
                            table.partition.key(day),
                            day,
                            now,
                            Jsonb(hours),
                            columns,
                            day + timedelta(days=1),
                        )
                        for day in days
                    ],
                )
        cursor.execute(
            "insert into ops.check_result select 'run' || n, t, '', 'references_user_id', 'consistency', "
            "'critical', 'great_expectations', true, 0, '{}', %s - n * interval '1 day' "
            "from generate_series(1, %s) n, unnest(%s::text[]) t",
            (now, DAYS, [table.name for table in registry.build_order() if table.is_published]),
        )
        cursor.execute("analyze")
