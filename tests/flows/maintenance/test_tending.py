"""What grows for ever is kept as long as declared; PostgreSQL's own upkeep changes no row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from flows.maintenance.pruning import HISTORY, prune
from flows.maintenance.tending import reindex, vacuum
from flows.stores.ledger import Ledger
from flows.stores.warehouse import Warehouse
from tests.flows.stores.world import USERS, create

NOW = datetime(2025, 11, 3, tzinfo=UTC)


def test_history_goes_when_its_time_has_passed_and_what_is_not_over_stays(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name, days, ended in (("old", 401, True), ("open", 401, False), ("new", 399, True)):
            at = NOW - timedelta(days=days)
            connection.execute(
                "insert into ops.run values (%s, 'f', %s, %s, '')", (name, at, at if ended else None)
            )
            connection.execute(
                "insert into ops.incident (incident_id, cause, signal, subject, severity, opened_at, "
                "seen_at, resolved_at, message) values (%s, %s, 's', 't', 'info', %s, %s, %s, 'm')",
                (name, name, at, at, at if ended else None),
            )
            connection.execute(
                "insert into ops.health_span values ('disk', %s, %s, %s, 'ok')",
                (name, at - timedelta(days=1), at),
            )
            connection.execute(
                "insert into ops.partition_profile (table_name, partition, day, token, profiled_at, "
                "row_count, columns_at) values (%s, '', %s, '', %s, 1, %s)",
                (name, at, at, at),
            )
        with Warehouse(dsn).connect() as ours:
            assert prune(ours, NOW) == {"run": 1, "health_span": 2, "partition_profile": 2, "incident": 1}
            assert prune(ours, NOW) == {}
        left = connection.execute(
            "select run_id from ops.run union all select incident_id from ops.incident order by 1"
        ).fetchall()
    assert [name for (name,) in left] == ["new", "new", "open", "open"]


def test_every_table_of_history_has_the_column_that_its_time_is_read_from(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for kept in HISTORY:
            connection.execute(f"select {kept.column}, {kept.but} from ops.{kept.table}".encode())


def test_a_bloated_index_is_built_anew_and_dead_rows_go_but_not_while_a_backup_is_taken(dsn: str) -> None:
    create(dsn, USERS)
    size = "select pg_relation_size('analytics.dim_people_pkey')"
    with psycopg.connect(dsn, autocommit=True) as connection:
        # PostgreSQL's own upkeep may come at any moment, and what is in use is left for the next night.
        connection.execute("alter table analytics.dim_people set (autovacuum_enabled = off)")
        connection.execute("insert into analytics.dim_people select i, 'n' from generate_series(1, 200000) i")
        connection.execute("delete from analytics.dim_people where person_id % 50 > 0")
        connection.execute("select pg_stat_force_next_flush()")
        before = connection.execute(size).fetchone()
        rows = connection.execute("select sum(person_id) from analytics.dim_people").fetchone()
        with Warehouse(dsn).connect() as ours:
            assert vacuum(ours) == ["analytics.dim_people"]
            with Ledger(connection).locked("dump", "warehouse"):
                assert reindex(ours) == []
            assert reindex(ours) == ["analytics.dim_people_pkey"]
            assert reindex(ours) == []
        after = connection.execute(size).fetchone()
        assert before is not None
        assert after is not None
        assert after[0] < before[0] / 10
        assert connection.execute("select sum(person_id) from analytics.dim_people").fetchone() == rows


def test_what_a_killed_rebuilding_of_an_index_left_goes_once_nobody_is_in_the_way(dsn: str) -> None:
    create(dsn, USERS)
    left = "select count(*) from pg_class where relname = 'dim_people_pkey_ccnew'"
    with psycopg.connect(dsn, autocommit=True) as connection, Warehouse(dsn).connect() as ours:
        connection.execute("create index dim_people_pkey_ccnew on analytics.dim_people (person_id)")
        invalid = "update pg_index set indisvalid = false where indexrelid = 'analytics.{}'::regclass"
        connection.execute(invalid.format("dim_people_pkey_ccnew").encode())
        with psycopg.connect(dsn) as reader:
            reader.execute("select from analytics.dim_people")
            assert reindex(ours) == []
            assert connection.execute(left).fetchone() == (1,)
        reindex(ours)
        assert connection.execute(left).fetchone() == (0,)


@pytest.mark.parametrize("tend", [vacuum, reindex])
def test_a_table_that_a_run_drops_meanwhile_ends_no_upkeep(
    dsn: str, tend: Callable[[psycopg.Connection[Any]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in (USERS, replace(USERS, name="dim_a_leaf")):
        create(dsn, table)
    with psycopg.connect(dsn, autocommit=True) as connection, Warehouse(dsn).connect() as ours:
        for name in ("dim_a_leaf", "dim_people"):
            connection.execute(f"alter table analytics.{name} set (autovacuum_enabled = off)".encode())
            connection.execute(
                f"insert into analytics.{name} select i, 'n' from generate_series(1, 100000) i".encode()
            )
            connection.execute(f"delete from analytics.{name} where person_id % 50 > 0".encode())
        connection.execute("select pg_stat_force_next_flush()")
        if tend is reindex:
            connection.execute("vacuum analyze analytics.dim_people, analytics.dim_a_leaf")
        asked: list[sql.Composed] = []
        execute = ours.execute

        def dropping(query: Any, *given: Any, **how: Any) -> Any:
            if isinstance(query, sql.Composed) and not asked:
                asked.append(query)
                connection.execute("drop table analytics.dim_a_leaf")
            return execute(query, *given, **how)

        monkeypatch.setattr(ours, "execute", dropping)
        assert [name.removesuffix("_pkey") for name in tend(ours)] == ["analytics.dim_people"]
        assert asked
