"""Making a published table what its model says now, without losing what is published."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from psycopg import Connection, errors

from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.stores import apply, layout, leaf_indexes, masking, streamed
from flows.stores.dependents import InTheWay
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.locks import BRIEF, refuse_while_dumped, with_short_waits
from flows.stores.rebuilding import make_view, rebuild, take_view
from flows.stores.standing import standing
from flows.stores.verified import DamagedFile
from flows.stores.warehouse import PUBLISHED, Warehouse
from flows.stores.warehouse_errors import WarehouseError
from transforms.contract import Table
from transforms.registry import Registry
from warehouse_ddl.files import View
from warehouse_ddl.migrate import Change, Migration, plan
from warehouse_ddl.statements import ddl

__all__ = [
    "REFUSALS",
    "ConsentNeeded",
    "InTheWay",
    "arrange",
    "is_current",
    "migrate",
    "migrate_view",
    "pending",
]


class ConsentNeeded(FlowsError):
    """A change would take something from readers; say `--yes` to make it."""


class BrokenReference(FlowsError):
    """Rows that stand are not what a new foreign key wants."""


class UnfitRows(FlowsError):
    """Rows that stand do not fit what the header says now."""


REFUSALS = (ConsentNeeded, InTheWay, BrokenReference, UnfitRows, DamagedFile)
"""What keeps one table or view from being changed until somebody acts; nothing of it was changed."""


def pending(connection: Connection[Any], table: Table, registry: Registry | None = None) -> Migration | None:
    """What has to change in PostgreSQL for this table; None when it does not exist yet."""
    actual = standing(connection, table, _sealed_leaves(connection, table))
    return plan(actual, table, registry) if actual is not None else None


def migrate(
    warehouse: Warehouse, lake: Lake, table: Table, *, yes: bool = False, registry: Registry | None = None
) -> Migration:
    """Create the table, or make it what its model says; returns what was done (nothing when it fits).

    In place where PostgreSQL can (a new nullable column, a wider type, an index, a foreign key,
    documentation). Otherwise the table is built beside from the lake's files, new columns null, what streams
    wrote from what stands, and swapped together with the views, foreign keys and grants that hang on it, and
    with what others have made on it that can be made again; the run that follows fills it by difference. A
    new required column stays nullable until it is filled. Where a header has come to say that a table holds
    personal data, or no longer does, the table moves to where such tables stand. Raises ConsentNeeded for a
    change that takes something away, InTheWay when something of other people depends on the table, Blocked
    when a lock or an old snapshot stays in the way, BrokenReference where rows are not what a new foreign key
    wants, UnfitRows where they are not unique by a new key or too long for a type, DamagedFile; nothing was
    changed then. Where it is partitioned otherwise, the lake's content comes into the partitions of now in
    the same transaction (flows.stores.layout).
    """
    with warehouse.connect() as connection, _arranging(connection, table) as is_arranged_otherwise:
        hidden: Collection[str] | None = masking.hidden(connection, table)
        with_short_waits(warehouse, connection, BRIEF, lambda: _bring_home(connection, table, registry))
        failpoint("migrate.at_home")
        migration = pending(connection, table, registry)
        if migration is None:
            with connection.transaction():
                for statement in ddl(table, registry):
                    connection.execute(statement.encode())
                masking.show(connection, table, registry)
            migration, hidden = Migration(table.name), None  # nobody has seen it otherwise
        if not migration.is_needed and not is_arranged_otherwise:
            with_short_waits(warehouse, connection, BRIEF, lambda: masking.show(connection, table, registry))
            return _with(migration, _unlike(hidden, table))
        if migration.is_destructive and not yes:
            listed = "; ".join(migration.describe())
            raise ConsentNeeded(
                f"{listed}. Readers lose this, so it stays as it is. To make the change: "
                "python -m flows run --yes"
            )
        ledger, statements = Ledger(connection), migration.statements
        if not yes:
            _keep_revisions(connection, table)
            if is_arranged_otherwise:
                _keep_streamed(ledger, table)
        moved = _arranged(ledger, lake, table, yes) if is_arranged_otherwise else None
        if migration.rebuild:
            with _told(table):
                gone = rebuild(warehouse, connection, lake, table, registry, moved)
            migration = _with(migration, (Change(what, "rebuild") for what in gone))
        else:

            def work() -> None:
                refuse_while_dumped(connection)
                is_in_the_way = any(" alter column " in statement for statement in statements)
                seen = masking.take_off(connection, table) if is_in_the_way else ()
                for statement in statements:
                    connection.execute(statement.encode())
                masking.show(connection, table, registry, seen)
                if moved is not None:
                    moved.enter(ledger)

            with _told(table):
                with_short_waits(warehouse, connection, BRIEF, work)
            _index_leaves(warehouse, connection, table)
        failpoint("migrate.committed")
        if moved is not None:
            moved.finish(ledger, lake)
            migration = _with_layout(migration, table)
    return _with(migration, _unlike(hidden, table))


def arrange(warehouse: Warehouse, lake: Lake, table: Table, *, yes: bool = False) -> Migration:
    """The same of a table that lives in the lake alone, of which only the partitions can be others than its
    header has come to say.
    """
    with warehouse.connect() as connection, _arranging(connection, table) as is_arranged_otherwise:
        if not is_arranged_otherwise:
            return Migration(table.name)
        ledger = Ledger(connection)
        moved = _arranged(ledger, lake, table, yes)
        with connection.transaction():
            moved.enter(ledger)
        moved.finish(ledger, lake)
    return _with_layout(Migration(table.name), table)


@contextmanager
def _arranging(connection: Connection[Any], table: Table) -> Iterator[bool]:
    """Hold what nobody else may do meanwhile; gives whether the table's content has to be arranged anew, in
    which case nobody may build it either.
    """
    ledger = Ledger(connection)
    with ExitStack() as held:
        is_other = layout.is_other(connection, table)
        for purpose in ("build", "publish") if is_other else ("publish",):
            held.enter_context(ledger.locked(purpose, table.name))
        yield is_other and layout.is_other(connection, table)


def _arranged(ledger: Ledger, lake: Lake, table: Table, yes: bool) -> layout.Layout:
    moved = layout.arranged(ledger, lake, table)
    if moved.homeless and not yes and table.partition is not None:
        raise ConsentNeeded(
            f"{table.name}: it is partitioned by {table.partition.by} now, which {moved.homeless:,} of its "
            "rows have no value in: they are gone until it is built, and those of windows past their "
            "retention for good. To make the change: python -m flows run --yes"
        )
    return moved


def _keep_revisions(connection: Connection[Any], table: Table) -> None:
    """Raises ConsentNeeded where leaves that a stream has counted in would have to become others: only
    PostgreSQL knows what they hold.
    """
    counted = apply.counted_partitions(connection, table)
    by = table.partition
    if table.windowed is None or by is None or all(by.key(by.span(one)[0]) == one for one in counted):
        return
    raise ConsentNeeded(
        f"{table.name}: its partitions are others now, and the revisions of its counts, which the lake does "
        f"not have, would begin again: who reads the topic {table.windowed.topic} and keeps the highest "
        "revision would pass over what comes. It stays as it is. Write the partition of before in its header "
        f"({table.path}); or let its counts begin again in another topic (`topic:` of windowed), and run: "
        "python -m flows run --yes"
    )


def _keep_streamed(ledger: Ledger, table: Table) -> None:
    """Raises ConsentNeeded where only PostgreSQL knows rows of the partitions that are to become others."""
    states = ledger.states([table.name], with_files=False)
    built = {partition: state.row_count for (_, partition), state in states.items()}
    if rows := streamed.unbuilt_rows(ledger.connection, table, built):
        raise ConsentNeeded(
            f"{table.name}: its partitions are others now, and {rows:,} rows that a stream has written are "
            "built by no run yet: readers lose them until the run that makes the change has built them. "
            "To make it: python -m flows run --yes"
        )


def _with_layout(migration: Migration, table: Table) -> Migration:
    """With what became of the table's partitions, where PostgreSQL has none that would say it."""
    if migration.rebuild:
        return migration
    what = "it has no partitions any more"
    if table.partition is not None:
        what = f"its partitions become one a {table.partition.every} of {table.partition.by}"
    return _with(migration, [Change(f"{what}, in the lake", "in place")])


