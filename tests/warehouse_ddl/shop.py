"""A few orders, users and days, in every table and view that people read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from transforms import registry
from warehouse_ddl.files import views
from warehouse_ddl.statements import bounds, ddl

_ROWS = """
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
insert into analytics.fct_payments (
    payment_id, amount_minor, amount_captured_minor, currency, status, is_disputed, amount_refunded_minor,
    occurred_at
) values
    ('ch_1', 500, 400, 'EUR', 'succeeded', false, 100, '2025-10-09 12:00Z'),
    ('ch_2', 700, 0, 'EUR', 'succeeded', false, 0, '2025-10-09 13:00Z');
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


def empty(connection: psycopg.Connection[Any], leaves: Iterable[tuple[str, str]] = ()) -> None:
    """Make every published table and view in a warehouse that has its schemas, and these tables' leaves."""
    for table in registry.build_order():
        for statement in ddl(table) if table.is_published else ():
            connection.execute(statement.encode())
    for view in views():
        for statement in view.statements:
            connection.execute(statement.encode())
    for name, window in leaves:
        table = registry.table(name)
        low, high = bounds(table, window)
        connection.execute(
            f"create table analytics.{table.leaf(window)} partition of analytics.{name} "
            f"for values from ('{low}') to ('{high}')".encode()
        )


def fill(connection: psycopg.Connection[Any]) -> None:
    """The same with the rows."""
    days = [("mart_user_activity", day) for day in ("2025-10-06", "2025-10-08", "2025-10-14")]
    empty(connection, (*days, ("fct_payments", "2025-10")))
    connection.execute(_ROWS.encode())
