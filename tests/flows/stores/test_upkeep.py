"""Statistics of a parent follow its growth, and cost nothing while it hardly grows."""

from __future__ import annotations

import psycopg

from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.upkeep import analyze
from flows.stores.warehouse import Warehouse
from tests.flows.stores.world import EVENTS, built, create, visits


def _statistics(dsn: str) -> tuple[float, object]:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT reltuples, (SELECT max(xmin::text::bigint) FROM pg_statistic WHERE starelid = c.oid) "
            "FROM pg_class c WHERE oid = 'analytics.fct_visits'::regclass"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_a_parent_is_analyzed_anew_only_when_it_grew_by_a_tenth(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)

    def day(name: str, rows: int) -> None:
        publish(
            EVENTS,
            [built(lake, EVENTS, name, visits(name, rows), batch=name)],
            warehouse=warehouse,
            lake=lake,
        )
        analyze(warehouse, [EVENTS])

    day("2025-10-01", 2000)
    first = _statistics(any_dsn)
    assert first[0] == 2000

    day("2025-10-02", 100)
    assert _statistics(any_dsn) == first

    day("2025-10-03", 500)
    assert _statistics(any_dsn)[0] == 2600
