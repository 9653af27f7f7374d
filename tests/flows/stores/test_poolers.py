"""A pooler that lends sessions out by the transaction is refused, before anything is left in them."""

from __future__ import annotations

import psycopg
import pytest

from flows.diagnosis import databases
from flows.settings import Settings
from flows.stores.poolers import Pooled
from flows.stores.warehouse import Warehouse
from tests.flows.stores.pooler import pooled

_LEFT = (
    "select count(*) from pg_locks where locktype = 'advisory' "
    "and database = (select oid from pg_database where datname = current_database())"
)


def test_a_pool_by_the_transaction_is_refused_and_nothing_is_left_in_it(dsn: str) -> None:
    with pooled(dsn, "transaction") as address:
        with (
            pytest.raises(Pooled, match=r"pool_mode = transaction.* ANALYTICS_WAREHOUSE_DSN name PostgreSQL"),
            Warehouse(address).connect() as connection,
        ):
            connection.execute("select pg_advisory_lock(7)")
        with psycopg.connect(dsn) as other:
            assert other.execute(_LEFT).fetchone() == (0,)

        found = databases.warehouse(Settings(warehouse_dsn=address))
    assert [one.subject for one in found if not one.well] == ["warehouse: sessions"]


def test_a_pool_by_the_session_serves(dsn: str) -> None:
    with pooled(dsn, "session") as address, Warehouse(address).connect() as connection:
        assert connection.info.backend_pid == 1
        connection.execute("select pg_advisory_lock(7)")
        assert connection.execute("select pg_advisory_unlock(7)").fetchone() == (True,)
