"""An autovacuum that is in the way of a publication is sent away."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import psycopg
import pytest

from flows.sandbox import Part, postgres
from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests.flows.recovery.own_server import own_server
from tests.flows.stores.world import DAY, EVENTS, built, create, rows, visits
from tests.flows.streaming.topics import until
from transforms.contract import Table

ROWS = 20_000
VACUUMING = "select pid from pg_stat_activity where backend_type = 'autovacuum worker' and query like %s"
# It looks each second, and takes minutes: it rests after each page.
SETTINGS = {"autovacuum": "on", "autovacuum_naptime": "1s"}
AT_LENGTH = (
    "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, "
    "autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_cost_delay = 100"
)


@pytest.fixture(scope="module")
def vacuumed() -> Iterator[str]:
    """The DSN of a server of this module's own on which autovacuum is at work."""
    with (
        mock.patch.dict(postgres.INSTANCES[Part.WAREHOUSE_POSTGRES].settings, SETTINGS),
        own_server() as server,
    ):
        yield server.database()


def _vacuuming(dsn: str, relation: str) -> list[int]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [pid for (pid,) in connection.execute(VACUUMING, (f"%analytics.{relation}%",)).fetchall()]


def _has_autovacuum(dsn: str, relation: str, key: str) -> list[int]:
    """Let autovacuum begin with a table, of which it has much to clean up; gives its process."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"alter table analytics.{relation} set ({AT_LENGTH})".encode())
        connection.execute(f"update analytics.{relation} set {key} = {key}".encode())
    until(lambda: bool(_vacuuming(dsn, relation)), seconds=120)
    return _vacuuming(dsn, relation)


def _published(dsn: str, lake: Lake, table: Table) -> Warehouse:
    warehouse = Warehouse(dsn)
    create(dsn, table)
    item = built(lake, table, DAY, visits(DAY, ROWS), batch="b1")
    publish(table, [item], warehouse=warehouse, lake=lake)
    return warehouse


def test_a_swap_sends_the_autovacuum_of_the_leaf_away(vacuumed: str, lake: Lake) -> None:
    warehouse = _published(vacuumed, lake, EVENTS)
    again = built(lake, EVENTS, DAY, visits(DAY, ROWS, mark="new "), batch="b2")
    (pid,) = _has_autovacuum(vacuumed, EVENTS.leaf(DAY), "visit_id")

    done = publish(EVENTS, [again], warehouse=warehouse, lake=lake, way="swap")

    assert (done.pending, done.ways) == ((), {DAY: "swap"})
    assert pid not in _vacuuming(vacuumed, EVENTS.leaf(DAY))
    assert {row[3][:9] for row in rows(vacuumed, EVENTS.name)} == {"page new "}
