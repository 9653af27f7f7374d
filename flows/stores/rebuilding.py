"""Building a published table beside what stands, and swapping the two in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duckdb import DuckDBPyRelation
from psycopg import Connection, errors, sql

from flows.failpoints import failpoint
from flows.stores import additions, apply, grants, masking, streamed
from flows.stores.additions import Addition
from flows.stores.dependents import InTheWay, refuse_others
from flows.stores.difference import adapted
from flows.stores.grants import Right
from flows.stores.lake import Lake
from flows.stores.layout import Layout
from flows.stores.ledger import Ledger
from flows.stores.locks import BRIEF, refuse_while_dumped, with_short_waits
from flows.stores.standalone import Workshop, workshop
from flows.stores.warehouse import PUBLISHED, UNPUBLISHED, Warehouse
from transforms.contract import Table
from transforms.registry import Registry
from warehouse_ddl.files import View, views
from warehouse_ddl.statements import comment_ddl, foreign_key_ddl, home, index_ddl, table_ddl


def rebuild(
    warehouse: Warehouse,
    connection: Connection[Any],
    lake: Lake,
    table: Table,
    registry: Registry | None,
    moved: Layout | None,
) -> list[str]:
    """Build beside, then swap in one transaction; `moved`: its content in the partitions of now. Returns what
    of others' is gone with a column or a leaf, in words.

    Leaves of which only PostgreSQL knows the content (`streamed.partitions`) are built of that; what streams
    change of them meanwhile follows in the transaction that swaps, for which they wait.
    """
    with workshop(warehouse, connection, table) as shop, lake.duckdb() as session:
        beside, names = shop.name(table.name, "next"), {column.name for column in shop.columns}
        with connection.transaction():
            for statement in table_ddl(table, UNPUBLISHED, beside):
                connection.execute(statement.encode())
        shop.made.append(beside)
        shop.parent, shop.columns = (
            (UNPUBLISHED, beside),
            warehouse.columns(connection, UNPUBLISHED, beside),
        )
        known = moved.states if moved is not None else Ledger(connection).states([table.name]).values()
        states = [state for state in known if state.files and state.published_at is not None]
        stored = adapted(session, lake, table, [file for state in states for file in state.files])
        _may_be_null(connection, beside, _empty_columns(table, stored))
        leaves: dict[str, str] = {}
        if table.is_partitioned_in_postgres:
            # Where the partitions are others than before, none of them is the stream's yet.
            own = streamed.partitions(connection, table) if moved is None else set()
            hot = apply.hot_partitions(connection, table.name)
            for partition in sorted(own):
                rows = streamed.content(warehouse, connection, session, table, partition)
                _may_be_null(connection, beside, [*_empty_columns(table, rows), *_new_columns(table, names)])
                leaf = table.leaf(partition)
                leaves[partition] = shop.stand_up(leaf, rows, partition, key_only=partition in hot)
            for state in states:
                if state.partition not in own:
                    rows = adapted(session, lake, table, state.files)
                    leaf = table.leaf(state.partition)
                    leaves[state.partition] = shop.stand_up(leaf, rows, state.partition)
        elif states:
            warehouse.copy(UNPUBLISHED, beside, shop.columns, stored)
            shop.freeze(beside)
        failpoint("migrate.loaded")
        for name in [*leaves.values()] or [beside]:
            shop.wait_until_frozen(name)

        def work() -> list[str]:
            if moved is None and leaves:
                streamed.lock(connection, table)
                streamed.follow(connection, table, names, leaves)
            gone = _swap(shop, beside, leaves, registry)
            if moved is not None:
                moved.enter(Ledger(connection))
            failpoint("migrate.before_commit")
            return gone

        return with_short_waits(warehouse, connection, BRIEF, work)


def _swap(shop: Workshop, beside: str, leaves: Mapping[str, str], registry: Registry | None) -> list[str]:
    """The one transaction: what hangs on the old table is taken off, and put on the new one."""
    connection, table = shop.connection, shop.table
    refuse_while_dumped(connection)
    dependent = [view for view in views() if table.name in view.upstreams]
    refuse_others(connection, home(table), table.name, [view.name for view in dependent])
    seen = masking.take_off(connection, table)
    named = (table.name, *map(table.leaf, leaves))
    rights = {name: grants.held(connection, home(table), name) for name in named}
    added = additions.held(connection, home(table), table.name)
    taken = [(view, take_view(connection, view)) for view in dependent]
    apply.lock_for_swap(connection, table)
    inbound = connection.execute(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid), "
        "quote_literal(obj_description(oid, 'pg_constraint')) FROM pg_constraint "
        "WHERE contype = 'f' AND confrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) "
        "AND conrelid <> confrelid",
        (home(table), table.name),
    ).fetchall()
    for holder, name, *_ in inbound:
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
    for partition, built in leaves.items():
        apply.attach(connection, table, partition, built)
    for statement in (
        *([] if table.is_partitioned_in_postgres else index_ddl(table)),
        *foreign_key_ddl(table, registry),
        *comment_ddl(table, registry),
    ):
        connection.execute(statement.encode())
    for holder, name, definition, comment in inbound:
        try:
            connection.execute(f"ALTER TABLE {holder} ADD CONSTRAINT {name} {definition}".encode())
        except (errors.InvalidForeignKey, errors.UndefinedColumn):
            raise InTheWay(
                f"{home(table)}.{table.name} has to be replaced, and {name} of {holder} references columns "
                "that are no key of it any more. Nothing was changed: drop that foreign key, then run again."
            ) from None
        if comment is not None:
            connection.execute(f"COMMENT ON CONSTRAINT {name} ON {holder} IS {comment}".encode())
    if not table.personal:
        connection.execute(
            sql.SQL("GRANT SELECT ON {} TO reader").format(sql.Identifier(PUBLISHED, table.name))
        )
    for name, held in rights.items():
        grants.give(connection, home(table), name, held)
    columns = [column.name for column in table.columns]
    gone = additions.give(connection, home(table), table.name, added, columns)
    masking.show(connection, table, registry, seen)
    for view, was in taken:
        gone += make_view(connection, view, was)
    return gone


@dataclass(frozen=True)
class Taken:
    """What others were granted, and have made, on a view that was dropped to be made anew."""

    rights: Sequence[Right] = ()
    added: Sequence[Addition] = ()


def take_view(connection: Connection[Any], view: View) -> Taken:
    """Drop it, if it is there, for `make_view`. Raises InTheWay when something of others depends on it."""
    refuse_others(connection, PUBLISHED, view.name)
    taken = Taken(
        grants.held(connection, PUBLISHED, view.name), additions.held(connection, PUBLISHED, view.name)
    )
    connection.execute(
        sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(sql.Identifier(PUBLISHED, view.name))
    )
    return taken


def make_view(connection: Connection[Any], view: View, taken: Taken) -> list[str]:
    """Its rows are visible to every snapshot. A refresh makes them so; creating it does only from 17 on.
    Returns what of others' is gone with a column.
    """
    for statement in view.statements:
        connection.execute(statement.encode())
    grants.give(connection, PUBLISHED, view.name, taken.rights)
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped "
        "AND attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (PUBLISHED, view.name),
    ).fetchall()
    gone = additions.give(connection, PUBLISHED, view.name, taken.added, [column for (column,) in columns])
    if connection.info.server_version < 170_000:
        name = sql.Identifier(PUBLISHED, view.name)
        connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(name))
    return gone


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


def _empty_columns(table: Table, rows: DuckDBPyRelation) -> list[str]:
    """Required columns that what is published so far has no value for."""
    required = [c.name for c in table.columns if not c.nullable and c.name not in table.key]
    if not required:
        return []
    checks = ", ".join(f'coalesce(bool_or("{name}" IS NULL), false)' for name in required)
    found = rows.aggregate(checks).fetchall()[0]
    return [name for name, is_empty in zip(required, found, strict=True) if is_empty]


def _new_columns(table: Table, there: Collection[str]) -> list[str]:
    """Required columns that are not there yet."""
    return [column.name for column in table.columns if not column.nullable and column.name not in there]


def _may_be_null(connection: Connection[Any], beside: str, names: Iterable[str]) -> None:
    """Until the run that follows has filled them."""
    for name in names:
        connection.execute(
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(
                sql.Identifier(UNPUBLISHED, beside), sql.Identifier(name)
            )
        )
