"""Which deployments run by themselves, and when: prefect.yaml says what is declared, Prefect what is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from flows.settings import Settings

DECLARED = Path(__file__).parents[2] / "prefect.yaml"
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Deployment:
    """One deployment that has a schedule; crons are in UTC."""

    name: str
    flow: str
    crons: tuple[str, ...]
    id: str = ""
    since: datetime | None = None
    """From when on it runs by itself, by the machine's clock; None: always. Before that it was not to."""
    pool: str = ""
    """Work pool that its runs wait in."""

    def next_after(self, moment: datetime) -> datetime:
        """When it is to run next. Not within the minute that `moment` is in."""
        from cronsim import CronSim

        after = max(moment, self.since or moment)
        return min(next(CronSim(cron, after)) for cron in self.crons)

    def last_until(self, moment: datetime) -> datetime | None:
        """When it was to run last, `moment` included; None where it did not run by itself then."""
        from cronsim import CronSim

        after = moment + timedelta(seconds=1)
        last = max(next(CronSim(cron, after, reverse=True)) for cron in self.crons)
        return last if self.since is None or last >= self.since else None


@dataclass(frozen=True)
class Switched:
    """What Prefect says. `paused`: what is deployed and does not run by itself, because somebody has switched
    it off or nobody ever meant it to; what is in neither is not deployed.
    `problem`: why it could not be asked; then nothing is known to be on.
    """

    on: Mapping[str, Deployment] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()
    problem: str = ""

    def of_flow(self, name: str) -> list[Deployment]:
        """The deployments of a flow that run by themselves."""
        return [deployment for deployment in self.on.values() if deployment.flow == name]

    def is_paused(self, flow: str) -> bool:
        """Whether somebody has switched off what is declared for a flow."""
        return any(one.flow == flow and one.name in self.paused for one in declared())

    def seen_before(self, since: Mapping[str, datetime]) -> Switched:
        """The same, with those that an earlier look has seen on: name → since when. Prefect alone says when
        its schedule was made last, which each `prefect deploy` does anew.
        """
        return replace(
            self,
            on={name: replace(one, since=since.get(name, one.since)) for name, one in self.on.items()},
        )


@cache
def declared(path: Path = DECLARED) -> tuple[Deployment, ...]:
    """The deployments of prefect.yaml that have a cron schedule."""
    import yaml

    found = []
    for item in yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]:
        crons = tuple(schedule["cron"] for schedule in item.get("schedules") or () if "cron" in schedule)
        if crons:
            flow, pool = item["entrypoint"].rpartition(":")[2], item["work_pool"]["name"]
            found.append(Deployment(item["name"], flow, crons, pool=pool))
    return tuple(found)


def ask(settings: Settings) -> Switched:
    """Which of them are switched on. Without a server of Prefect nothing is."""
    address = settings.prefect_address
    if address is None:
        return Switched()
    import httpx

    from flows.http_client import client

    try:
        with client(f"{address}/", seconds=_TIMEOUT_SECONDS) as server:
            answer = server.post("deployments/filter", json={}).raise_for_status()
    except (httpx.HTTPError, OSError) as error:
        return Switched(
            problem=f"Prefect's server at {settings.scrub(address)} does not answer "
            f"({type(error).__name__}), so which "
            "schedules are on is not known. Start it (prefect server start) or correct PREFECT_API_URL."
        )
    there = answer.json()
    on = _on(declared(), there)
    return Switched(on, frozenset(item["name"] for item in there if item["name"] not in on))


def started(settings: Settings, deployment: Deployment, since: datetime) -> bool:
    """Whether Prefect knows a run of a deployment that started since a moment of the machine's clock, or that
    was not to start any more: somebody has cancelled it, or another was at work (CANCEL_NEW).
    """
    from flows.http_client import client

    asked: dict[str, Any] = {
        "deployments": {"id": {"any_": [deployment.id]}},
        # Of one that waits Prefect takes the time at which it was to start for the one at which it did; one
        # that was cancelled has started when that was.
        "flow_runs": {"start_time": {"after_": since.isoformat(), "is_null_": False}},
        "limit": 1,
    }
    with client(f"{settings.prefect_address}/", seconds=_TIMEOUT_SECONDS) as server:
        answer = server.post("flow_runs/filter", json=asked).raise_for_status()
    return bool(answer.json())


def _on(known: Sequence[Deployment], there: Sequence[Mapping[str, Any]]) -> dict[str, Deployment]:
    found = {}
    by_name = {deployment.name: deployment for deployment in known}
    for item in there:
        declared_as = by_name.get(item["name"])
        schedules = [
            schedule
            for schedule in item.get("schedules") or ()
            if schedule.get("active") and "cron" in schedule.get("schedule", {})
        ]
        if declared_as is not None and schedules and not item.get("paused"):
            found[item["name"]] = Deployment(
                item["name"],
                declared_as.flow,
                tuple(schedule["schedule"]["cron"] for schedule in schedules),
                str(item["id"]),
                # Switched on is a schedule, or the deployment as a whole.
                max(datetime.fromisoformat(one["updated"]) for one in (item, *schedules)),
                item["work_pool_name"] or declared_as.pool,
            )
    return found


def machine_time(settings: Settings) -> datetime:
    """What schedules go by, whatever the world's time is."""
    return datetime.fromtimestamp(settings.machine_time(), UTC)


def world_time(settings: Settings, machine: datetime) -> datetime:
    """What the world's time was at a moment of the machine's clock."""
    return settings.world_time(machine)
