"""The whole batch as a login that is a loader and nothing else, and what people see of it then."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from tests.flows.company import Company
from tests.flows.stores.logins import lay, login
from tests.house import VERSIONS

pytestmark = pytest.mark.full


# The newer one is every other test's; each way of publishing is tried on both in tests/flows/stores.
@pytest.mark.parametrize("version", VERSIONS[-1:])
def test_the_batch_runs_as_a_loader_and_people_see_what_is_theirs(company: Company, version: int) -> None:
    place = company.empty(company.house.server(version))
    lay(place.warehouse_dsn)
    with login(place.warehouse_dsn, "loader") as dsn:
        place.environment["ANALYTICS_WAREHOUSE_DSN"] = dsn
        done = place.run()
        assert done.code == 0, done.said
        assert place.run("check").code == 0
        assert place.run("maintain").code == 0
        assert replace(place, warehouse_dsn=dsn).differences() == []

    for role, shown in (
        ("reader", 0),
        ("pii_reader", place.value("select count(email) from personal.dim_users")),
    ):
        with login(place.warehouse_dsn, role) as dsn, psycopg.connect(dsn) as connection:
            rows = connection.execute("table analytics.dim_users").fetchall()
            assert sum("@" in str(row[1]) for row in rows) == shown
            for name in ("fct_events", "fct_orders", "fct_emails", "mv_user_activity", "mart_daily_revenue"):
                assert connection.execute(f"select count(*) from analytics.{name}".encode()).fetchone() != (
                    0,
                )
