"""A warehouse with nothing in it but its schemas, a clock that the test moves, rows to be planted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from flows.monitoring.health import record
from flows.monitoring.schedules import Deployment, Switched
from flows.monitoring.signals import BY_NAME
from flows.monitoring.verdict import Verdict
from flows.monitoring.watch import Watch
from flows.services import Services
from tests.flows.clock import At
from tests.house import Server

NOW = datetime(2025, 11, 3, 12, 0, tzinfo=UTC)
DAILY = Deployment("daily", "analytics_pipeline", ("0 2 * * *",), "1")


@dataclass
class Place:
    """One warehouse, and what is planted in it."""

    dsn: str
    lake: Path
    moment: list[datetime] = field(default_factory=lambda: [NOW])
    schedules: Switched = field(default_factory=Switched)

    def __post_init__(self) -> None:
        nobody = "http://127.0.0.1:9"
        given: dict[str, Any] = {
            "_env_file": None,
            "moment": self.moment,
            "warehouse_dsn": self.dsn,
            "app_dsn": "host=127.0.0.1 port=9 user=nobody password=secret-of-the-app",
            "kafka_bootstrap": "127.0.0.1:9",
            "stripe_url": nobody,
            "sendgrid_url": nobody,
            "lake": self.lake,
        }
        self.services = Services(At(**given))

    @cached_property
    def connection(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def run(
        self,
        started_at: datetime,
        *failures: str,
        flow: str = "analytics_pipeline",
        state: str = "",
        skipped: Sequence[str] = (),
        pending: Sequence[str] = (),
        selected: Sequence[str] = (),
    ) -> None:
        """A run of the batch, as it enters itself."""
        state = state or ("Failed" if failures else "Completed")
        known = {"skipped": list(skipped), "pending": list(pending), "selected": list(selected)}
        said = Jsonb({"failures": failures, **known})
        values = (f"run-{flow}-{started_at.isoformat()}", flow, started_at, state, said)
        self.execute(
            "insert into ops.run (run_id, flow, started_at, state, summary) values (%s, %s, %s, %s, %s)",
            *values,
        )

    def profile(
        self,
        table: str,
        day: date,
        rows: int,
        columns: Mapping[str, Any] | None = None,
        *,
        hours: Mapping[str, int] | None = None,
        profiled_at: datetime = NOW,
        partition: str | None = None,
    ) -> None:
        """What a run saw of one day of a table."""
        self.execute(
            "insert into ops.partition_profile (table_name, partition, day, token, profiled_at, row_count, "
            "hours, columns, columns_at) values (%s, %s, %s, 'token', %s, %s, %s, %s, %s) on conflict "
            "(table_name, partition, day) do update set (row_count, columns, hours) = "
            "(excluded.row_count, excluded.columns, excluded.hours)",
            table,
            day.isoformat() if partition is None else partition,
            day,
            profiled_at,
            rows,
            Jsonb(dict(hours or {})),
            Jsonb(dict(columns or {})),
            datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, hours=2),
        )

    def watch(self) -> Watch:
        """One look, with schedules as the test says."""
        watch = Watch(self.services, self.services.settings.now(), self.connection)
        vars(watch)["prefect"] = self.schedules
        return watch

    def measure(self, signal: str) -> dict[str, Verdict]:
        """Subject → what a signal says now."""
        return {verdict.subject: verdict for verdict in BY_NAME[signal].measure(self.watch())}

    def record(self, *verdicts: Verdict) -> list[Verdict]:
        """Keep them as of now."""
        return record(self.connection, verdicts, self.services.settings.now())

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.moment[0] += timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def database(postgres18: Server) -> str:
    """One for all tests of a file: to make one takes longer than most of them."""
    return postgres18.database()


@pytest.fixture
def place(database: str, tmp_path: Path) -> Iterator[Place]:
    """A warehouse in which nothing has happened, at 2025-11-03 12:00."""
    made = Place(database, tmp_path)
    ((tables,),) = made.execute(
        "select string_agg('ops.' || tablename, ', ') from pg_tables where schemaname = 'ops'"
    )
    made.execute(f"truncate {tables}")
    yield made
    made.connection.close()
