"""A run that somebody listens to: one table landed, built and published, and a view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

from flows import planner, prepare
from flows.build.states import planner_states
from flows.openlineage import report
from flows.services import Services
from flows.summary import Summary
from tests.flows.extract.parts import World
from tests.flows.kill_child import without_audit
from tests.house import House
from transforms import catalog, registry
from warehouse_ddl.files import views
from warehouse_ddl.statements import ddl

RAW, STAGED, PUBLISHED = "raw_app__categories", "stg_app__categories", "dim_currencies"
VIEW = "mv_daily_revenue"
RUN = "0c9f1c9e-1f0f-4b8b-9d0b-1d1c1c1c1c1c"


def world_in(house: House, folder: Path) -> World:
    """Three categories in the application, and an empty warehouse."""
    world = World.build(house.server(), folder, retries=0)
    world.app(
        "create table categories (id int primary key, parent_id int, name varchar, updated_at timestamptz)",
        "insert into categories select i, null, 'c' || i, '2025-10-07' from generate_series(1, 3) as i",
    )
    with psycopg.connect(world.warehouse_dsn, autocommit=True) as connection:
        view = next(view for view in views() if view.name == VIEW)
        tables = (PUBLISHED, *view.upstreams)
        for statement in (*(s for name in tables for s in ddl(registry.table(name))), *view.statements):
            connection.execute(statement.encode())
    return world


def listening(world: World, target: str | None) -> Services:
    """The services of a process that tells this receiver."""
    world.settings["openlineage"] = target
    return world.services()


def run(services: Services, *tables: str) -> Summary:
    """A run that lands one table, builds these and looks whether a view is owed a refresh."""
    summary = Summary(RUN, "analytics_pipeline")
    with services.lake, without_audit():
        services.lake.begin_session()
        prepare.note_run(services, summary, "Running")
        report.land(services, registry.entity(RAW), RUN)
        for name in tables:
            build(services, name)
        report.refresh(services, VIEW)
        prepare.note_run(services, summary, "Completed")
    return summary


def build(services: Services, name: str) -> None:
    """Build what is due of a table."""
    table = registry.table(name)
    with services.ledger() as ledger:
        states = planner_states(ledger, [name, *table.upstreams])
    work = planner.plan(table, registry.tables(), states, catalog.fingerprint(table), services.settings.now())
    report.build(services, work, work.due, RUN)


def read(path: Path) -> list[dict[str, Any]]:
    """The events in a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
