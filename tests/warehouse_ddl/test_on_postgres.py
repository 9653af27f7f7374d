"""What a real PostgreSQL, 15 and 18, says to the statements that follow from the models."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
import pytest

from flows.stores.standing import standing
from transforms import registry
from transforms.contract import Column, Layer, Partition, Table, Write
from warehouse_ddl.files import bootstrap, views
from warehouse_ddl.migrate import ActualTable, plan
from warehouse_ddl.statements import ddl, foreign_key_ddl, table_ddl

VISITS = Table(
    name="fct_visits",
    layer=Layer.FACTS,
    grain="one row per visit",
    key=("visit_id", "seen_at"),
    columns=(
        Column("visit_id", "BIGINT", "Visit", nullable=False),
        Column("seen_at", "TIMESTAMP WITH TIME ZONE", "When (it's UTC)", nullable=False),
        Column("kind", "VARCHAR", "Kind", max_length=5),
    ),
    partition=Partition("seen_at", "day"),
    indexes={"idx_visits_kind": ("kind", "seen_at desc")},
)
PUBLISHED = [table for table in registry.build_order() if table.is_published]


def run(connection: psycopg.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement.encode())


def test_every_published_table_and_view_can_be_made_and_made_again(database: psycopg.Connection) -> None:
    for _ in range(2):
        for table in PUBLISHED:
            run(database, ddl(table))
        for view in views():
            run(database, view.statements)
    found = database.execute(
        "select count(*) from pg_class "
        "where relnamespace = any(array['analytics', 'personal']::regnamespace[]) and relkind in ('r', 'p') "
        "and relname <> 'mask_key'"
    ).fetchone()
    assert found == (len(PUBLISHED),)


def test_what_was_made_needs_no_migration(database: psycopg.Connection) -> None:
    for table in PUBLISHED:
        run(database, ddl(table))
    for table in PUBLISHED:
        assert not plan(there(database, table), table).is_needed, table.name


def test_a_view_can_be_refreshed_concurrently(database: psycopg.Connection) -> None:
    for table in PUBLISHED:
        run(database, ddl(table))
    for view in views():
        run(database, view.statements)
        database.execute(f"refresh materialized view concurrently analytics.{view.name}".encode())


def test_a_history_refuses_overlaps_and_a_second_current_row(database: psycopg.Connection) -> None:
    history = Table(
        name="dim_cats_history",
        layer=Layer.DIMENSIONS,
        grain="one row per cat and time",
        key=("cat_id", "valid_from"),
        columns=(
            Column("cat_id", "BIGINT", nullable=False),
            Column("valid_from", "DATE", nullable=False),
            Column("valid_to", "DATE"),
            Column("prev_to", "DATE"),
        ),
        write=Write.MERGE,
    )
    run(database, table_ddl(history))
    insert = "insert into analytics.dim_cats_history (cat_id, valid_from, valid_to, prev_to) values "
    good = insert + "(1, '2025-01-01', '2025-02-01', null), (1, '2025-02-01', null, '2025-02-01')"
    database.execute(good.encode())
    for row in (
        "(1, '2025-03-01', null, null)",
        "(1, '2025-01-15', '2025-01-20', null)",
        "(1, '2025-01-15', null, '2025-02-01')",
        "(1, '2025-03-01', '2025-03-01', '2025-03-01')",
    ):
        with pytest.raises(psycopg.errors.IntegrityError):
            database.execute((insert + row).encode())


def test_a_reader_reads_what_is_published_and_nothing_else(database: psycopg.Connection) -> None:
    run(database, ddl(VISITS))
    run(database, bootstrap())
    database.execute("set role reader")
    database.execute("select * from analytics.fct_visits")
    for forbidden in (
        "insert into analytics.fct_visits values (1, now(), 'a')",
        "create table analytics.mine (a int)",
        "select * from ops.dead_letter",
        "create table unpublished.mine (a int)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute(forbidden.encode())


def test_rights_that_are_there_are_not_written_again(database: psycopg.Connection) -> None:
    """A grant that changes nothing would make another run's swap of the same table fail."""
    written = "select oid::regclass::text, xmin::text from pg_class where relkind in ('r', 'p', 'm', 'S')"
    run(database, ddl(VISITS))
    database.execute(
        "create table analytics.fct_visits_2025_10_07 partition of analytics.fct_visits "
        "for values from ('2025-10-07') to ('2025-10-08')"
    )
    database.execute("revoke select on analytics.fct_visits from reader")
    run(database, bootstrap())
    before = database.execute(written).fetchall()
    run(database, bootstrap())
    assert set(database.execute(written).fetchall()) == set(before)
    database.execute("set role reader")
    assert database.execute("select * from analytics.fct_visits").fetchall() == []


def test_the_loader_is_denied_what_it_does_not_need(database: psycopg.Connection) -> None:
    run(database, ddl(VISITS))
    database.execute("set role loader")
    database.execute("create table unpublished.fct_visits_2025_10_07 (a int)")
    database.execute("insert into ops.position values ('a', '{}', 't', 1)")
    for forbidden in (
        "create role other",
        "create schema other",
        "create database other",
        "drop table ops.ledger",
        "truncate ops.ledger",
        "alter table ops.ledger add column a int",
        "alter role reader superuser",
        "copy ops.position to program 'cat'",
        "copy ops.position to '/tmp/position'",
        "select pg_read_file('postgresql.conf')",
        "grant reader to loader",
        "create extension plpgsql",
    ):
        with pytest.raises(psycopg.Error) as denied:
            database.execute(forbidden.encode())
        assert denied.value.sqlstate in {"42501", "42710"}, forbidden


def test_what_a_migration_does_in_place_leads_to_the_declared_table(database: psycopg.Connection) -> None:
    run(database, ddl(VISITS))
    wider = Table(
        name="fct_visits",
        layer=Layer.FACTS,
        grain="one row per visit",
        key=VISITS.key,
        columns=(
            *VISITS.columns[:2],
            Column("kind", "VARCHAR", max_length=50),
            Column("amount", "DECIMAL(10,2)"),
        ),
        partition=VISITS.partition,
        indexes={**VISITS.indexes, "idx_visits_amount": ("amount",)},
    )
    migration = plan(there(database, VISITS), wider)
    assert migration.is_needed
    assert not migration.rebuild
    assert not migration.is_destructive
    run(database, migration.statements)
    assert not plan(there(database, wider), wider).is_needed


def test_foreign_keys_can_be_made_again_after_a_rebuild(database: psycopg.Connection) -> None:
    orders = registry.table("fct_orders")
    for table in PUBLISHED:
        run(database, ddl(table))
    run(database, foreign_key_ddl(orders))
    found = database.execute(
        "select count(*) from pg_constraint "
        "where conrelid = 'analytics.fct_orders'::regclass and contype = 'f'"
    ).fetchone()
    assert found == (len(orders.foreign_keys),)


def there(connection: psycopg.Connection, table: Table) -> ActualTable:
    found = standing(connection, table, [])
    assert found is not None
    return found
