"""What a run tells while it works. Where nobody listens (no ANALYTICS_OPENLINEAGE), nothing is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from flows import landing, planner, source_totals
from flows.build import job
from flows.build.outcome import Built
from flows.change_landing import ChangesLanded
from flows.landing import Landing
from flows.openlineage.places import Place, of_published, of_source, of_table
from flows.stores import upkeep
from flows.stores.upkeep import Refreshed
from flows.stores.warehouse_errors import scrub
from transforms import registry
from transforms.contract import Table
from transforms.entities import SourceEntity
from warehouse_ddl.files import views

if TYPE_CHECKING:
    from flows.openlineage.events import Dataset, State, Work
    from flows.services import Services
    from flows.summary import Summary

Result = TypeVar("Result")
_STATES: Mapping[str, State] = {
    "Running": "START",
    "Completed": "COMPLETE",
    "Failed": "FAIL",
    "Cancelled": "ABORT",
}
"""Words of ops.run, and those of the specification."""


def run_is(services: Services, summary: Summary, state: str) -> None:
    """Tell that a run begins or has ended; what a receiver did not take is said in its summary, once."""
    receiver = services.openlineage
    if receiver is None:
        return
    from flows.openlineage.events import Work, as_uuid, event

    work = Work(f"run.{summary.flow}", run_id=as_uuid(summary.run_id))
    now = services.settings.now()
    told: State = "ABORT" if summary.was_stopped else _STATES[state]
    if told != "START" and receiver.run != (work.run_id, work.job):
        receiver.send(partial(event, work, "START", now))  # it ended before it could be entered
    receiver.run = (work.run_id, work.job)
    failures = without_secrets(services, "; ".join(summary.failures)) if summary.failures else ""
    receiver.send(partial(event, work, told, now, error=failures))
    if trouble := receiver.told():
        summary.warnings.append(trouble)


def land(services: Services, entity: SourceEntity, run_id: str) -> Landing | None:
    """Land what is new of one source entity, and tell it."""

    def rows(landed: Landing | None) -> Mapping[str, int]:
        return {entity.table: landed.rows if landed is not None else 0}

    return _told(
        services, partial(_landing, services, [entity]), partial(landing.land, services, entity, run_id), rows
    )


def land_changes(services: Services, entities: Sequence[SourceEntity], run_id: str) -> ChangesLanded:
    """Land what transactions of the application changed in these tables, and tell it."""

    def rows(landed: ChangesLanded) -> Mapping[str, int]:
        return {name: one.rows for name, one in landed.outcomes.items() if isinstance(one, Landing)}

    def kept_out(landed: ChangesLanded) -> Iterable[str]:
        return (f"{name}: {reason}" for name, reason in landed.failures().items())

    do = partial(source_totals.land_changes, services, entities, run_id)
    return _told(services, partial(_landing, services, entities), do, rows, kept_out)


def build(services: Services, work: planner.Work, due: Sequence[planner.Due], run_id: str) -> Built:
    """Build partitions of one table of its upstreams, and tell it."""

    def rows(built: Built) -> Mapping[str, int]:
        return {built.table: built.rows}

    do = partial(job.build, services, work, due, run_id)
    return _told(services, partial(_building, services, work.table), do, rows)


def refresh(services: Services, name: str) -> list[Refreshed]:
    """Refresh a view if it is owed that, and tell it."""

    def in_the_way(refreshed: list[Refreshed]) -> Iterable[str]:
        return (f"{one.blocked_by} is in the way" for one in refreshed if one.blocked_by)

    do = partial(upkeep.refresh, services.warehouse, name)
    return _told(services, partial(_refreshing, services, name), do, lambda _: {}, in_the_way)


def _told(
    services: Services,
    describe: Callable[[], Work],
    do: Callable[[], Result],
    rows: Callable[[Result], Mapping[str, int]],
    undone: Callable[[Result], Iterable[str]] = lambda _: (),
) -> Result:
    """`undone`: why some of it was not done though nothing was raised.

    A table's version is its newest entry in the ledger. That of an input is told with the end only where it
    is the same as at the start: what was built by others meanwhile may have been read, or not.
    """
    receiver = services.openlineage
    if receiver is None:
        return do()
    from flows.openlineage.events import event

    now = services.settings.now
    # Described by the first event, so that the receiver catches what goes wrong there too.
    work = cache(describe)
    begun: dict[str, str] = {}

    def start() -> Mapping[str, Any]:
        begun.update(_versions(services, work().inputs))
        return event(work(), "START", now(), versions=begun)

    def end() -> Mapping[str, Any]:
        stayed = begun.items() & _versions(services, work().inputs).items()
        made = {} if reasons else _versions(services, work().outputs)
        return event(
            work(), state, now(), rows=rows(result), versions={**dict(stayed), **made}, error=reasons
        )

    receiver.send(start)
    try:
        result = do()
    except BaseException as error:
        said, state = without_secrets(services, str(error) or type(error).__name__), how_ended(error)
        receiver.send(lambda: event(work(), state, now(), error=said))
        raise
    reasons = "; ".join(without_secrets(services, reason) for reason in undone(result))
    state = "FAIL" if reasons else "COMPLETE"
    receiver.send(end)
    return result


def _versions(services: Services, datasets: Iterable[Dataset]) -> Mapping[str, str]:
    """The newest entry of each table among these; a source and a view have none."""
    tables = [dataset.name for dataset in datasets if dataset.name in registry.tables()]
    with services.ledger() as ledger:
        return ledger.newest(tables)


def how_ended(error: BaseException) -> State:
    """Whether something failed, or was stopped: by somebody, or because its time was up."""
    return "FAIL" if isinstance(error, Exception) else "ABORT"


def without_secrets(services: Services, text: str) -> str:
    """An error as others may read it: its first line, without passwords and values of rows."""
    return services.settings.scrub(scrub(text))


def _building(services: Services, table: Table) -> Work:
    from flows.openlineage.events import Work

    model = registry.default().models[table.name]
    return Work(
        f"build.{table.name}",
        inputs=[described_table(services, registry.table(name)) for name in table.upstreams],
        outputs=[described_table(services, table)],
        parent=services.openlineage.run if services.openlineage else None,
        owner=table.owner,
        sql=model.sql or "",
    )


def _refreshing(services: Services, name: str) -> Work:
    from flows.openlineage.events import Work

    view = next(view for view in views() if view.name == name)
    return Work(
        f"refresh.{name}",
        inputs=[described_table(services, registry.table(table)) for table in view.upstreams],
        outputs=[described(name, of_published(name, services.settings))],
        parent=services.openlineage.run if services.openlineage else None,
        sql=view.query,
        dialect="postgres",
    )


def _landing(services: Services, entities: Sequence[SourceEntity]) -> Work:
    from flows.openlineage.events import Work

    return Work(
        f"land.{entities[0].place}" if len(entities) == 1 else "land.changes",
        inputs=[described(entity.place, of_source(entity, services.settings)) for entity in entities],
        outputs=[described_table(services, registry.table(entity.table)) for entity in entities],
        parent=services.openlineage.run if services.openlineage else None,
        owner=entities[0].owner,
    )


def described_table(services: Services, table: Table) -> Dataset:
    """A table, where it stands."""
    return described(table.name, of_table(table, services.settings))


def described(name: str, place: Place) -> Dataset:
    """What the lineage knows by this name, at a place."""
    from flows.lineage import graph
    from flows.openlineage.events import Dataset

    node = graph().nodes[name]
    return Dataset(name, place, node.columns, node.description)
