"""`check` on what is published: real tables, the real ops schema, every model's rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

import quality
from quality import QualityError
from quality.published import check_published, raw_ancestors
from transforms import registry
from transforms.contract import RuleKind, Table

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
BOOTSTRAP = Path(__file__).parents[2] / "warehouse_ddl" / "bootstrap"
MAIN = ("fct_orders", "fct_events")
TYPES = {"JSON": "JSONB", "DOUBLE": "DOUBLE PRECISION", "BLOB": "BYTEA", "TINYINT": "SMALLINT"}


def published_tables() -> list[Table]:
    return [table for table in registry.tables().values() if table.is_published]


@pytest.fixture
def published(warehouse: str) -> Iterator[psycopg.Connection[Any]]:
    """Every published table, empty, beside the real ops tables."""
    with psycopg.connect(warehouse, autocommit=True) as connection:
        connection.execute("drop schema analytics cascade; drop schema ops cascade")
        connection.execute("create schema analytics; create schema ops")
        connection.execute((BOOTSTRAP / "02_ops.sql").read_text())
        for table in published_tables():
            columns = ", ".join(
                f'"{column.name}" {TYPES.get(column.type.upper(), column.type)}' for column in table.columns
            )
            connection.execute(f"create table analytics.{table.name} ({columns})")
        yield connection


def test_every_rule_of_every_published_table_runs_on_both_engines(
    warehouse: str, published: psycopg.Connection[Any]
) -> None:
    results = check_published(warehouse, published_tables(), NOW, quality.all_rules)
    assert [result.message for result in results if not result.passed] == []
    assert len(results) == sum(len(quality.all_rules(table)) for table in published_tables())
    from transforms import engine

    with engine.connect(threads=1) as duck:
        for table in published_tables():
            columns = ", ".join(f'"{column.name}" {column.type}' for column in table.columns)
            duck.execute(f"create table {table.name} ({columns})")
        duck.execute(
            "create table control_total (entity varchar, day date, group_value varchar, row_count bigint, "
            "amount decimal(38, 2))"
        )
        references = {"arrivals": quality.arrivals([])}
        for table in published_tables():
            found = quality.check(duck, table, quality.all_rules(table), table.name, references)
            assert all(result.passed for result in found), table.name


@pytest.mark.parametrize("name", MAIN)
def test_the_main_tables_have_all_five_kinds_on_every_run(name: str) -> None:
    assert {rule.kind for rule in quality.rules(registry.table(name))} == set(RuleKind)


def test_every_rule_file_belongs_to_a_table_there_is() -> None:
    from quality.rulebook import RULES

    known = registry.tables()
    assert [path.stem for path in RULES.glob("*.sql") if path.stem.split("__")[0] not in known] == []


def test_a_wrong_cent_in_a_published_table_is_found_and_named(
    warehouse: str, published: psycopg.Connection[Any]
) -> None:
    published.execute(
        "insert into analytics.fct_orders (order_id, order_date, currency, revenue, coupon_code, created_at) "
        "values (gen_random_uuid(), '2025-10-07', 'EUR', 10.01, null, '2025-10-07 10:00+00')"
    )
    published.execute("insert into ops.control_total values ('app.orders', '2025-10-07', 'EUR', 1, 10.00)")
    orders = [registry.table("fct_orders")]
    found = {result.rule: result for result in check_published(warehouse, orders, NOW)}
    assert found["revenue_equals_application"].failing_rows == 1
    assert "fct_orders__revenue_equals_application.sql" in found["revenue_equals_application"].message
    published.execute("update analytics.fct_orders set revenue = 10.00")
    found = {result.rule: result for result in check_published(warehouse, orders, NOW)}
    assert found["revenue_equals_application"].passed


@pytest.mark.parametrize(
    ("name", "column"),
    [("mart_daily_metrics", "total_events"), ("fct_daily_active_users", "daily_active_users")],
)
def test_a_day_whose_facts_are_past_their_retention_is_not_compared_with_them(
    warehouse: str, published: psycopg.Connection[Any], name: str, column: str
) -> None:
    def broken() -> list[str]:
        results = check_published(warehouse, [registry.table(name)], NOW, quality.scheduled_rules)
        (result,) = (one for one in results if one.rule == "agree_with_facts")
        return [] if result.passed else [result.message]

    users = ", active_users" if name == "mart_daily_metrics" else ""
    published.execute(
        "insert into analytics.fct_events (event_id, user_id, event_time) "
        "select gen_random_uuid(), 1, time::timestamptz from unnest(array['2022-11-05 00:00+00', "
        "'2022-11-06 10:00+00']) as time"
    )
    for day in (3, 4, 5, 6):
        values = f"'2022-11-{day:02}', 1{', 1' if users else ''}"
        published.execute(f"insert into analytics.{name} (date, {column}{users}) values ({values})")
    assert broken() == []
    for wrong in (5, 6):
        published.execute(f"update analytics.{name} set {column} = 2 where date = '2022-11-{wrong:02}'")
        assert len(broken()) == 1
        published.execute(f"update analytics.{name} set {column} = 1")
    published.execute("delete from analytics.fct_events where event_time >= '2022-11-06'")
    assert len(broken()) == 1, "a day behind the first that is held has lost its facts"
    published.execute("delete from analytics.fct_events")
    assert len(broken()) == 1, "no facts at all are not the end of a retention"


def publish(connection: psycopg.Connection[Any], *, minutes: int, run: str = "run-1") -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        ("land", "raw", "raw_app__orders", at),
        ("publish", "facts", "fct_orders", at + timedelta(minutes=minutes)),
    ]
    for kind, layer, table, moment in rows:
        connection.execute(
            "insert into ops.ledger "
            "(token, kind, layer, table_name, partition, run_id, manifest_hash, committed_at) "
            "values (gen_random_uuid(), %s, %s, %s, '2025-10', %s, '', %s)",
            (kind, layer, table, run, moment),
        )


def lateness(warehouse: str) -> bool:
    (result,) = check_published(warehouse, [registry.table("fct_orders")], NOW, kinds={RuleKind.TIMELINESS})
    return not result.passed


@pytest.mark.parametrize(("minutes", "late"), [(60, False), (61, True)])
def test_published_more_than_an_hour_after_it_landed_is_late(
    warehouse: str, published: psycopg.Connection[Any], minutes: int, late: bool
) -> None:
    publish(published, minutes=minutes)
    assert lateness(warehouse) is late


def test_what_a_lock_or_a_failed_check_holds_back_is_late(
    warehouse: str, published: psycopg.Connection[Any]
) -> None:
    assert not lateness(warehouse)
    published.execute(
        "insert into ops.pending_publish "
        "values ('fct_orders', '2025-10', 't', 'pid 1', now() - interval '2 hours')"
    )
    assert lateness(warehouse)
    published.execute("truncate ops.pending_publish")
    assert not lateness(warehouse)
    for hours, passed in ((5, False), (3, True), (2, False), (0, False)):
        published.execute(
            "insert into ops.check_result "
            "(run_id, table_name, rule, kind, severity, engine, passed, checked_at) "
            "values (%s, 'fct_orders', 'r', 'accuracy', 'critical', 'duckdb', %s, %s)",
            (f"run-{hours}", passed, NOW - timedelta(hours=hours)),
        )
    assert lateness(warehouse)
    published.execute("delete from ops.check_result where run_id = 'run-2'")
    assert not lateness(warehouse)


def test_a_rebuild_of_old_data_is_not_late(warehouse: str, published: psycopg.Connection[Any]) -> None:
    publish(published, minutes=5)
    published.execute(
        "insert into ops.ledger (token, kind, layer, table_name, partition, run_id, manifest_hash) "
        "values ('p', 'publish', 'facts', 'fct_orders', '2025-10', 'backfill', '')"
    )
    assert not lateness(warehouse)


def test_a_table_that_is_missing_fails_and_nothing_published_is_an_error(
    warehouse: str, published: psycopg.Connection[Any]
) -> None:
    published.execute("drop table analytics.dim_date")
    asked = [registry.table("dim_date"), registry.table("fct_emails")]
    results = check_published(warehouse, asked, NOW)
    assert [result.rule for result in results if not result.passed] == ["is_published"]
    assert "dim_date: it is not in schema analytics" in quality.render(results)
    with pytest.raises(QualityError, match="Nothing is published"):
        check_published(warehouse, asked[:1], NOW)


def test_the_raw_tables_behind_a_mart_are_found_through_every_layer() -> None:
    catalog = registry.tables()
    assert "raw_app__orders" in raw_ancestors(catalog["mart_daily_revenue"], catalog)
