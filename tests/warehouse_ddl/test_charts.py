"""The charts' SQL, on a real PostgreSQL with the tables and views that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.house import Server
from transforms import registry
from transforms.charts import CHARTS, Chart, chart
from transforms.contract import ContractError
from warehouse_ddl.files import views
from warehouse_ddl.statements import PUBLISHED, ddl, leaf_ddl

FILLED = """
insert into analytics.dim_date (date, year, quarter, month, month_name, month_start_date, day_of_month,
    day_of_year, day_of_week, day_name, iso_year, iso_week, week_start_date, is_weekend, is_month_end)
select d, 2025, 4, 10, 'October', '2025-10-01', 1, 1, 1, 'Monday', 2025, 1, d, false, false
from generate_series('2025-10-06'::date, '2025-10-31', '1 day') as d;
insert into analytics.dim_users (user_id, signup_date, created_at, is_deleted, is_inferred) values
    (1, '2025-10-06', '2025-10-06', false, false), (2, '2025-10-06', '2025-10-06', false, false),
    (3, '2025-10-14', '2025-10-14', true, false), (4, null, null, false, true);
insert into analytics.dim_products (product_id, is_deleted, is_inferred) values (1, false, false);
insert into analytics.fct_orders
    (order_id, user_id, product_id, order_date, quantity, revenue, currency, status, created_at) values
    (gen_random_uuid(), 1, 1, '2025-10-07', 1, 10.00, 'EUR', 'paid', '2025-10-07 12:00Z'),
    (gen_random_uuid(), 1, 1, '2025-10-08', 1, 5.00, 'EUR', 'pending', '2025-10-08 12:00Z'),
    (gen_random_uuid(), 2, 1, '2025-10-07', 1, 7.00, 'EUR', 'cancelled', '2025-10-07 13:00Z'),
    (gen_random_uuid(), 3, 1, '2025-10-14', 1, 3.00, 'EUR', 'delivered', '2025-10-14 12:00Z');
insert into analytics.mart_daily_revenue (
    date, currency, orders, revenue, cancelled_orders, cancelled_revenue, refunds, refunded_amount,
    net_revenue
) values
    ('2025-10-07', 'EUR', 1, 10.00, 1, 7.00, 0, 0, 10.00),
    ('2025-10-14', 'EUR', 1, 3.00, 0, 0, 1, 1.00, 2.00);
insert into analytics.mart_revenue_reconciliation (
    date, currency, orders, orders_revenue, orders_without_charge, stripe_payments, stripe_amount, difference,
    other_revenue, cancelled_amount, unmatched_payments, unmatched_amount, unexplained
) values
    ('2025-10-07', 'EUR', 1, 10.00, 0, 1, 10.00, 0, 0, 0, 0, 0, 0),
    ('2025-10-09', 'EUR', 0, 0, 0, 1, 4.00, -4.00, 0, 0, 1, 4.00, 0);
insert into analytics.mart_user_activity
    (date, user_id, events, page_views, clicks, sessions, session_seconds, first_event_at, last_event_at)
select day, who, 2, 1, 1, 1, 60, day, day from (values
    ('2025-10-06'::date, 1), ('2025-10-06', 2), ('2025-10-08', 1), ('2025-10-14', 1), ('2025-10-14', 3)
) as of (day, who);
insert into analytics.mart_user_activity_monthly (
    month, user_id, active_days, events, page_views, clicks, sessions, session_seconds, first_event_at,
    last_event_at
)
select '2025-10-01', user_id, count(*), 2, 1, 1, 1, 60, min(first_event_at), max(last_event_at)
from analytics.mart_user_activity group by user_id;
insert into analytics.fct_daily_active_users (date, daily_active_users) values
    ('2025-10-06', 2), ('2025-10-08', 1), ('2025-10-13', 0), ('2025-10-14', 2);
insert into analytics.mart_daily_event_types (date, event_type, events, active_users) values
    ('2025-10-06', 'click', 2, 2), ('2025-10-06', 'login', 1, 1);
