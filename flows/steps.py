"""The tasks. Each body is one call; what it does is told where that function stands."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.build import guard
from flows.build.outcome import Built
from flows.change_landing import ChangesLanded
from flows.landing import Landing
from flows.openlineage import report
from flows.planner import Due, Work
from flows.services import Services
from flows.stores.upkeep import Refreshed
from quality import CheckResult
from transforms.contract import Table
from transforms.entities import SourceEntity


@task(task_run_name="land {entity.table}", cache_policy=NO_CACHE)
def land(services: Services, entity: SourceEntity, run_id: str) -> Landing | None:
    """Land what is new of one source entity."""
    return report.land(services, entity, run_id)


@task(task_run_name="land changes", cache_policy=NO_CACHE)
def land_changes(services: Services, entities: Sequence[SourceEntity], run_id: str) -> ChangesLanded:
    """Land what transactions of the application changed in these tables."""
    return report.land_changes(services, entities, run_id)


@task(cache_policy=NO_CACHE)
def build_partitions(services: Services, work: Work, due: Sequence[Due], run_id: str) -> Built:
    """Build a window batch of one table and publish it; who submits it gives the run its name."""
    return report.build(services, work, due, run_id)


@task(task_run_name="refresh {view}", cache_policy=NO_CACHE)
def refresh_view(services: Services, view: str) -> list[Refreshed]:
    """Refresh a view if it is owed that."""
    return report.refresh(services, view)


@task(task_run_name="check {table.name}", cache_policy=NO_CACHE)
def check_published(
    services: Services, table: Table, partitions: Sequence[str], run_id: str
) -> list[CheckResult]:
    """Hold what this run has published of a table to its rules, where people read it."""
    return guard.check_published(services, table, partitions, run_id)
