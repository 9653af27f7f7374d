"""Before a run: schemas and tables as the models say, and whatever a crash left behind completed or swept
away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg.types.json import Jsonb

from flows.alerting.killed import end_killed
from flows.errors import FlowsError
from flows.extract import api
from flows.openlineage.report import run_is
from flows.progress import Progress
from flows.recovery import identity
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.stores import in_force, roles
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.locks import Blocked
from flows.stores.migrate import REFUSALS, arrange, is_current, migrate, migrate_view, pending
from flows.stores.standalone import sweep
from flows.summary import Summary
from transforms import registry
from transforms.entities import Kafka, Postgres, SourceEntity
from warehouse_ddl.files import views

_BOOTSTRAP = "bootstrap"


@dataclass(frozen=True)
class Left:
    """Tables and views that stay as they were though their models say something else, and so does what needs
    them. `held` names whose lock is in the way of each; `refused` says what somebody has to do for it, and
    begins with its name.
    """

    held: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    """View → the table of these that it reads."""

    @property
    def tables(self) -> set[str]:
        """All of them but the views that only wait."""
        return {*self.held, *self.refused}


def sources(services: Services, entities: Iterable[SourceEntity]) -> None:
    """Raise what is wrong with the settings that these sources are read with: SettingsError where one is
    missing, RefusedError where the address of an API is none.
    """
    settings = services.settings
    for entity in entities:
        if isinstance(entity.read, Kafka):
            settings.require("kafka_bootstrap")
        elif isinstance(entity.read, Postgres):
            settings.require("app_dsn")
            if entity.read.mode == "cdc" and settings.cdc_engine == "kafka":
                settings.require("kafka_bootstrap")
                settings.require("connect_url")
        else:
            api.connection(settings, entity)


def warehouse(services: Services, yes: bool, progress: Progress) -> Left:
    """Make the warehouse fit the models and finish what a killed run began.

    1. bootstrap: schemas, roles, ops tables (each statement may be repeated);
    2. warehouse and lake are held against each other: a restore of one of them stops the run here;
    3. tables and views: created, changed in place, or marked for a rebuild beside and a swap; a stream of
       other models ends by that;
    4. runs that were killed are entered as that, and manifest lines that a crash left out are appended;
    5. lake files and unpublished tables that belong to nobody are removed.

    Returns what could not be changed, because of somebody's lock or because somebody has to act first (a
    change takes something from readers and `yes` was not said, an object of others is in its way): it stays
    as it was, all else is made. Raises TwoStories as step 2 tells.
    """
    with services.ledger() as ledger:
        with ledger.locked(_BOOTSTRAP, "warehouse"):
            _schemas(ledger)
            refuse_two_stories(ledger, services.lake)
            identity.agree(ledger.connection, services.lake)
            left = _migrate(services, yes, progress)
            in_force.put(ledger.connection, registry.build_order())
        with ledger.connection.transaction():
            killed = end_killed(ledger.connection, services.settings, services.settings.now())
        if killed:
            progress.say("runs", f"{len(killed)} that were killed without a word are entered as that")
        repaired = ledger.repair_manifest(services.lake)
        if repaired:
            progress.say("lake", f"{len(repaired)} manifest lines completed that an earlier run left out")
        removed = services.lake.sweep(ledger.named_paths)
        dropped = sweep(ledger.connection)
        if removed or dropped:
            said = f"{len(removed)} files and {len(dropped)} unpublished tables"
            progress.say("lake", f"{said} removed: replaced long ago, or left by a run that did not end")
    return left


def tables(services: Services, progress: Progress) -> None:
    """Schemas and tables alone, where nothing that stands has to be kept from readers, and the lake is
    loaded after it.
    """
    with services.ledger() as ledger, ledger.locked(_BOOTSTRAP, "warehouse"):
        _schemas(ledger)
        _forget_what_is_gone(ledger, services.lake)
        left = _migrate(services, True, progress)
    for said in left.refused.values():
        raise FlowsError(said)
    for name, holder in left.held.items():
        raise FlowsError(f"{name} can't be changed: {holder} is in the way. End that session, run again.")


def schemas(ledger: Ledger) -> None:
    """The first of these steps alone."""
    with ledger.locked(_BOOTSTRAP, "warehouse"):
        _schemas(ledger)


def _schemas(ledger: Ledger) -> None:
    roles.lay(ledger.connection)


def _migrate(services: Services, yes: bool, progress: Progress) -> Left:
    """Tables first: views read them. A view that is to be made anew waits for a table that it reads."""
    left = Left()
    for table in registry.build_order():
        change = migrate if table.is_published else arrange
        try:
            for line in change(services.warehouse, services.lake, table, yes=yes).describe():
                progress.say("warehouse", line)
        except Blocked as blocked:
            left.held[table.name] = blocked.by
        except REFUSALS as error:
            left.refused[table.name] = _about(table.name, error)
    for view in views():
        if (unfit := left.tables.intersection(view.upstreams)) and not is_current(services.warehouse, view):
            left.waiting[view.name] = min(unfit)
            continue
        try:
            for line in migrate_view(services.warehouse, view):
                progress.say("warehouse", line)
        except Blocked as blocked:
            left.held[view.name] = blocked.by
        except REFUSALS as error:
            left.refused[view.name] = _about(view.name, error)
    return left


def _about(name: str, error: Exception) -> str:
    """What ended the change of a table or view, as a sentence that begins with its name."""
    return str(error) if str(error).startswith(f"{name}:") else f"{name}: {error}"


def _forget_what_is_gone(ledger: Ledger, lake: Lake) -> None:
    """A table that can't be changed in place is built beside from the files that the ledger names. One that
    came back from a backup names files that the lake has let go of since: they count as unpublished, so that
    the table is built without them, and what the lake has now is loaded.
    """
    for table in registry.build_order():
        if not table.is_published:
            continue
        migration = pending(ledger.connection, table)
        if migration is not None and not migration.rebuild:
            continue
        gone = [
            state.partition
            for state in ledger.states([table.name]).values()
            if not all((lake.root / file.path).exists() for file in state.files)
        ]
        ledger.connection.execute(
            "UPDATE ops.partition_state SET published_at = NULL "
            "WHERE table_name = %s AND partition = ANY(%s)",
            (table.name, gone),
        )


def note_run(services: Services, summary: Summary, state: str) -> None:
    """Write the run into ops.run, and tell who listens: once when it begins (`Running`), once when it ends.
    One that is known because it was late, or that is tried again, began when it says so. While it is at work
    its row names what it holds as long as it lives (`end_killed`).
    """
    session = services.lake.session if state == "Running" else None
    known = {"session": str(session)} if session is not None else {}
    run_is(services, summary, state)
    now = services.settings.now()
    with services.warehouse.connect() as connection:
        connection.execute(
            "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) "
            "values (%(id)s, %(flow)s, %(now)s, %(end)s, %(state)s, %(summary)s) "
            "on conflict (run_id) do update set finished_at = excluded.finished_at, state = excluded.state, "
            "started_at = case %(state)s when 'Running' then %(now)s else run.started_at end, "
            "summary = excluded.summary",
            {
                "id": summary.run_id,
                "flow": summary.flow,
                "now": now,
                "end": None if state == "Running" else now,
                "state": state,
                "summary": Jsonb(summary.as_json() | known),
            },
        )
