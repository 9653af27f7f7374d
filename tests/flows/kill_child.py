"""One whole run without Prefect and Great Expectations, which a test may kill at a failpoint.

The order is that of `flows.batch`: prepare, land, build table by table, refresh, `lake.sql`. Everything that
is stored goes through the product's own functions; only who calls them differs.
"""

from __future__ import annotations

import graphlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import quality
from flows import failpoints, lakeshell, landing, planner, prepare
from flows.build import guard
from flows.build.job import build
from flows.build.states import planner_states
from flows.durations import parse_bound
from flows.planner import ASKED_FOR, WHOLE
from flows.progress import Progress
from flows.services import Services
from flows.settings import Settings
from flows.stores.upkeep import analyze, refresh, retire
from quality import CheckResult
from tests.flows.modes import without_capture
from transforms import catalog, registry
from transforms.contract import Table
from transforms.entities import Kafka, SourceEntity


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes, and when it happens in the world's time (ISO 8601)."""

    app_dsn: str
    warehouse_dsn: str
    kafka_bootstrap: str
    apis_url: str
    lake: str
    now: str
    sources: tuple[str, ...] | None = None
    """Only these entities are landed; None: all."""
    models: tuple[str, ...] | None = None
    """Only these models are built; None: all."""
    backfill: tuple[str, str] | None = None
    """First day and the day after the last: partitions that are asked for before the run."""
    topics: tuple[tuple[str, str], ...] = ()
    """Entities of events that are read from another topic than the declared one."""


class _WorldSettings(Settings):
    """Settings whose clock stands still at an instant of the world."""

    standing_at: datetime

    def now(self) -> datetime:
        return self.standing_at

    @property
    def clock_offset(self) -> timedelta:
        return timedelta(0)


def services(place: Place) -> Services:
    """Services over this place; nothing is taken from the environment."""
    from flows.sandbox.apis import SENDGRID_KEY, STRIPE_KEY

    given: dict[str, Any] = {
        "_env_file": None,
        "app_dsn": place.app_dsn,
        "warehouse_dsn": place.warehouse_dsn,
        "kafka_bootstrap": place.kafka_bootstrap,
        "stripe_url": place.apis_url,
        "stripe_key": STRIPE_KEY,
        "sendgrid_url": place.apis_url,
        "sendgrid_key": SENDGRID_KEY,
        "lake": place.lake,
        "retries": 0,
        "workers": 1,
        "standing_at": place.now,
    }
    return Services(_WorldSettings(**given))


def models(place: Place) -> Iterator[Table]:
    """The models of this place, each behind what it reads and what its rules compare it with."""
    tables = {table.name: table for table in registry.build_order()}
    wanted = set(tables if place.models is None else place.models)
    needs = {
        name: ({*table.upstreams, *quality.requires(guard.gate_rules(table), name)} & tables.keys()) - {name}
        for name, table in tables.items()
        if name in wanted
    }
    for name in graphlib.TopologicalSorter(needs).static_order():
        if name in wanted:
            yield tables[name]


def _no_audit(
    services: Services, table: Table, schema: str, names: Mapping[str, str]
) -> Sequence[CheckResult]:
    """Great Expectations alone takes longer to import than everything here takes to run."""
    return []


@contextmanager
def without_audit() -> Iterator[None]:
    """In this process what is published is not held to Great Expectations beforehand."""
    with mock.patch.object(guard, "audit", _no_audit):
        yield


def play(place: Place, run_id: str = "run") -> None:
    """One run, from what a crash left behind to `lake.sql`. Raises CheckFailed and whatever a run meets."""
    offered = services(place)
    with without_audit(), without_capture(), Progress("run", io.StringIO()) as progress, offered.lake:
        offered.lake.begin_session()
        prepare.warehouse(offered, True, progress)
        if place.backfill is not None:
            _ask_for(offered, *place.backfill)
        for entity in registry.entities():
            if place.sources is None or entity.table in place.sources:
                landing.land(offered, _of_topic(entity, dict(place.topics)), run_id)
        build_all(offered, place, run_id)
        published = [table for table in models(place) if table.is_published]
        for table in published:
            if table.is_partitioned_in_postgres:
                retire(offered.warehouse, offered.lake, table, offered.settings.now(), run_id)
        analyze(offered.warehouse, published[:1])
        refresh(offered.warehouse)
        lakeshell.write(offered.lake, registry.tables().values())


def _of_topic(entity: SourceEntity, topics: Mapping[str, str]) -> SourceEntity:
    if not isinstance(entity.read, Kafka) or entity.name not in topics:
        return entity
    return replace(entity, read=replace(entity.read, topic=topics[entity.name]))


def build_all(offered: Services, place: Place, run_id: str) -> None:
    """Build table by table what is due, each planned when everything before it has been built."""
    tables = registry.tables()
    for table in models(place):
        with offered.ledger() as ledger:
            states = planner_states(ledger, [table.name, *table.upstreams])
        work = planner.plan(table, tables, states, catalog.fingerprint(table), offered.settings.now())
        for due in planner.batches(work):
            build(offered, work, due, run_id)


def rebuilt(offered: Services, name: str) -> list[str]:
    """Build a table anew from all it reads: the partitions whose content is another than what stood."""
    table = registry.table(name)
    with offered.ledger() as ledger:
        there = list(ledger.states([name], with_files=False))
        ledger.mark([key for key in there if key[1] != WHOLE] or there, ASKED_FOR)
        states = planner_states(ledger, [name, *table.upstreams])
    fingerprint, now = catalog.fingerprint(table), offered.settings.now()
    work = planner.plan(table, registry.tables(), states, fingerprint, now)
    return build(offered, work, work.due, "again").partitions


def _ask_for(offered: Services, start: str, end: str) -> None:
    """What `flows.backfill.mark` does; that file imports Prefect."""
    first, last = parse_bound(start), parse_bound(end)
    with offered.ledger() as ledger:
        wanted = []
        for name, key in ledger.states():
            partition = registry.table(name).partition
            if partition is None or key == WHOLE:
                continue
            low, high = partition.bounds(key)
            if low < last and high > first:
                wanted.append((name, key))
        ledger.mark(wanted, ASKED_FOR)


def play_and_count(place: Place, into: str) -> None:
    """A run that writes how often it passed each failpoint, as JSON, to the file `into`."""
    passed: Counter[str] = Counter()
    failpoints.count(passed)
    try:
        play(place, "unharmed")
    finally:
        Path(into).write_text(json.dumps(passed))


def as_json(place: Place) -> str:
    """The form that the command line takes."""
    return json.dumps(asdict(place))


if __name__ == "__main__":
    # For a process that has another copy of the package `transforms` first on its path.
    _, given, into, fatal = sys.argv
    failpoints.arm(fatal or None)
    play_and_count(Place(**json.loads(given)), into)
