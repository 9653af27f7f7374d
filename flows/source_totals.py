"""What the application counts of a table that is read by its changes, at a place that was landed.

A table that is read has its totals from the snapshot that its rows come from. Changes come from the log: the
application is asked in a snapshot of its own, everything that this snapshot shows is landed, and what was
landed beyond it is added to what it says. So totals and lake are at one place however busy the source is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from psycopg import sql

from flows import change_landing
from flows.change_landing import ChangesLanded
from flows.extract import ControlTotal, SourceError
from flows.extract.control_totals import control_totals
from flows.extract.debezium_caught_up import caught_up
from flows.extract.debezium_observed import lsn_number
from flows.extract.postgres_session import Snapshot
from flows.extract.postgres_types import problem
from flows.first_read import StillRead
from flows.landed import enter_totals, rows_landed
from flows.landing import Landing
from flows.services import Services
from flows.stores.manifest import LakeFile
from transforms.engine import quoted
from transforms.entities import Postgres, SourceEntity

SECONDS = 15.0
"""How long the connector is waited for. One that is further behind leaves the totals unknown until the next
run: a guess would blame the warehouse for what has not come yet."""

_BEHIND = (
    "changes of the last {:.0f} s have not come yet, so that it was not compared with what the application "
    "counts (python -m flows cdc status; offset.flush.interval.ms of Kafka Connect)"
)


@dataclass(frozen=True)
class Asked:
    """The application's totals, which transactions they know, and the place in its log before which all of
    these were committed.
    """

    totals: list[ControlTotal]
    first_unknown: int
    running: tuple[int, ...]
    lsn: int

    def knows(self, transaction: str) -> str:
        """SQL: whether the totals know a transaction, of which changes tell the lower 32 bits."""
        behind = f"(({transaction} - {self.first_unknown % 2**32} + {2**31 + 2**32}) % {2**32} - {2**31})"
        running = ", ".join(str(number % 2**32) for number in self.running)
        return f"({behind} < 0{f' and {transaction} not in ({running})' if running else ''})"


def land_changes(services: Services, entities: Iterable[SourceEntity], run_id: str) -> ChangesLanded:
    """`change_landing.land_changes`, after which the application's totals of these tables are known.

    1. Land what is there; where there is nothing new the totals are what they were.
    2. Ask the application for its totals, and wait until the connector has handed on all that they know.
    3. Land that too.
    4. Add what else was landed, and enter the totals.

    What can't be compared has no totals: where the connector is behind, where rows are as they were before a
    change that could not be read, or while a table is read again beside its changes. Tables of
    `services.halted` are not landed, and their outcome says why. Raises SourceAway.
    """
    wanted = [entity for entity in entities if entity.table not in services.halted]
    landed = change_landing.land_changes(services, wanted, run_id)
    compared = [entity for entity in wanted if _is_to_be_compared(services, entity, landed)]
    answers = {entity: _ask(services, entity) for entity in compared}
    asked = {entity: answer for entity, answer in answers.items() if answer is not None}
    if asked and caught_up(services.settings, max(one.lsn for one in asked.values()), SECONDS):
        again = change_landing.land_changes(services, wanted, run_id)
        for table, outcome in again.outcomes.items():
            landed.add(table, outcome)
        landed.incomplete += again.incomplete
        for entity, answer in asked.items():
            _enter(services, entity, answer, landed)
    else:
        for entity in asked:
            outcome = landed.outcomes[entity.table] or Landing(entity)
            assert isinstance(outcome, Landing)
            told = (*outcome.warnings, _BEHIND.format(SECONDS))
            landed.outcomes[entity.table] = replace(outcome, warnings=told)
    landed.outcomes |= {table: StillRead(reason) for table, reason in services.halted.items()}
    return landed


def _is_to_be_compared(services: Services, entity: SourceEntity, landed: ChangesLanded) -> bool:
    """Whether the totals have to be asked for: not while a stream lands the changes."""
    if entity.control is None or entity.table not in landed.outcomes:
        return False
    outcome = landed.outcomes[entity.table]
    return isinstance(outcome, Landing) or (outcome is None and not _are_known(services, entity))


def _enter(services: Services, entity: SourceEntity, asked: Asked, landed: ChangesLanded) -> None:
    outcome = landed.outcomes[entity.table]
    if isinstance(outcome, SourceError):
        return
    totals = _at_the_landed(services, entity, asked, outcome.files if outcome else ())
    if totals is not None:
        with services.ledger() as ledger, ledger.locked("land", entity.table):
            enter_totals(ledger.connection, entity, totals)


def _are_known(services: Services, entity: SourceEntity) -> bool:
    with services.warehouse.connect() as connection:
        query = "select exists (select 1 from ops.control_total where entity = %s)"
        (known,) = connection.execute(query, (f"{entity.source}.{entity.name}",)).fetchone() or (False,)
        return bool(known)


def _ask(services: Services, entity: SourceEntity) -> Asked | None:
    """None where the source calls otherwise what would be counted and summed: its contract tells of that."""
    assert isinstance(entity.read, Postgres)
    assert entity.control is not None
    control = entity.control
    wanted = {control.by, control.amount, *entity.required, *([control.group] if control.group else [])}
    table = sql.Identifier(entity.read.schema, entity.read.table)
    name = f"{entity.source}.{entity.name}"
    with Snapshot(services.settings.require("app_dsn"), name, table) as snapshot:
        # The log's end is asked for in the snapshot, so after it: what it shows was committed before.
        places = "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text"
        shown, lsn = snapshot.rows(sql.SQL(places))[0]
        _, first_unknown, running = str(shown).split(":")
        declared = {column.name for column in entity.columns}
        columns = [column for column in snapshot.columns() if column.name in declared]
        if not wanted <= {column.name for column in columns}:
            return None
        totals = control_totals(snapshot, entity, table, problem(columns, entity.required))
    numbers = tuple(int(number) for number in running.split(",") if number)
    return Asked(totals, int(first_unknown), numbers, lsn_number(lsn))


def _at_the_landed(
    services: Services, entity: SourceEntity, asked: Asked, landed: Iterable[LakeFile]
) -> list[ControlTotal] | None:
    """The totals at the place that was landed; None where nobody can say."""
    control = entity.control
    assert control is not None
    paths = {file.path for file in landed}
    with (
        services.ledger() as ledger,
        services.lake.duckdb(keeps_order=False) as session,
    ):
        files = ledger.files(entity.table)
        rows = rows_landed(session, services.lake, entity, files)
        if rows is None:
            return asked.totals
        rows.create_view("typed")
        services.lake.read(session, files).create_view("records")
        new = [file for file in files if file.path in paths]
        key = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in entity.key)
        newest = "arg_max({'why': _problem}, (_landed_at, _seq)).why is not null"
        unreadable = (
            f"select exists (select 1 from (select {newest} as is_unreadable from records "
            f"group by struct_pack({key})) where is_unreadable)"
        )
        if session.execute(unreadable).fetchall()[0][0]:
            return None
        if not new:
            return asked.totals
        services.lake.read(session, new).create_view("new_records")
        again = "select exists (select 1 from new_records where _snapshot = 'incremental')"
        if session.execute(again).fetchall()[0][0]:
            return None
        session.execute(
            f"create temp table beyond as select _landed_at, _seq, struct_pack({key}) as key "
            f"from new_records where _changed_at is not null and not {asked.knows('_transaction')}"
        )
        group = f"coalesce({quoted(control.group)}::varchar, '')" if control.group else "''"
        found = session.execute(
            "with touched as (select *, "
            f"struct_pack({key}) as key from typed semi join (select distinct key from beyond) as b "
            f"on b.key = struct_pack({key})), "
            f"moments as (select 1 as sign, * from touched union all "
            f"select -1, * from touched anti join beyond using (_landed_at, _seq)), "
            "latest as (select * from moments qualify row_number() over (partition by sign, key "
            "order by _landed_at desc, _seq desc) = 1) "
            f"select {quoted(control.by)}::date, {group}, sum(sign)::bigint, "
            f"sum(sign * {quoted(control.amount)}) from latest where _op <> 'd' group by 1, 2"
        ).fetchall()
    totals = {(total.day, total.group): (total.row_count, total.amount) for total in asked.totals}
    for day, value, count, amount in found:
        known = totals.get((day, value), (0, Decimal(0)))
        totals[day, value] = (known[0] + int(count), known[1] + Decimal(amount))
    return [ControlTotal(day, value, *sums) for (day, value), sums in totals.items() if sums[0]]
