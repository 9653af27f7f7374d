"""A changed model: the next run migrates the table, says so, and takes nothing away without consent."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.flows.company import Company, Place, with_models

pytestmark = pytest.mark.full

ORDERS, EVENTS = "facts/fct_orders.sql", "facts/fct_events.sql"
DISCOUNT = "    discount_amount::decimal(12,2) as discount_amount,\n"
PAGE = "    page::varchar as page,"
OFFSET = "    kafka_offset::bigint as kafka_offset"


def _type(place: Place, table: str, column: str) -> str:
    return str(
        place.value(
            "select format_type(atttypid, atttypmod) from pg_attribute "
            "where attrelid = %s::regclass and attname = %s and not attisdropped",
            f"analytics.{table}",
            column,
        )
    )


def _oid(place: Place, table: str) -> int:
    return int(place.value("select %s::regclass::oid::int", f"analytics.{table}"))


def test_a_new_column_is_added_in_place_and_filled(company: Company, tmp_path: Path) -> None:
    place = company.copy()
    oid = _oid(place, "fct_orders")
    models = with_models(
        tmp_path, {ORDERS: (DISCOUNT, f"{DISCOUNT}    quantity * 2::bigint as pairs_of_shoes, -- Two each\n")}
    )
    done = place.command(models=models)
    assert done.code == 0, done.said
    assert "pairs_of_shoes" in done.said
    assert _oid(place, "fct_orders") == oid
    assert (
        place.rows("select * from analytics.fct_orders where pairs_of_shoes is distinct from 2 * quantity")
        == []
    )
    assert place.differences() == []
    comment = place.value(
        "select col_description(attrelid, attnum) from pg_attribute "
        "where attrelid = 'analytics.fct_orders'::regclass and attname = 'pairs_of_shoes'"
    )
    assert comment == "Two each"


def test_another_type_is_built_beside_and_swapped_once_somebody_agrees(
    company: Company, tmp_path: Path
) -> None:
    place = company.copy()
    oid = _oid(place, "fct_events")
    models = with_models(tmp_path, {EVENTS: (OFFSET, "    kafka_offset::decimal(20,0) as kafka_offset")})
    for _ in range(5):
        done = place.command("run", "--yes", models=models)
        assert done.code == 0, done.said
        # A slot that another test makes at this server meanwhile holds a snapshot: the next run does it then.
        if "an old snapshot (" not in done.said:
            break
    assert "kafka_offset" in done.said
    assert _type(place, "fct_events", "kafka_offset") == "numeric(20,0)"
    assert _oid(place, "fct_events") != oid
    assert place.differences() == []
    assert place.rows("select relname from pg_class where relnamespace = 'unpublished'::regnamespace") == []
    assert place.value("select count(*) from analytics.mv_daily_metrics") > 0


def test_what_takes_something_from_readers_asks_for_yes(company: Company, tmp_path: Path) -> None:
    place = company.copy()
    models = with_models(tmp_path, {ORDERS: (DISCOUNT, "")})
    before = place.physical()
    refused = place.command(models=models)
    assert refused.code == 1, refused.said
    assert "discount_amount" in refused.err
    assert "--yes" in refused.err
    assert "Traceback" not in refused.said
    assert place.physical() == before
    agreed = place.command("run", "--yes", models=models)
    assert agreed.code == 0, agreed.said
    columns = place.rows("select column_name from information_schema.columns where table_name = 'fct_orders'")
    assert ("discount_amount",) not in columns
    assert ("revenue",) in columns


def test_an_analysts_long_query_is_not_cancelled_by_a_rebuild_and_what_it_blocks_comes_with_the_next_run(
    company: Company, tmp_path: Path
) -> None:
    place = company.copy()
    changes = {
        EVENTS: (OFFSET, "    kafka_offset::decimal(20,0) as kafka_offset"),
        ORDERS: (DISCOUNT, f"{DISCOUNT}    1::integer as one, -- One\n"),
    }
    models = with_models(tmp_path, changes)
    query = b"select count(*), sum(length(page)), sum(kafka_offset) from analytics.fct_events"
    with psycopg.connect(place.warehouse_dsn, application_name="an analyst") as analyst:
        analyst.execute("set transaction isolation level repeatable read")
        seen = analyst.execute(query).fetchone()
        done = place.command("run", "--yes", models=models)
        assert analyst.execute(query).fetchone() == seen
        assert done.code == 0, done.said
        (line,) = [line for line in place.summary()["pending"] if line.startswith("fct_events")]
        assert str(analyst.info.backend_pid) in line
        # Everything else goes on.
        orders = place.value("select count(*) from analytics.fct_orders")
        assert place.value("select sum(one) from analytics.fct_orders") == orders > 0
        assert _type(place, "fct_events", "kafka_offset") == "bigint"
    after = place.command("run", "--yes", models=models)
    assert after.code == 0, after.said
    assert place.summary()["pending"] == []
    assert _type(place, "fct_events", "kafka_offset") == "numeric(20,0)"
    assert place.differences() == []


def test_new_content_of_every_row_reaches_readers_without_cancelling_a_long_query(
    company: Company, tmp_path: Path
) -> None:
    place = company.copy()
    models = with_models(tmp_path, {EVENTS: (PAGE, "    upper(page)::varchar as page,")})
    query = b"select count(*), max(page) from analytics.fct_events"
    with psycopg.connect(place.warehouse_dsn, application_name="an analyst") as analyst:
        analyst.execute("set transaction isolation level repeatable read")
        seen = analyst.execute(query).fetchone()
        done = place.command(models=models)
        assert done.code == 0, done.said
        assert analyst.execute(query).fetchone() == seen
        pending = place.summary()["pending"]
        assert all(str(analyst.info.backend_pid) in line for line in pending)
    after = place.command(models=models)
    assert after.code == 0, after.said
    assert place.rows("select * from ops.pending_publish") == []
    assert place.rows("select * from analytics.fct_events where page <> upper(page)") == []
    assert place.differences() == []
