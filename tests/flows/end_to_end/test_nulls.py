"""Nulls at the source: told once, with what they touch, and over when the source is mended."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.company import Company, Place

pytestmark = pytest.mark.full

CHANGED = "updated_at = (select max(updated_at) from users) + interval '1 second'"
"""By this a run finds the rows."""


def _open(place: Place) -> dict[str, tuple[Any, ...]]:
    """What a look finds odd about content: cause → severity, message, tables it touches, members."""
    place.run("monitor")
    rows = place.rows(
        "select cause, severity, message, touches, members from ops.incident where resolved_at is null "
        "and signal in ('row_count', 'null_rate', 'distribution_drift')"
    )
    return {row[0]: row[1:] for row in rows}


def test_a_third_of_a_column_that_is_null_is_one_incident_until_the_source_is_mended(
    company: Company,
) -> None:
    place = company.copy(own_application=True)
    # Two weeks of nights like this one, whatever those before were like: what is usual is known.
    place.rows(
        "delete from ops.partition_profile as p where partition = '' and day < "
        "(select max(day) from ops.partition_profile where table_name = p.table_name)"
    )
    place.rows(
        "insert into ops.partition_profile "
        "(table_name, partition, day, token, profiled_at, row_count, hours, columns, columns_at) "
        "select table_name, partition, day - n, token, profiled_at, row_count, hours, columns, columns_at "
        "from ops.partition_profile, generate_series(1, 14) as n where partition = ''"
    )
    assert _open(place) == {}
    place.application("create table plans as select id, plan from users")
    place.application(
        f"update users set plan = null, {CHANGED} where id in (select id from users where deleted_at is null "
        "order by id limit (select count(*) * 3 / 10 from users))"
    )

    done = place.run()
    found = _open(place)

    assert done.code == 0, done.said
    share = place.value(
        "select avg((plan is null)::int)::float8 from analytics.dim_users_history where is_current"
    )
    assert share >= 0.3
    assert list(found) == ["null_rate:dim_users_history.plan"]
    severity, message, touches, members = found["null_rate:dim_users_history.plan"]
    assert severity == "warning"
    assert message.startswith(f"dim_users_history.plan: {share:.1%} of its rows of ")
    assert touches == ["dim_users_history", "mart_plan_revenue"]
    assert [(one["signal"], one["subject"]) for one in members] == [("null_rate", "dim_users.plan")]

    place.application(f"update users set plan = plans.plan, {CHANGED} from plans where plans.id = users.id")
    done = place.run()
    assert done.code == 0, done.said
    assert _open(place) == {}
    told = place.rows(
        "select kind from ops.notification join ops.incident using (incident_id) "
        "where cause = 'null_rate:dim_users_history.plan' order by notification_id"
    )
    assert told == [("opened",), ("resolved",)]