def _with(migration: Migration, changes: Iterable[Change]) -> Migration:
    return replace(migration, changes=(*migration.changes, *changes))


def _unlike(hidden: Collection[str] | None, table: Table) -> Iterator[Change]:
    """What readers see masked from now on, and what no more, where these were hidden before; None: a table
    that nobody has seen.
    """
    if hidden is None:
        return
    hides = {column.name for column in table.columns if column.pii}
    if masked := sorted(hides.difference(hidden)):
        yield Change(f"readers see {', '.join(masked)} masked now", "in place")
    if shown := sorted({column.name for column in table.columns}.intersection(hidden) - hides):
        yield Change(f"everybody who reads it sees {', '.join(shown)} now", "in place")


@contextmanager
def _told(table: Table) -> Iterator[None]:
    """Say what to do where the rows are not what a new foreign key wants, or a new key or type, or where
    something of others keeps a column from being changed in place.
    """
    try:
        yield
    except WarehouseError as error:
        # Classes of SQLSTATE: a value that is none of its type, a row against what all rows are held to.
        if (error.state or "")[:2] not in ("22", "23"):
            raise
        is_key = error.state == errors.UniqueViolation.sqlstate
        what = f"they are not unique by {', '.join(table.key)}" if is_key else error.cause
        raise UnfitRows(
            f"{table.name}: rows that stand do not fit what its header says now: {what}. It stays as it was. "
            f"Say in the header ({table.path}) what they fit; or give the model another name, a table of its "
            f"own is built then, and remove this one: python -m flows maintain --drop {table.name}"
        ) from error
    except errors.ForeignKeyViolation as error:
        key, found = error.diag.constraint_name, (error.diag.message_detail or "").rstrip(".")
        raise BrokenReference(
            f"{table.name}: {key} can't be added, rows of it reference nothing: {found}. "
            f"Let the model give those rows another value, or take the foreign key from its header "
            f"({table.path}); then run again. Nothing of the table was changed."
        ) from error
    except (errors.FeatureNotSupported, errors.DependentObjectsStillExist) as error:
        what = error.diag.message_detail or error.diag.message_primary or str(error)
        raise InTheWay(
            f"{table.name}: PostgreSQL can't change it while something depends on it: "
            f"{'; '.join(what.splitlines()).rstrip('.')}. Nothing was changed: drop that, then run again."
        ) from error


