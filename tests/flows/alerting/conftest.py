"""A warehouse, a clock that the test moves, a file that messages go to, a server of Prefect's with runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from flows.alerting.made_good import noted
from flows.alerting.runs import Reported
from flows.alerts import report_flow_run, run_ended, send_alert
from flows.monitoring.verdict import State, Verdict
from flows.prepare import note_run
from flows.sandbox import Part
from flows.services import Services
from flows.sla import burn_verdicts
from flows.summary import Summary
from tests.flows.clock import At
from tests.house import House, Server, ask_prefect

_EMPTIED = (
    "notification",
    "incident",
    "run",
    "health",
    "health_span",
    "check_result",
    "schema_change",
    "stream_progress",
)
FAILURE = "raw_stripe__charges: Stripe answers 500"
START = datetime(2025, 11, 3, 12, 0, tzinfo=UTC)


@dataclass
class Watch:
    """An operator's view: what is measured goes in, messages come out."""

    folder: Path
    dsn: str
    moment: list[datetime] = field(default_factory=lambda: [START])

    def __post_init__(self) -> None:
        self.write("channels: {log: 'file://" + str(self.log) + "'}\nroutes: [{channels: [log]}]\n")

    @property
    def log(self) -> Path:
        return self.folder / "alerts.jsonl"

    @property
    def routes(self) -> Path:
        return self.folder / "alerts.yaml"

    @property
    def now(self) -> datetime:
        return self.moment[0]

    def write(self, routes: str) -> None:
        """Say who is told what."""
        self.routes.write_text(routes)

    def later(self, **length: float) -> None:
        self.moment[0] += timedelta(**length)

    def services(self, **settings: Any) -> Services:
        known = {"warehouse_dsn": self.dsn, "lake": self.folder / "lake", "alerts": self.routes}
        addresses = dict.fromkeys(("app_dsn",), "postgresql://app:app-secret-word@127.0.0.1:1/app")
        urls = dict.fromkeys(("stripe_url", "sendgrid_url"), "http://127.0.0.1:1")
        services = {"kafka_bootstrap": "127.0.0.1:1", **urls}
        given = {"_env_file": None, **known, **addresses, **services, **settings}
        return Services(At(moment=self.moment, **given))

    def minute(self, *verdicts: Verdict) -> list[dict[str, Any]]:
        """A minute passes, this is measured; the messages that came of it."""
        self.later(minutes=1)
        return self.measured(verdicts)

    def measured(self, verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
        """What the monitor does with it: how fast budgets burn is measured too."""
        before = len(self.messages())
        with psycopg.connect(self.dsn) as connection:
            burns = burn_verdicts(connection, self.now)
        send_alert(self.services(), [*verdicts, *burns])
        return self.messages()[before:]

    def ran(
        self,
        name: str,
        *failures: str,
        flow: str = "analytics_pipeline",
        selected: Sequence[str] = (),
        pending: Sequence[str] = (),
        skipped: Sequence[str] = (),
    ) -> Summary:
        """A run of a minute that ends with these failures."""
        summary = Summary(
            name,
            flow,
            selected=[*selected],
            landed={"raw_app__orders": 7},
            pending=[*pending],
            skipped=[*skipped],
        )
        note_run(self.services(), summary, "Running")
        self.later(minutes=1)
        summary.failures += failures
        note_run(self.services(), summary, "Failed" if failures else "Completed")
        run_ended(self.services(), summary)
        return summary

    def reported(
        self,
        run_id: str,
        flow: str,
        state: str,
        message: str = "",
        *,
        ended_at: datetime | None = None,
        **parameters: Any,
    ) -> None:
        """Prefect says this of a run that ended now, or then, after a minute; of a late one that it was to
        start now.
        """
        ended = ended_at or self.now
        began, end = (ended, None) if state == "Late" else (ended - timedelta(minutes=1), ended)
        report_flow_run(self.services(), Reported(run_id, flow, state, message, began, end, parameters))

    def completed(self, flow: str, about: Sequence[str] = (), **length: float) -> None:
        """A run of a flow that enters its end alone, of a minute or as long."""
        with noted(self.services(), flow, about):
            self.later(**length or {"minutes": 1})

    def open(self) -> list[str]:
        """What the incidents are about that are open."""
        return [
            subject
            for (subject,) in self.rows(
                "select subject from ops.incident where resolved_at is null order by subject"
            )
        ]

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def verdict(self, signal: str, subject: str, state: State = State.CRITICAL, **more: Any) -> Verdict:
        said = {} if state is State.OK else {"message": f"{subject}: {signal} is {state}.", "action": "Look."}
        return Verdict(signal, subject, state, self.now, since=self.now, **{**said, **more})

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()


@pytest.fixture(scope="module")
def database(postgres18: Server) -> str:
    return postgres18.database()


@pytest.fixture
def watch(database: str, tmp_path: Path) -> Watch:
    """A warehouse in which nothing has happened yet."""
    watch = Watch(tmp_path, database)
    with psycopg.connect(database, autocommit=True) as connection:
        for table in _EMPTIED:
            connection.execute(f"delete from ops.{table}".encode())
    return watch


class Prefect:
    """A real server, and a flow of a test's own."""

    def __init__(self, server: httpx.Client) -> None:
        self._server = server
        self.flow: str = self._ask("POST", "flows/", {"name": f"of-a-test-{uuid4().hex}"})["id"]

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, str]:
        return dict(ask_prefect(self._server, method, path, body) or {})

    def run(self, *states: str) -> str:
        """A run that has these states one after the other; its id."""
        run = self._ask("POST", "flow_runs/", {"flow_id": self.flow, "state": {"type": "PENDING"}})["id"]
        for state in states:
            self.set(run, state)
        return run

    def scheduled(self, begin: datetime) -> str:
        """A run that is to begin then; its id."""
        when = {"type": "SCHEDULED", "state_details": {"scheduled_time": begin.isoformat()}}
        return self._ask("POST", "flow_runs/", {"flow_id": self.flow, "state": when})["id"]

    def set(self, run: str, state: str) -> None:
        self._ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})

    def task(self, run: str, state: str) -> str:
        """A task of a run, in this state; its id."""
        key = uuid4().hex
        made = {"flow_run_id": run, "task_key": "land", "dynamic_key": key, "state": {"type": state}}
        return self._ask("POST", "task_runs/", made)["id"]

    def said_of_task(self, task: str) -> tuple[str, str]:
        """The name of a task's state, and its message."""
        state: Any = self._ask("GET", f"task_runs/{task}")["state"]
        return state["name"], state["message"] or ""

    def said(self, run: str) -> tuple[str, str]:
        """The name of a run's state, and its message."""
        state: Any = self._ask("GET", f"flow_runs/{run}")["state"]
        return state["name"], state["message"] or ""

    def delete(self, run: str) -> None:
        self._ask("DELETE", f"flow_runs/{run}")

    def end(self) -> None:
        """Leave nothing behind."""
        self._ask("DELETE", f"flows/{self.flow}")


@pytest.fixture
def prefect(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prefect]:
    url = house.parts(Part.PREFECT).prefect_url
    assert url is not None
    monkeypatch.setenv("PREFECT_API_URL", url)
    with httpx.Client(base_url=f"{url}/", trust_env=False) as client:
        made = Prefect(client)
        yield made
        made.end()
