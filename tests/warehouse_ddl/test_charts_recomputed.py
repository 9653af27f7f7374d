"""Funnel, cohorts and active users are the same in plain Python, over users, days and orders at random."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from tests.house import Server
from tests.warehouse_ddl.shop import empty
from transforms.charts import chart

FIRST = date(2025, 9, 28)  # a Sunday: cohorts begin a day later
DAYS = [FIRST + timedelta(days=number) for number in range(45)]
PAID = {"paid", "shipped", "delivered", "refunded"}
STATUSES = ["cancelled", "pending", *sorted(PAID)]
_REFERENCED = """
insert into analytics.dim_date (date, year, quarter, month, month_name, month_start_date, day_of_month,
    day_of_year, day_of_week, day_name, iso_year, iso_week, week_start_date, is_weekend, is_month_end)
values ('2025-10-07', 2025, 4, 10, 'October', '2025-10-01', 7, 280, 2, 'Tuesday', 2025, 41, '2025-10-06',
    false, false);
insert into analytics.dim_products (product_id, is_deleted, is_inferred) values (1, false, false)
"""


class Shop:
    """Whoever signed up when (None: nobody knows), was there on which days, and ordered what."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.signed_up = {who: chance.choice([*DAYS, *DAYS, None]) for who in range(1, 60)}
        self.active = {
            who: {day for day in DAYS if chance.random() < chance.choice([0, 0.02, 0.3])}
            for who in self.signed_up
        }
        self.orders = [(chance.choice([*self.signed_up]), chance.choice(STATUSES)) for _ in range(90)]

    def there(self, day: date, days: int) -> set[int]:
        """Who was active in the days that end with `day`."""
        return {who for who, on in self.active.items() if any(0 <= (day - one).days < days for one in on)}

    def fill(self, connection: psycopg.Connection[Any]) -> None:
        """Into the tables of the warehouse."""
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into analytics.dim_users (user_id, signup_date, created_at, is_deleted, is_inferred) "
                "values (%s, %s, now(), false, false)",
                list(self.signed_up.items()),
            )
            cursor.executemany(
                "insert into analytics.mart_user_activity (date, user_id, events, page_views, clicks, "
                "sessions, session_seconds, first_event_at, last_event_at) "
                "values (%s, %s, 1, 1, 0, 1, 0, now(), now())",
                [(day, who) for who, days in self.active.items() for day in sorted(days)],
            )
            cursor.executemany(
                "insert into analytics.mart_user_activity_monthly (month, user_id, active_days, events, "
                "page_views, clicks, sessions, session_seconds, first_event_at, last_event_at) "
                "values (%s, %s, %s, 1, 1, 0, 1, 0, now(), now())",
                [
                    (month, who, count)
                    for who, days in self.active.items()
                    for month, count in Counter(day.replace(day=1) for day in days).items()
                ],
            )
            cursor.executemany(
                "insert into analytics.fct_daily_active_users (date, daily_active_users) values (%s, %s)",
                [(day, len(self.there(day, 1))) for day in DAYS],
            )
            cursor.executemany(
                "insert into analytics.fct_orders (order_id, user_id, product_id, order_date, quantity, "
                "revenue, currency, status, created_at) "
                "values (gen_random_uuid(), %s, 1, '2025-10-07', 1, 1, 'EUR', %s, now())",
                self.orders,
            )
        connection.execute("refresh materialized view analytics.mv_user_activity")


@pytest.fixture(scope="module")
def warehouse(postgres18: Server) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A warehouse with the tables and views that charts read, and no row of users."""
    with psycopg.connect(postgres18.database(), autocommit=True, row_factory=tuple_row) as connection:
        empty(connection, [("mart_user_activity", day.isoformat()) for day in DAYS])
        connection.execute(_REFERENCED)
        yield connection


@pytest.mark.parametrize("seed", range(8))
def test_what_charts_count_is_what_plain_python_counts(
    warehouse: psycopg.Connection[tuple[Any, ...]], seed: int
) -> None:
    shop = Shop(seed)
    with warehouse.transaction(force_rollback=True):
        shop.fill(warehouse)
        found = {
            name: warehouse.execute(chart(name).sql.encode()).fetchall()
            for name in ("signup_funnel", "retention", "active_users")
        }
    assert found["signup_funnel"] == funnel(shop)
    assert [(cohort, week, size, count) for cohort, week, size, count, _ in found["retention"]] == cohorts(
        shop
    )
    for *_, size, count, share in found["retention"]:
        assert abs(float(share) - count / size) <= 0.00005
    assert found["active_users"] == [(d, *(len(shop.there(d, days)) for days in (1, 7, 30))) for d in DAYS]


def funnel(shop: Shop) -> list[tuple[Any, ...]]:
    """Signed up, active, ordered, paid, ordered again: each step among those of the one before."""
    found = []
    for day in DAYS:
        step = {who for who, signed_up in shop.signed_up.items() if signed_up == day}
        counts = [len(step)]
        bought = Counter(who for who, status in shop.orders if status != "cancelled")
        paid = {who for who, status in shop.orders if status in PAID}
        for next_step in (
            shop.there(DAYS[-1], len(DAYS)),
            {*bought},
            paid,
            {w for w in bought if bought[w] > 1},
        ):
            step &= next_step
            counts.append(len(step))
        if counts[0]:
            found.append((day, *counts))
    return found


def cohorts(shop: Shop) -> list[tuple[Any, ...]]:
    """Week of signing up, weeks since, users of the cohort, and how many of them were there."""
    monday = {day: day - timedelta(days=day.weekday()) for day in DAYS}
    size = Counter(monday[day] for day in shop.signed_up.values() if day)
    seen: dict[tuple[date, int], set[int]] = defaultdict(set)
    for who, signed_up in shop.signed_up.items():
        if signed_up is None:
            continue
        for day in shop.active[who]:
            weeks = (monday[day] - monday[signed_up]).days // 7
            if weeks >= 0:
                seen[monday[signed_up], weeks].add(who)
    return [(cohort, weeks, size[cohort], len(who)) for (cohort, weeks), who in sorted(seen.items())]
