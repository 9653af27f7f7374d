"""What Prefect's own server says of its deployments: which are on, since when, and what has started."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from flows.monitoring import schedules
from flows.sandbox import Part
from flows.settings import Settings
from tests.house import House, ask_prefect

NAME = "drill"


class Deployed:
    """A deployment of a flow that nobody runs, named as one that prefect.yaml declares."""

    def __init__(self, server: httpx.Client) -> None:
        self._server = server
        self.flow: str = self.ask("POST", "flows/", {"name": f"of-a-test-{uuid4().hex}"})["id"]
        item = {
            "name": NAME,
            "flow_id": self.flow,
            "schedules": [{"schedule": {"cron": "0 5 * * 0", "timezone": "UTC"}, "active": True}],
            "concurrency_limit": 1,
            "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
        }
        self.id: str = self.ask("POST", "deployments/", item)["id"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        return ask_prefect(self._server, method, path, body)

    def run(self, *states: str) -> None:
        """A run that its schedule makes, and these states that a worker wants it to have."""
        made = {"state": {"type": "SCHEDULED"}}
        run = self.ask("POST", f"deployments/{self.id}/create_flow_run", made)["id"]
        for state in states:
            self.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": state}})

    def seen(self) -> schedules.Deployment:
        """As the monitor sees it."""
        return schedules.ask(Settings(_env_file=None)).on[NAME]


@pytest.fixture
def server(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    url = house.parts(Part.PREFECT).prefect_url
    assert url is not None
    monkeypatch.setenv("PREFECT_API_URL", url)
    with httpx.Client(base_url=f"{url}/", trust_env=False) as client:
        yield client


@pytest.fixture
def deployed(server: httpx.Client) -> Iterator[Deployed]:
    made = Deployed(server)
    yield made
    made.ask("DELETE", f"flows/{made.flow}")


def test_schedules_are_read_as_prefect_reads_them() -> None:
    every = schedules.Deployment("x", "y", ("10 * * * *", "0 2 * * *"))
    at = datetime(2025, 11, 3, 2, 5, tzinfo=UTC)
    assert every.last_until(at) == datetime(2025, 11, 3, 2, 0, tzinfo=UTC)
    assert every.last_until(datetime(2025, 11, 3, 2, 10, tzinfo=UTC)) == datetime(
        2025, 11, 3, 2, 10, tzinfo=UTC
    )
    assert every.next_after(at) == datetime(2025, 11, 3, 2, 10, tzinfo=UTC)
    assert {"daily", "hourly", "monitor"} <= {deployment.name for deployment in schedules.declared()}


def test_a_deployment_is_on_since_it_was_made_or_switched_on_last(deployed: Deployed) -> None:
    made = deployed.seen().since
    assert made is not None
    assert abs(datetime.now(UTC) - made) < timedelta(minutes=5)
    deployed.ask("POST", f"deployments/{deployed.id}/pause_deployment")
    assert NAME not in schedules.ask(Settings(_env_file=None)).on
    deployed.ask("POST", f"deployments/{deployed.id}/resume_deployment")
    resumed = deployed.seen().since
    assert resumed is not None
    assert resumed > made
    (schedule,) = deployed.ask("GET", f"deployments/{deployed.id}/schedules")
    for active in (False, True):
        deployed.ask("PATCH", f"deployments/{deployed.id}/schedules/{schedule['id']}", {"active": active})
    switched = deployed.seen().since
    assert switched is not None
    assert switched > resumed


def test_the_work_pool_is_the_one_that_prefect_has_and_else_the_declared_one(deployed: Deployed) -> None:
    assert deployed.seen().pool == "analytics"
    pool = f"of-a-test-{uuid4().hex}"
    deployed.ask("POST", "work_pools/", {"name": pool, "type": "process"})
    try:
        deployed.ask("PATCH", f"deployments/{deployed.id}", {"work_pool_name": pool})
        assert deployed.seen().pool == pool
    finally:
        deployed.ask("DELETE", f"work_pools/{pool}")


def test_a_run_that_waits_for_a_worker_has_not_started_and_one_that_is_not_to_start_is_not_missed(
    deployed: Deployed,
) -> None:
    settings, seen = Settings(_env_file=None), deployed.seen()

    def is_known(since: datetime) -> bool:
        return schedules.started(settings, seen, since)

    begun = datetime.now(UTC)
    deployed.run()
    assert not is_known(begun)
    deployed.run("PENDING", "RUNNING")
    assert is_known(begun)
    # While that one is at work the next is left out.
    begun = datetime.now(UTC)
    deployed.run()
    assert not is_known(begun)
    deployed.run("PENDING")
    assert is_known(begun)
