"""Statistics of a parent follow its growth, and cost nothing while it hardly grows; a leaf goes when its time
has come, and nobody is working on it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.upkeep import Refreshed, analyze, refresh, retire
from flows.stores.warehouse import Warehouse
from tests.flows.stores.world import EVENTS, built, create, rows, tidy, visits


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


def test_a_leaf_that_somebody_moves_on_meanwhile_is_dropped_the_next_time(any_dsn: str, lake: Lake) -> None:
    warehouse, days = Warehouse(any_dsn), ("2025-10-04", "2025-10-05")
    table, now = replace(EVENTS, retention=timedelta(days=1)), datetime(2025, 10, 8, tzinfo=UTC)
    create(any_dsn, table)
    items = [built(lake, table, day, visits(day, 10), batch="b1") for day in days]
    publish(table, items, warehouse=warehouse, lake=lake)
    with psycopg.connect(any_dsn) as somebody, ThreadPoolExecutor(1) as pool:
        somebody.execute(
            "UPDATE ops.partition_state SET version = version + 1 WHERE partition = %s", (days[0],)
        )
        dropping = pool.submit(retire, warehouse, lake, table, now)
        with psycopg.connect(any_dsn, autocommit=True) as connection:
            waits = "SELECT FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
            while not dropping.done() and connection.execute(waits).fetchone() is None:
                pass
        somebody.commit()
        assert dropping.result(60) == [days[1]]
    assert len(rows(any_dsn, "fct_visits")) == 10
    assert retire(warehouse, lake, table, now) == [days[0]]
    assert rows(any_dsn, "fct_visits") == []
    assert tidy(any_dsn, lake)["left"] == []


def test_a_view_is_refreshed_once_for_what_was_published_and_never_for_what_was_refused(
    dsn: str, warehouse: Warehouse, lake: Lake
) -> None:
    create(dsn, EVENTS)
    names = ("mv_other", "mv_visits")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in names:
            connection.execute(
                f"CREATE MATERIALIZED VIEW analytics.{name} AS SELECT count(*) AS n "
                "FROM analytics.fct_visits; "
                f"CREATE UNIQUE INDEX ON analytics.{name} (n)".encode()
            )

    def refreshes() -> list[tuple[int, int]]:
        """Each view's count, and the transaction that refreshed it last, if it found another one or not."""
        query = "SELECT n, c.xmin::text::bigint FROM analytics.{0}, pg_class c WHERE relname = '{0}'"
        with psycopg.connect(dsn) as connection:
            return [connection.execute(query.format(name).encode()).fetchall()[0] for name in names]

    def forbid(schema: str, tables: object) -> None:
        raise RuntimeError("no")

    (none, other), (none_either, visited) = refreshes()
    assert (none, none_either) == (0, 0)
    publish(
        EVENTS,
        [built(lake, EVENTS, "2025-10-07", visits("2025-10-07", 10), batch="b1")],
        warehouse=warehouse,
        lake=lake,
        views=["mv_visits"],
    )
    assert refreshes() == [(0, other), (0, visited)]
    assert refresh(warehouse) == [Refreshed("mv_visits")]
    assert refreshes()[0] == (0, other)
    count, refreshed = refreshes()[1]
    assert (count, refreshed > visited) == (10, True)

    with pytest.raises(RuntimeError):
        publish(
            EVENTS,
            [built(lake, EVENTS, "2025-10-08", visits("2025-10-08", 10), batch="b2")],
            warehouse=warehouse,
            lake=lake,
            audit=forbid,
            views=["mv_visits"],
        )
    assert refresh(warehouse) == []
    assert refreshes() == [(0, other), (10, refreshed)]
