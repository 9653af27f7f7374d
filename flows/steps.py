"""The tasks. Each body is one call; what it does is told where that function stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from flows.build import guard
from flows.build.guard import CheckFailed
from flows.build.outcome import Built
from flows.change_landing import ChangesLanded
from flows.landing import Landing
from flows.openlineage import report
from flows.planner import Due, Work
from flows.services import Services
from flows.stores.upkeep import Refreshed
from quality import CheckResult
from transforms.contract import ContractError, Table
from transforms.engine import ModelError
from transforms.entities import SourceEntity

_LASTING = (CheckFailed, ContractError, ModelError)
"""Errors that the same data and code would only give again."""


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether another try can end differently: a service may come back, a wrong row stays wrong."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, _LASTING)


@task(task_run_name="land {entity.table}", cache_policy=NO_CACHE, retry_condition_fn=_may_pass)
def land(services: Services, entity: SourceEntity, run_id: str) -> Landing | None:
    """Land what is new of one source entity."""
    return report.land(services, entity, run_id)


@task(task_run_name="land changes", cache_policy=NO_CACHE, retry_condition_fn=_may_pass)
def land_changes(services: Services, entities: Sequence[SourceEntity], run_id: str) -> ChangesLanded:
    """Land what transactions of the application changed in these tables."""
    return report.land_changes(services, entities, run_id)


@task(cache_policy=NO_CACHE, retry_condition_fn=_may_pass)
def build_partitions(services: Services, work: Work, due: Sequence[Due], run_id: str) -> Built:
    """Build a window batch of one table and publish it; who submits it gives the run its name."""
    return report.build(services, work, due, run_id)


@task(task_run_name="refresh {view}", cache_policy=NO_CACHE)
def refresh_view(services: Services, view: str) -> list[Refreshed]:
    """Refresh a view if it is owed that."""
    return report.refresh(services, view)


@task(task_run_name="check {table.name}", cache_policy=NO_CACHE, retry_condition_fn=_may_pass)
def check_published(
    services: Services, table: Table, partitions: Sequence[str], run_id: str
) -> list[CheckResult]:
    """Hold what this run has published of a table to its rules, where people read it."""
    return guard.check_published(services, table, partitions, run_id)