def _index_leaves(warehouse: Warehouse, connection: Connection[Any], table: Table) -> None:
    """New indexes before old ones go: readers have one at every moment."""
    if not table.is_partitioned_in_postgres:
        return
    leaves = _sealed_leaves(connection, table)
    leaf_indexes.complete(warehouse, connection, table, leaves)
    for indexes in leaf_indexes.undeclared(connection, table, leaves).values():
        drop = partial(leaf_indexes.drop, connection, table, indexes)
        with_short_waits(warehouse, connection, BRIEF, drop)


def _bring_home(connection: Connection[Any], table: Table, registry: Registry | None) -> None:
    """Where nothing else of the table changes, readers find it under its name at every moment."""
    if masking.move_home(connection, table):
        migration = pending(connection, table, registry)
        if migration is not None and not migration.is_needed:
            masking.show(connection, table, registry)


def is_current(warehouse: Warehouse, view: View) -> bool:
    """Whether a materialized view stands as its file says."""
    with warehouse.connect() as connection:
        return _defined(connection, view) == view.fingerprint


def _defined(connection: Connection[Any], view: View) -> str | None:
    """The fingerprint by which a view stands, '' where nobody noted it; None where there is no such view."""
    there = connection.execute(
        "SELECT coalesce(d.fingerprint, '') FROM pg_class c "
        "LEFT JOIN ops.view_definition d ON d.view_name = c.relname "
        "WHERE c.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (PUBLISHED, view.name),
    ).fetchone()
    return there[0] if there is not None else None


def migrate_view(warehouse: Warehouse, view: View) -> list[str]:
    """Create a materialized view, or make it anew when its file says something else; returns what was done to
    one that was there, a line for each.

    Raises InTheWay when other people's views depend on it, Blocked when a lock stays in the way; nothing was
    changed then.
    """
    with warehouse.connect() as connection:
        there = _defined(connection, view)
        if there == view.fingerprint:
            return []

        def work() -> list[str]:
            refuse_while_dumped(connection)
            gone = make_view(connection, view, take_view(connection, view))
            connection.execute(
                "INSERT INTO ops.view_definition VALUES (%s, %s) "
                "ON CONFLICT (view_name) DO UPDATE SET fingerprint = excluded.fingerprint",
                (view.name, view.fingerprint),
            )
            return gone

        gone = with_short_waits(warehouse, connection, BRIEF, work)
    made = [] if there is None else [f"{view.name} made anew: its definition changed"]
    return [*made, *(f"{view.name}: {what}" for what in gone)]


def _sealed_leaves(connection: Connection[Any], table: Table) -> set[str]:
    """The leaves that have all indexes: those the stream does not write into."""
    hot = {table.leaf(partition) for partition in apply.hot_partitions(connection, table.name)}
    return apply.leaves(connection, table) - hot if table.is_partitioned_in_postgres else set()
