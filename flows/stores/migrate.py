"""Making a published table what its model says now, without losing what is published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from psycopg import Connection, errors, sql

from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.stores import apply, leaf_indexes, masking
from flows.stores.dependents import InTheWay, refuse_others
from flows.stores.difference import adapted
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.locks import BRIEF, refuse_while_dumped, with_short_waits
from flows.stores.standalone import Workshop, workshop
from flows.stores.standing import standing
from flows.stores.warehouse import PUBLISHED, UNPUBLISHED, Warehouse
from transforms.contract import Table
from transforms.registry import Registry
from warehouse_ddl.files import View, views
from warehouse_ddl.migrate import Migration, plan
from warehouse_ddl.statements import comment_ddl, ddl, foreign_key_ddl, home, index_ddl, table_ddl

__all__ = ["ConsentNeeded", "InTheWay", "migrate", "migrate_view", "pending"]


class ConsentNeeded(FlowsError):
    """A change would take something from readers; say `--yes` to make it."""


def pending(connection: Connection[Any], table: Table, registry: Registry | None = None) -> Migration | None:
    """What has to change in PostgreSQL for this table; None when it does not exist yet."""
    actual = standing(connection, table, _sealed_leaves(connection, table))
    return plan(actual, table, registry) if actual is not None else None


def migrate(
    warehouse: Warehouse, lake: Lake, table: Table, *, yes: bool = False, registry: Registry | None = None
) -> Migration:
    """Create the table, or make it what its model says; returns what was done (nothing when it fits).

    In place where PostgreSQL can (a new nullable column, a wider type, an index, a foreign key,
    documentation). Otherwise the table is built beside from the lake's files, new columns null, and swapped
    together with the views, foreign keys and grants that hang on it; the run that follows fills it by
    difference. A new required column stays nullable until it is filled. Where a header has come to say that
    a table holds personal data, or no longer does, the table moves to where such tables stand. Raises
    ConsentNeeded for a change that takes something away, InTheWay when other people's views depend on the
    table, Blocked when a lock or an old snapshot stays in the way, FlowsError where rows are not what a new
    foreign key wants; nothing was changed then.
    """
    with warehouse.connect() as connection:
        ledger = Ledger(connection)
        with ledger.locked("publish", table.name):
            with_short_waits(warehouse, connection, BRIEF, lambda: _bring_home(connection, table, registry))
            failpoint("migrate.at_home")
            migration = pending(connection, table, registry)
            if migration is None:
                with connection.transaction():
                    for statement in ddl(table, registry):
                        connection.execute(statement.encode())
                    masking.show(connection, table, registry)
                return Migration(table.name)
            if not migration.is_needed:
                with_short_waits(
                    warehouse, connection, BRIEF, lambda: masking.show(connection, table, registry)
                )
                return migration
            if migration.is_destructive and not yes:
                listed = "; ".join(migration.describe())
                raise ConsentNeeded(
                    f"{listed}. Readers lose this. To make the change: python -m flows run --yes"
                )
            if migration.rebuild:
                with _foreign_keys_told(table):
                    _rebuild(warehouse, connection, lake, table, registry)
            else:

                def work() -> None:
                    refuse_while_dumped(connection)
                    if any(" alter column " in statement for statement in migration.statements):
                        masking.take_off(connection, table)
                    for statement in migration.statements:
                        connection.execute(statement.encode())
                    masking.show(connection, table, registry)

                with _foreign_keys_told(table):
                    with_short_waits(warehouse, connection, BRIEF, work)
                _index_leaves(warehouse, connection, table)
            failpoint("migrate.committed")
    return migration


@contextmanager
def _foreign_keys_told(table: Table) -> Iterator[None]:
    """Say what to do where the rows are not what a new foreign key wants."""
    try:
        yield
    except errors.ForeignKeyViolation as error:
        key, found = error.diag.constraint_name, (error.diag.message_detail or "").rstrip(".")
        raise FlowsError(
            f"{table.name}: {key} can't be added, rows of it reference nothing: {found}. "
            f"Let the model give those rows another value, or take the foreign key from its header "
            f"({table.path}); then run again. Nothing of the table was changed."
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


def migrate_view(warehouse: Warehouse, view: View) -> bool:
    """Create a materialized view, or make it anew when its file says something else; whether that was needed.

    Raises InTheWay when other people's views depend on it, Blocked when a lock stays in the way; nothing was
    changed then.
    """
    with warehouse.connect() as connection:
        there = connection.execute(
            "SELECT d.fingerprint FROM pg_class c LEFT JOIN ops.view_definition d ON d.view_name = c.relname "
            "WHERE c.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
            (PUBLISHED, view.name),
        ).fetchone()
        if there == (view.fingerprint,):
            return False

        def work() -> None:
            refuse_while_dumped(connection)
            refuse_others(connection, PUBLISHED, view.name, [])
            connection.execute(
                sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(sql.Identifier(PUBLISHED, view.name))
            )
            _make_view(connection, view)
            connection.execute(
                "INSERT INTO ops.view_definition VALUES (%s, %s) "
                "ON CONFLICT (view_name) DO UPDATE SET fingerprint = excluded.fingerprint",
                (view.name, view.fingerprint),
            )

        with_short_waits(warehouse, connection, BRIEF, work)
    return there is not None


def _rebuild(
    warehouse: Warehouse,
    connection: Connection[Any],
    lake: Lake,
    table: Table,
    registry: Registry | None,
) -> None:
    """Build beside, then swap in one transaction."""
    with workshop(warehouse, connection, table) as shop, lake.duckdb() as session:
        beside = shop.name(table.name, "next")
        with connection.transaction():
            for statement in table_ddl(table, UNPUBLISHED, beside):
                connection.execute(statement.encode())
        shop.made.append(beside)
        shop.parent, shop.columns = (
            (UNPUBLISHED, beside),
            warehouse.columns(connection, UNPUBLISHED, beside),
        )
        states = [
            state
            for state in Ledger(connection).states([table.name]).values()
            if state.files and state.published_at is not None
        ]
        empty = _empty_columns(session, lake, table, states)
        for name in empty:
            connection.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(
                    sql.Identifier(UNPUBLISHED, beside), sql.Identifier(name)
                )
            )
        leaves: list[tuple[str, str]] = []
        if table.is_partitioned_in_postgres:
            for state in states:
                rows = adapted(session, lake, table, state.files)
                leaves.append(
                    (state.partition, shop.stand_up(table.leaf(state.partition), rows, state.partition))
                )
        elif states:
            rows = adapted(session, lake, table, [file for state in states for file in state.files])
            warehouse.copy(UNPUBLISHED, beside, shop.columns, rows)
            shop.freeze(beside)
        failpoint("migrate.loaded")
        for name in [name for _, name in leaves] or [beside]:
            shop.wait_until_frozen(name)
        with_short_waits(warehouse, connection, BRIEF, lambda: _swap(shop, beside, leaves, registry))


def _swap(shop: Workshop, beside: str, leaves: list[tuple[str, str]], registry: Registry | None) -> None:
    """The one transaction: what hangs on the old table is taken off, and put on the new one."""
    connection, table = shop.connection, shop.table
    refuse_while_dumped(connection)
    dependent = [view for view in views() if table.name in view.upstreams]
    refuse_others(connection, home(table), table.name, [view.name for view in dependent])
    masking.take_off(connection, table)
    for view in dependent:
        connection.execute(
            sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(sql.Identifier(PUBLISHED, view.name))
        )
    apply.lock_for_swap(connection, table)
    inbound = connection.execute(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE contype = 'f' AND confrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) "
        "AND conrelid <> confrelid",
        (home(table), table.name),
    ).fetchall()
    for holder, name, _ in inbound:
        connection.execute(f"ALTER TABLE {holder} DROP CONSTRAINT {name}".encode())
    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(home(table), table.name)))
    connection.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            sql.Identifier(UNPUBLISHED, beside), sql.Identifier(table.name)
        )
    )
    connection.execute(
        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
            sql.Identifier(UNPUBLISHED, table.name), sql.Identifier(home(table))
        )
    )
    _name_constraints(connection, table, beside)
    for partition, built in leaves:
        apply.attach(connection, table, partition, built)
    for statement in (
        *([] if table.is_partitioned_in_postgres else index_ddl(table)),
        *foreign_key_ddl(table, registry),
        *comment_ddl(table, registry),
    ):
        connection.execute(statement.encode())
    for holder, name, definition in inbound:
        connection.execute(f"ALTER TABLE {holder} ADD CONSTRAINT {name} {definition}".encode())
    if not table.personal:
        connection.execute(
            sql.SQL("GRANT SELECT ON {} TO reader").format(sql.Identifier(PUBLISHED, table.name))
        )
    masking.show(connection, table, registry)
    for view in dependent:
        _make_view(connection, view)
    failpoint("migrate.before_commit")


def _make_view(connection: Connection[Any], view: View) -> None:
    """Its rows are visible to every snapshot. A refresh makes them so; creating it does only from 17 on."""
    for statement in view.statements:
        connection.execute(statement.encode())
    if connection.info.server_version < 170_000:
        name = sql.Identifier(PUBLISHED, view.name)
        connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(name))


def _name_constraints(connection: Connection[Any], table: Table, beside: str) -> None:
    """Constraints of the table that stood beside carry its passing name; give them the lasting one."""
    found = connection.execute(
        "SELECT conname FROM pg_constraint "
        "WHERE conrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND starts_with(conname, %s)",
        (home(table), table.name, beside),
    ).fetchall()
    for (name,) in found:
        connection.execute(
            sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(
                sql.Identifier(home(table), table.name),
                sql.Identifier(name),
                sql.Identifier(table.name + name.removeprefix(beside)),
            )
        )


def _empty_columns(session: Any, lake: Lake, table: Table, states: list[PartitionState]) -> list[str]:
    """Required columns that what is published so far has no value for."""
    required = [c.name for c in table.columns if not c.nullable and c.name not in table.key]
    files = [file for state in states for file in state.files]
    if not required or not files:
        return []
    checks = ", ".join(f'coalesce(bool_or("{name}" IS NULL), false)' for name in required)
    found = adapted(session, lake, table, files).aggregate(checks).fetchall()[0]
    return [name for name, is_empty in zip(required, found, strict=True) if is_empty]


def _sealed_leaves(connection: Connection[Any], table: Table) -> set[str]:
    """The leaves that have all indexes: those the stream does not write into."""
    hot = {table.leaf(partition) for partition in apply.hot_partitions(connection, table.name)}
    return apply.leaves(connection, table) - hot if table.is_partitioned_in_postgres else set()
