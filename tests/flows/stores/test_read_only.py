"""A warehouse that is there and takes no writes says so, with the way on."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flows.stores import read_only
from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import OnlyReads
from flows.tries import may_pass
from tests.flows.replicated import pair
from tests.flows.stores.world import DAY, EVENTS, built, create, rows, visits
from transforms import engine

ONLY_READS = "-c default_transaction_read_only=on"


def test_what_is_written_there_ends_with_a_sentence_and_may_pass(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(make_conninfo(any_dsn, options=ONLY_READS))
    with lake, pytest.raises(OnlyReads, match=r"it is a standby, or .* ANALYTICS_WAREHOUSE_DSN") as told:
        publish(
            EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 3), batch="b1")], warehouse=warehouse, lake=lake
        )
    assert may_pass(told.value), "somebody may turn it off, or another server take over"
    assert rows(any_dsn, "fct_visits") == []


def test_so_does_a_copy(any_dsn: str) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(make_conninfo(any_dsn, options=ONLY_READS))
    with warehouse.connect() as connection:
        columns = warehouse.columns(connection, "analytics", "fct_visits")
    with engine.connect() as session, pytest.raises(OnlyReads):
        warehouse.copy("analytics", "fct_visits", columns, session.sql(visits(DAY, 3)))


@pytest.mark.full
def test_a_standby_is_told_from_a_setting_and_from_a_server_that_takes_writes() -> None:
    with pair() as both:
        primary, standby = both.primary.dsn("postgres"), both.standby.dsn("postgres")
        assert [_why(dsn) for dsn in (standby, primary, make_conninfo(primary, options=ONLY_READS))] == [
            "it is a standby, or is being recovered",
            "",
            "default_transaction_read_only is on for its login, database or server",
        ]


def _why(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return read_only.why(connection)