refresh materialized view analytics.mv_daily_revenue;
refresh materialized view analytics.mv_user_activity;
"""


@pytest.fixture(scope="module")
def warehouse(postgres18: Server) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A warehouse with a few orders, users and days."""
    with psycopg.connect(postgres18.database(), autocommit=True, row_factory=dict_row) as connection:
        for table in registry.build_order():
            for statement in ddl(table) if table.is_published else ():
                connection.execute(statement.encode())
        for view in views():
            for statement in view.statements:
                connection.execute(statement.encode())
        activity = registry.table("mart_user_activity")
        for day in ("2025-10-06", "2025-10-08", "2025-10-14"):
            leaf = leaf_ddl(activity, day, PUBLISHED)
            for statement in (*leaf.create, *leaf.constrain, *leaf.attach):
                connection.execute(statement.encode())
        connection.execute(FILLED.encode())
        connection.execute("set role reader")
        yield connection


def shown(warehouse: psycopg.Connection[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return warehouse.execute(chart(name).sql.encode()).fetchall()


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_a_chart_gives_the_columns_it_speaks_of_and_the_rows_behind_each_point(
    warehouse: psycopg.Connection[dict[str, Any]], chart: Chart
) -> None:
    answer = warehouse.execute(chart.sql.encode())
    given = {column.name for column in answer.description or ()}
    assert {*chart.points, *chart.measures} <= given
    for point in answer.fetchall() or [dict.fromkeys(chart.points)]:
        warehouse.execute(chart.rows.encode(), {name: point[name] for name in chart.points}).fetchall()


def test_revenue_stands_beside_stripe_also_on_days_that_only_one_of_them_has(
    warehouse: psycopg.Connection[dict[str, Any]],
) -> None:
    found = [
        (row["date"].day, row["revenue"], row["stripe_amount"]) for row in shown(warehouse, "revenue_chart")
    ]
    assert found == [(7, 10, 10), (9, 0, 4), (14, 3, 0)]


def test_weekly_and_monthly_users_are_counted_once_in_the_days_that_end_with_the_day(
    warehouse: psycopg.Connection[dict[str, Any]],
) -> None:
    found = [tuple(row.values()) for row in shown(warehouse, "active_users")]
    assert found == [
        (date(2025, 10, 6), 2, 2, 2),
        (date(2025, 10, 8), 1, 2, 2),
        (date(2025, 10, 13), 0, 1, 2),
        (date(2025, 10, 14), 2, 2, 3),
    ]
    for day, *counts in found:
        counted = warehouse.execute(
            """
            select count(distinct user_id) filter (where date > %(day)s - 7) as week,
                count(distinct user_id) filter (where date > %(day)s - 30) as month
            from analytics.mart_user_activity where date <= %(day)s""",
            {"day": day},
        ).fetchone()
        assert counted is not None
        assert list(counted.values()) == counts[1:]


def test_each_step_of_the_funnel_is_among_the_step_before(
    warehouse: psycopg.Connection[dict[str, Any]],
) -> None:
    assert [tuple(row.values()) for row in shown(warehouse, "signup_funnel")] == [
        (date(2025, 10, 6), 2, 2, 1, 1, 1),
        (date(2025, 10, 14), 1, 1, 1, 1, 0),
    ]


def test_a_cohort_is_followed_from_the_week_it_signed_up(
    warehouse: psycopg.Connection[dict[str, Any]],
) -> None:
    found = [(row["cohort_week"], row["week"], row["retention"]) for row in shown(warehouse, "retention")]
    assert found == [(date(2025, 10, 6), 0, 1), (date(2025, 10, 6), 1, 0.5), (date(2025, 10, 13), 0, 1)]


def test_an_unknown_chart_is_answered_with_what_is_close() -> None:
    with pytest.raises(ContractError, match="revenue_chart"):
        chart("revenue_charts")
