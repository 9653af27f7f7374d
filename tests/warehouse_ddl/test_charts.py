"""The charts' SQL, on a real PostgreSQL with the tables and views that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.house import Server
from tests.warehouse_ddl.shop import fill
from transforms.charts import CHARTS, Chart, chart
from transforms.contract import ContractError


@pytest.fixture(scope="module")
def warehouse(postgres18: Server) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A warehouse with a few orders, users and days."""
    with psycopg.connect(postgres18.database(), autocommit=True, row_factory=dict_row) as connection:
        fill(connection)
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


def test_behind_what_stripe_collected_stand_the_charges_that_did(
    warehouse: psycopg.Connection[dict[str, Any]],
) -> None:
    point = {"date": date(2025, 10, 9), "currency": "EUR"}
    rows = warehouse.execute(chart("revenue_chart").rows.encode(), point).fetchall()
    assert [(row["payment_id"], row["stripe_amount_minor"]) for row in rows] == [("ch_1", 400)]


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
