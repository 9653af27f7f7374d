"""Copies, dead letters, columns, leaves, rules: what was entered about them becomes verdicts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from psycopg.types.json import Jsonb

from flows.monitoring.verdict import State
from flows.settings import Settings
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit
from flows.stores.migrate import migrate
from flows.stores.warehouse import Warehouse
from tests.flows.monitoring.conftest import NOW, Place
from transforms import catalog, registry

HOUR = timedelta(hours=1)


def _letters(place: Place, count: int, ago: timedelta = HOUR) -> None:
    place.execute(
        "insert into ops.dead_letter (letter_id, source, entity, reason, received_at) "
        "select %s || number, 'events', 'clicks', 'no JSON', %s from generate_series(1, %s) number",
        f"{ago}-",
        NOW - ago,
        count,
    )


def _landed(place: Place, table: str, rows: int, ago: timedelta = HOUR) -> None:
    place.execute(
        "insert into ops.ledger (token, kind, layer, table_name, manifest_hash, row_count, landed_at) "
        "values (%s, 'land', 'raw', %s, '', %s, %s)",
        f"{table}-{ago}",
        table,
        rows,
        NOW - ago,
    )


@pytest.mark.parametrize(
    ("letters", "state"),
    [(0, State.OK), (9, State.OK), (15, State.OK), (50, State.WARNING), (400, State.CRITICAL)],
)
def test_dead_letters_are_judged_as_a_share_of_what_arrived(place: Place, letters: int, state: State) -> None:
    _landed(place, "raw_events__clicks", 1_000)
    _letters(place, letters)
    _letters(place, 500, timedelta(days=3))
    found = place.measure("dead_letters")["source:raw_events__clicks"]
    assert (found.state, found.observed) == (state, {"in_a_day": letters, "waiting": letters + 500})
    if state is not State.OK:
        assert found.action == "See why: python -m flows dlq list --entity events.clicks"


def _copies(place: Place, day: int, share: float) -> None:
    name = f"{(NOW - timedelta(days=day)).date()}"
    place.execute("insert into ops.landed_window values ('raw_events__clicks', %s, 't', 1, 100000)", name)
    place.execute(
        "insert into ops.partition_state (table_name, partition, token, version, row_count) "
        "values ('stg_events__clicks', %s, 't', 1, %s)",
        name,
        round(100_000 * (1 - share)),
    )


def test_more_copies_than_usual_are_told(place: Place) -> None:
    for day in range(3, 40):
        _copies(place, day, 0.004)
    _copies(place, 2, 0.024)
    _copies(place, 1, 0.5)  # late messages of yesterday are still to be landed or built
    found = place.measure("duplicate_rate")["source:raw_events__clicks"]
    assert found.state is State.WARNING
    assert found.value == pytest.approx(0.024)


def test_few_letters_are_no_alert_whatever_else_arrived(place: Place) -> None:
    _letters(place, 9)
    assert place.measure("dead_letters")["source:raw_events__clicks"].state is State.OK


def test_copies_of_a_day_that_is_not_landed_yet_or_long_past_are_not_judged(place: Place) -> None:
    for day in range(3, 40):
        _copies(place, day, 0.004)
    _copies(place, 2, 0.5)
    place.execute(
        "insert into ops.stream_batch (batch_id, entity, topic_id, offsets, windows, file, row_count) "
        "values ('b', 'raw_events__clicks', 't', '{}', %s, '{}', 1)",
        Jsonb({f"{(NOW - timedelta(days=2)).date()}": 1}),
    )
    found = place.measure("duplicate_rate")["source:raw_events__clicks"]
    assert (found.state, found.observed["of"]) == (State.OK, f"{(NOW - timedelta(days=3)).date()}")
    place.execute("delete from ops.stream_batch")
    assert place.measure("duplicate_rate")["source:raw_events__clicks"].state is State.WARNING
    place.later(3 * 86_400)
    assert "source:raw_events__clicks" not in place.measure("duplicate_rate")


def _checked(
    place: Place,
    rule: str,
    passed: bool,
    ago: timedelta,
    *,
    kind: str = "consistency",
    severity: str = "critical",
) -> None:
    place.execute(
        "insert into ops.check_result values "
        "('run', 'fct_orders', '', %s, %s, %s, 'great_expectations', %s, %s, '{}', %s)",
        rule,
        kind,
        severity,
        passed,
        0 if passed else 7,
        NOW - ago,
    )


def test_a_rule_between_tables_counts_as_it_was_judged_last(place: Place) -> None:
    _checked(place, "references_user_id", False, 3 * HOUR)
    _checked(place, "references_user_id", True, HOUR)
    _checked(place, "revenue_equals_application", False, HOUR, kind="accuracy")
    _checked(place, "references_product_id", False, HOUR, severity="warning")
    _checked(place, "between_quantity", False, HOUR, kind="accuracy")
    _checked(place, "stream_agrees", False, HOUR)
    found = place.measure("reconciliation")
    assert {subject: verdict.state for subject, verdict in found.items()} == {
        "fct_orders.references_user_id": State.OK,
        "fct_orders.revenue_equals_application": State.CRITICAL,
        "fct_orders.references_product_id": State.WARNING,
        "fct_orders.stream_agrees": State.CRITICAL,
        "transactions": State.OK,
    }
    assert found["fct_orders.references_product_id"].action.endswith("python -m flows check fct_orders")
    assert found["fct_orders.references_product_id"].message.endswith("fails for 7 rows.")


def test_what_the_batch_has_corrected_of_the_stream_is_told_as_that_and_where_it_stands(place: Place) -> None:
    _checked(place, "stream_agrees", False, HOUR)
    place.execute("update ops.check_result set failing_rows = 1")
    found = place.measure("reconciliation")["fct_orders.stream_agrees"]
    assert found.message == (
        "The stream and the batch differed in 1 row of fct_orders, which the batch has corrected."
    )
    asked = found.action.split("`")[1]
    assert place.connection.execute(asked.encode()).fetchall() == [({},)]
    assert found.action.endswith("python -m flows check --stream")


def test_a_key_that_is_not_unique_any_more_is_critical(place: Place) -> None:
    _checked(place, "unique_order_id", False, HOUR, kind="uniqueness")
    found = place.measure("duplicate_rate")["fct_orders"]
    assert (found.state, found.value) == (State.CRITICAL, 7)


def test_a_torn_transaction_is_told_until_it_is_whole(place: Place) -> None:
    place.execute(
        "insert into ops.incomplete_transaction values ('app', 7, '', 'its end never came', %s)", NOW
    )
    assert place.measure("reconciliation")["transactions"].state is State.WARNING


def _change(place: Place, change: str, column: str, contract: str, ago: timedelta = HOUR) -> None:
    place.execute(
        "insert into ops.schema_change values "
        "(%s, 'raw_app__orders', %s, %s, '{}', '{}', %s, null, null, %s)",
        f"{change}{column}",
        column,
        change,
        contract,
        NOW - ago,
    )


def test_a_column_that_the_source_dropped_is_told_until_its_table_lands_again(place: Place) -> None:
    _change(place, "dropped", "status", "freeze", 50 * HOUR)
    found = place.measure("schema_drift")["source:raw_app__orders"]
    assert found.state is State.CRITICAL
    assert "status dropped (freeze)" in found.message
    _landed(place, "raw_app__orders", 5)
    assert place.measure("schema_drift")["source:raw_app__orders"].state is State.OK


def test_a_column_that_came_back_is_no_drift_once_a_run_has_gone_on(place: Place) -> None:
    _change(place, "dropped", "status", "evolve")
    place.run(NOW - HOUR / 2, "raw_app__orders: the database has no column status any more")
    assert place.measure("schema_drift")["source:raw_app__orders"].state is State.CRITICAL
    place.run(NOW - HOUR / 4)
    assert place.measure("schema_drift")["source:raw_app__orders"].state is State.OK


def test_a_column_that_may_come_is_told_for_a_day(place: Place) -> None:
    _change(place, "added", "gift", "evolve")
    assert place.measure("schema_drift")["source:raw_app__orders"].state is State.WARNING
    place.later(86_400)
    assert place.measure("schema_drift")["source:raw_app__orders"].state is State.OK


def test_a_published_leaf_that_is_gone_is_critical(place: Place) -> None:
    table = registry.table("fct_events")
    warehouse = Warehouse(place.dsn)
    migrate(warehouse, Lake(place.lake), table)
    assert place.measure("schema_drift")["fct_events"].state is State.OK
    place.execute(
        "insert into ops.partition_state "
        "(table_name, partition, token, version, fingerprint, row_count, published_at) "
        "values ('fct_events', '2025-11-02', 't', 1, %s, 9, clock_timestamp())",
        catalog.fingerprint(table),
    )
    found = place.measure("schema_drift")["fct_events"]
    assert found.state is State.CRITICAL
    assert (
        found.message == "fct_events is not what its model says: published partitions are gone: 2025-11-02."
    )
    assert found.action.endswith("python -m flows rebuild fct_events")
    # What has no rows needs no leaf, and what is past its retention is built by no model of today.
    place.execute("update ops.partition_state set row_count = 0")
    assert place.measure("schema_drift")["fct_events"].state is State.OK
    place.execute(
        "insert into ops.partition_state (table_name, partition, token, version, fingerprint, row_count) "
        "values ('fct_events', '2020-01-01', 't', 1, 'former', 9)"
    )
    assert place.measure("schema_drift")["fct_events"].state is State.OK
    place.execute("update ops.partition_state set partition = '2025-10-01' where fingerprint = 'former'")
    assert "1 partition of an older model" in place.measure("schema_drift")["fct_events"].message
    place.execute("drop table analytics.fct_events cascade")


def test_a_file_of_the_lake_that_is_gone_is_told(place: Place) -> None:
    table = registry.table("dim_currencies")
    migrate(Warehouse(place.dsn), Lake(place.lake), table)
    place.execute(
        "insert into ops.partition_state "
        "(table_name, partition, token, version, fingerprint, files, row_count) "
        "values ('dim_currencies', '', 't', 1, %s, %s, 3)",
        catalog.fingerprint(table),
        Jsonb([{"path": "dimensions/gone.parquet", "rows": 3}]),
    )
    found = place.measure("schema_drift")["dim_currencies"]
    assert found.state is State.WARNING
    assert "a file of the lake is gone (dimensions/gone.parquet)" in found.message
    place.execute("drop table analytics.dim_currencies cascade")


def test_a_lake_that_is_not_there_is_told_once_and_not_by_each_table(place: Place) -> None:
    table = registry.table("dim_currencies")
    one = {column.name: ["1"] for column in table.columns}
    with Lake(place.lake) as lake, Warehouse(place.dsn).connect() as connection:
        migrate(Warehouse(place.dsn), lake, table)
        file = lake.write("dimensions", table.name, None, "", "b1", pa.table(one))
        commit = Commit("t1", "build", "dimensions", table.name, add=(file,), row_count=1)
        Ledger(connection).record(lake, commit, version=0)
    place.execute("update ops.partition_state set fingerprint = %s", catalog.fingerprint(table))
    assert place.measure("disk")["lake"].state is State.OK
    assert place.measure("schema_drift")["dim_currencies"].state is State.OK

    (place.lake / "dimensions").rename(place.lake / "elsewhere")

    found = place.measure("disk")["lake"]
    assert found.state is State.CRITICAL
    assert found.message.startswith(f"The lake is not there: {place.lake} has none of its folders")
    assert "ANALYTICS_LAKE" in found.action
    assert place.measure("schema_drift")["dim_currencies"].state is State.OK
    place.execute("drop table analytics.dim_currencies cascade")


def test_the_slot_that_is_not_there_is_critical_and_its_wal_is_held_to_the_limit(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(self: Settings, name: str, _whole: Any = Settings.require) -> str:
        return place.dsn if name == "app_dsn" else str(_whole(self, name))

    monkeypatch.setattr(Settings, "require", require)
    found = place.measure("wal")["slot:analytics_app"]
    assert found.state is State.CRITICAL
    assert "is gone" in found.message
    place.execute("select pg_create_logical_replication_slot('analytics_app', 'pgoutput')")
    try:
        found = place.measure("wal")["slot:analytics_app"]
        assert found.state is State.OK
        assert found.value is not None
        assert found.limit is not None
        monkeypatch.setattr("flows.monitoring.storage.SHARE_OF_LIMIT", 0)
        monkeypatch.setattr("flows.monitoring.storage.NO_LIMIT_BYTES", 0)
        place.execute("create table public.written as select generate_series(1, 1000)")
        found = place.measure("wal")["slot:analytics_app"]
        assert (found.state, found.limit) == (State.WARNING, 0)
        assert found.value is not None
        assert found.value > 0
        assert "of WAL (reserved)" in found.message
        assert "python -m flows cdc status" in found.action
    finally:
        place.execute("drop table if exists public.written")
        place.execute("select pg_drop_replication_slot('analytics_app')")


def test_of_a_small_disk_what_a_run_needs_must_be_free(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"total": 10 << 30, "free": 3 << 29})  # 15 %, and less than 2 GiB
    monkeypatch.setattr("flows.monitoring.storage.shutil.disk_usage", lambda _: usage)
    assert place.measure("disk")["lake"].state is State.CRITICAL


def test_a_full_disk_is_critical(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((50, State.OK), (8, State.WARNING), (3, State.CRITICAL)):
        usage = type("Usage", (), {"total": 100 << 40, "free": free << 40})
        monkeypatch.setattr("flows.monitoring.storage.shutil.disk_usage", lambda _, usage=usage: usage)
        assert place.measure("disk")["lake"].state is state


@pytest.mark.parametrize("schema", ["analytics", "personal", "ops"])
def test_dead_rows_are_found_in_whatever_lasts(place: Place, schema: str) -> None:
    place.execute(f"create table {schema}.swollen (n int) with (autovacuum_enabled = off)")
    place.execute(f"insert into {schema}.swollen select generate_series(1, 60000)")
    assert place.measure("bloat")["warehouse"].state is State.OK
    place.execute(f"delete from {schema}.swollen")
    place.execute("select pg_stat_force_next_flush()")
    try:
        found = place.measure("bloat")["warehouse"]
        assert (found.state, found.observed["table"]) == (State.WARNING, f"{schema}.swollen")
    finally:
        place.execute(f"drop table {schema}.swollen")
