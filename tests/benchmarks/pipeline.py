"""A run without its scheduler: made-up records, then plan, build, check, publish, refresh as in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import quality
from flows import finish, prepare
from flows.build import guard
from flows.build.job import build
from flows.build.outcome import Built
from flows.build.states import planner_states
from flows.landed import LANDED_ON
from flows.planner import batches, plan
from flows.progress import Progress
from flows.services import Services
from flows.stores.manifest import Commit
from flows.summary import Summary
from tests.benchmarks.events import messages
from transforms import catalog, engine, registry
from transforms.contract import Layer

TOPIC = "raw_events__user_events"


def days(first: str, count: int) -> list[str]:
    """`count` days from `first` on."""
    begin = datetime.fromisoformat(first)
    return [f"{begin + timedelta(days=number):%Y-%m-%d}" for number in range(count)]


def land(services: Services, given: Sequence[str], rows: int) -> None:
    """Land `rows` records of topic user_events for each of these days, in one landing: one file, one ledger
    entry."""
    with services.ledger() as ledger, engine.connect(keeps_order=True) as session:
        position = ledger.positions(TOPIC)
        batch = f"{given[0]}-{len(given)}"
        landed_at = datetime.fromisoformat(given[-1]).replace(tzinfo=UTC) + timedelta(days=1)
        parts = " union all ".join(messages(day, rows) for day in given)
        relation = session.sql(
            f"select *, '{batch}' as _batch_id, timestamptz '{landed_at.isoformat()}' as _landed_at, "
            f"row_number() over () - 1 as _seq from ({parts})"
        )
        file = services.lake.write(
            Layer.RAW.value, TOPIC, LANDED_ON, f"{landed_at:%Y-%m-%d}", batch, relation, measured="_landed_at"
        )
        commit = Commit(
            token=f"land-{batch}",
            kind="land",
            layer=Layer.RAW.value,
            table=TOPIC,
            add=(file,),
            positions={"day": given[-1]},
            windows=dict.fromkeys(given, rows),
            row_count=file.rows,
            landed_at=landed_at,
        )
        ledger.record(services.lake, commit, version=position.version)


def downstream() -> list[str]:
    """The models that records of the topic reach, in build order."""
    reached = set(registry.downstream(TOPIC))
    return [table.name for table in registry.build_order() if table.name in reached]


def rebuild(services: Services, names: Sequence[str], run_id: str) -> dict[str, list[Built]]:
    """Plan and build these tables in order; what each did."""
    tables = registry.tables()
    done: dict[str, list[Built]] = {}
    for name in names:
        with services.ledger() as ledger:
            states = planner_states(ledger, [name, *tables[name].upstreams])
        work = plan(tables[name], tables, states, catalog.fingerprint(tables[name]), services.settings.now())
        done[name] = [build(services, work, due, run_id) for due in batches(work)]
    return done


def whole_run(services: Services, names: Sequence[str], run_id: str) -> dict[str, list[str]]:
    """Everything that a run does after landing: prepare, build, refresh, check, lake.sql. Returns the
    partitions that changed by table; a failed check fails the benchmark."""
    progress = Progress("benchmark")
    prepare.warehouse(services, False, progress)
    summary = Summary(run_id=run_id, flow="benchmark")
    touched: dict[str, list[str]] = {}
    for name, builds in rebuild(services, names, run_id).items():
        touched[name] = sorted({partition for built in builds for partition in built.partitions})
        assert not any(publication.is_pending for built in builds for publication in built.publications)
        if registry.table(name).is_published and touched[name]:
            summary.table(name).windows += touched[name]
            summary.table(name).rows_written += sum(built.rows_written for built in builds)
            results = guard.check_published(services, registry.table(name), touched[name], run_id)
            assert not quality.blocking(results), results
    finish.run(services, [registry.table(name) for name in names], summary, progress)
    return touched
