"""What is read from PostgreSQL: everything once, nothing that was not committed, nothing twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Literal

import psycopg
import pytest

from flows.extract import SourceError
from tests.flows.extract.parts import ORDERS, ORDERS_COLUMNS, World, orders_of
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity


def test_the_first_read_takes_everything_and_the_second_nothing(shop: World) -> None:
    first = shop.land(ORDERS)
    assert first is not None
    assert first.rows == 1000
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)
    assert shop.land(ORDERS) is None


def test_only_what_changed_lands_though_the_lookback_is_read_again(shop: World) -> None:
    shop.app("update orders set updated_at = now() where id <= 500")
    shop.land(ORDERS)
    shop.app(
        "update orders set amount = 0.01, updated_at = now() where id = 7",
        "insert into orders values (5000, 3.00, 'JPY')",
    )
    second = shop.land(ORDERS)
    assert second is not None
    assert second.rows == 2
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)


def test_how_somebody_has_dates_and_texts_written_for_the_login_is_no_matter(shop: World) -> None:
    with psycopg.connect(shop.app_dsn, autocommit=True) as connection:
        name = connection.info.dbname
        for setting in (
            "datestyle = 'German, DMY'",
            "client_encoding = 'latin1'",
            "search_path = ''",
            "quote_all_identifiers = on",
        ):
            connection.execute(f"alter database {name} set {setting}".encode())
        connection.execute("update orders set currency = '→' where id = 3")
        assert shop.land_rows(ORDERS) == 1000
        connection.execute("update orders set currency = '✓', updated_at = now() where id = 7")
        assert shop.land_rows(ORDERS) == 1
        connection.execute(f"alter database {name} reset all".encode())
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)


def test_a_transaction_that_commits_late_is_never_missed(shop: World) -> None:
    without_lookback = replace(
        ORDERS,
        read=Postgres(
            "orders", mode="incremental", cursor="updated_at", lookback=timedelta(0), deletes_every=None
        ),
    )
    shop.land(without_lookback)
    with psycopg.connect(shop.app_dsn) as slow:
        slow.execute("insert into orders values (6000, 1.00, 'EUR')")
        shop.app("insert into orders values (6001, 2.00, 'EUR')")
        assert shop.land_rows(without_lookback) == 1
        shop.app("insert into orders values (6002, 2.00, 'EUR')")
        assert shop.land_rows(without_lookback) == 1
        slow.commit()
    assert shop.land_rows(without_lookback) == 1
    assert shop.land(without_lookback) is None
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)


def test_a_row_whose_cursor_is_in_the_future_lands_once_and_costs_the_later_reads_nothing(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Postgres(
        "orders", mode="incremental", cursor="updated_at", lookback=timedelta(0), deletes_every=None
    )
    orders = replace(ORDERS, read=read)
    shop.app(
        "insert into orders values (7000, 1, 'EUR', now(), '2099-01-01')",
        "insert into orders values (7001, 1, 'EUR', now(), '2099-01-02')",
    )
    assert shop.land_rows(orders) == 1002

    def compared() -> int:
        ((positions,),) = shop.warehouse("select positions from ops.position")
        return len(positions["recent"])

    for number in range(5):
        shop.app(f"insert into orders values ({8000 + number}, 1, 'EUR')")
        assert shop.land_rows(orders) == 1
        assert compared() <= 3
    assert shop.land(orders) is None
    shop.app("update orders set amount = 2 where id = 7000")  # its time stays in the future
    assert shop.land_rows(orders) == 1
    shop.app("update orders set updated_at = now() where id = 7001")
    assert shop.land_rows(orders) == 1
    shop.app("update orders set updated_at = '2099-01-02' where id = 7001")
    assert shop.land_rows(orders) == 1
    assert shop.land(orders) is None
    assert shop.live(orders, ORDERS_COLUMNS) == orders_of(shop)

    monkeypatch.setattr("flows.extract.postgres_ahead.MOST", 1)
    for _ in range(2):
        shop.app("insert into orders select max(id) + 1, 1, 'EUR' from orders")
        shop.land(orders)
    assert shop.land(orders) is None, "more of them than a position names are found by comparing landings"
    assert shop.live(orders, ORDERS_COLUMNS) == orders_of(shop)


def test_a_number_that_was_handed_out_early_and_committed_late_is_never_missed(world: World) -> None:
    events = SourceEntity(
        source="app",
        name="order_events",
        read=Postgres("order_events", mode="incremental", cursor="id", deletes_every=None),
        key=("id",),
        grain="one row per event",
        columns=(Column("id", "bigint"), Column("actor", "varchar")),
    )
    world.app(
        "create table order_events (id bigint generated by default as identity primary key, actor text)"
    )
    insert = "insert into order_events (actor) values ('x')"
    world.app(insert)
    world.land(events)
    with psycopg.connect(world.app_dsn) as slow:
        slow.execute(insert.encode())
        for _ in range(3):
            world.app(insert)
            assert world.land_rows(events) == 1
        slow.commit()
    assert world.land_rows(events) == 1
    for _ in range(3):
        assert world.land(events) is None
    world.app(insert)
    assert world.land_rows(events) == 1
    assert world.live(events, ["id"]) == world.app("select id from order_events order by id")


def test_a_row_that_no_window_can_hold_is_a_dead_letter_and_stays_as_it_was(shop: World) -> None:
    shop.land(ORDERS)
    before = orders_of(shop)
    shop.app(
        "insert into orders values (7000, 1, 'EUR', null), (7001, 1, 'EUR', now())",
        "update orders set amount = 2, created_at = null, updated_at = now() where id = 7",
    )
    landing = shop.land(ORDERS)
    assert landing is not None
    assert (landing.rows, landing.dead_letters) == (1, 2)
    assert "" not in (landing.windows or {})
    reasons = shop.warehouse("select distinct reason from ops.dead_letter")
    assert reasons == [("created_at is null",)]
    assert shop.live(ORDERS, ORDERS_COLUMNS) == [*before, (7001, 1, "EUR")]
    shop.app("update orders set created_at = now(), updated_at = now() where created_at is null")
    assert shop.land_rows(ORDERS) == 2
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)


def test_a_hard_delete_is_found_and_touches_the_window_of_the_row(shop: World) -> None:
    shop.app("insert into orders values (9001, 5, 'EUR', '2025-03-05 10:00+00', '2025-03-05 10:00+00')")
    shop.land(ORDERS)
    shop.app("delete from orders where id in (3, 9001)")
    gone = shop.land(ORDERS)
    assert gone is not None
    assert gone.rows == 2
    assert "2025-03" in (gone.windows or {})
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)
    assert shop.land(ORDERS) is None


def test_a_row_that_comes_back_with_its_old_time_is_landed_again(shop: World) -> None:
    shop.land(ORDERS)
    shop.app("create table kept as select * from orders where id = 900", "delete from orders where id = 900")
    shop.land(ORDERS)
    shop.app("insert into orders select * from kept")
    back = shop.land(ORDERS)
    assert back is not None
    assert back.rows == 1
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)
    assert shop.land(ORDERS) is None


def test_keys_are_compared_no_more_often_than_declared(shop: World) -> None:
    daily = replace(
        ORDERS,
        read=Postgres("orders", mode="incremental", cursor="updated_at", deletes_every=timedelta(days=1)),
    )
    shop.land(daily)
    shop.land(daily)
    shop.app("delete from orders where id = 900")
    assert shop.land(daily) is None


def test_a_snapshot_lands_only_when_its_content_differs(world: World) -> None:
    coupons = SourceEntity(
        source="app",
        name="coupons",
        read=Postgres("coupons"),
        key=("code",),
        grain="one row per coupon",
        columns=(
            Column("code", "varchar"),
            Column("percent_off", "decimal(5, 2)"),
            Column("valid", "varchar"),
        ),
    )
    world.app(
        "create table coupons (code text primary key, percent_off numeric(5,2), valid tstzrange)",
        "insert into coupons values ('a', 10, '[2025-01-01, 2025-02-01)'), ('b', 20, null)",
        "insert into coupons values ('ü', 100, 'empty')",
    )
    assert world.land_rows(coupons) == 3
    world.app("update coupons set percent_off = percent_off")  # other order in the table, same content
    assert world.land(coupons) is None
    world.app("delete from coupons where code = 'a'", "update coupons set percent_off = 21 where code = 'b'")
    assert world.land_rows(coupons) == 3
    assert world.live(coupons, ["code", "percent_off"]) == world.app(
        "select code, percent_off from coupons order by 1"
    )
    world.app("delete from coupons")
    assert world.land_rows(coupons) == 2
    assert world.live(coupons, ["code"]) == []
    assert world.land(coupons) is None


def test_control_totals_are_those_of_the_rows_that_landed(shop: World) -> None:
    shop.app("update orders set currency = 'JPY', updated_at = now() where id % 3 = 0")
    shop.land(ORDERS)
    landed = shop.raw(
        ORDERS, "select created_at::date, currency, count(*), sum(amount) from raw group by all order by all"
    )
    totals = shop.warehouse("select day, group_value, row_count, amount from ops.control_total order by 1, 2")
    assert totals == landed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("alter table orders drop column currency", "has no column currency"),
        ("alter table orders rename column currency to money", "calls column currency money now"),
        ("alter table orders alter column amount type numeric(12, 3)", "column amount is numeric(12,3)"),
        ("alter table orders alter column amount type text", "column amount is text"),
        ("alter table orders alter column id type text", "column id is text"),
        (
            "alter table orders alter column created_at type timestamp",
            "column created_at is timestamp without",
        ),
        ("drop table orders", "has no table"),
    ],
)
def test_a_surprise_in_the_schema_stops_the_table_with_one_sentence(
    shop: World, change: str, says: str
) -> None:
    shop.land(ORDERS)
    before = shop.warehouse("select positions from ops.position")
    shop.app(change)
    with pytest.raises(SourceError, match=r"app\.orders") as caught:
        shop.land(ORDERS)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shop.warehouse("select positions from ops.position") == before


def test_a_column_that_nobody_declared_is_a_warning(shop: World) -> None:
    shop.app("alter table orders add column gift boolean default true")
    landing = shop.land(ORDERS)
    assert landing is not None
    assert landing.rows == 1000
    assert any("gift (boolean)" in warning for warning in landing.warnings)


def test_a_large_table_read_in_parts_equals_one_read(shop: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.extract.postgres_session.MINIMUM_PART_BYTES", 8192)
    shop.app("insert into orders select i, i, 'EUR' from generate_series(100001, 150000) as i")
    landing = shop.land(ORDERS, rows_per_file=20_000)
    assert landing is not None
    assert landing.rows == 51_000
    assert len(landing.files) == 3
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)
    assert shop.raw(ORDERS, "select count(distinct _seq), min(_seq), max(_seq) from raw") == [
        (51_000, 0, 50_999)
    ]


@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_nothing_lands_from_a_connection_that_broke_in_the_middle(
    shop: World, mode: Literal["incremental", "snapshot"]
) -> None:
    shop.app(
        "create view broken as select id, amount, currency, created_at, "
        "case when id = 900 then (1 / (id - 900))::text::timestamptz else updated_at end as updated_at "
        "from orders"
    )
    entity = replace(ORDERS, read=Postgres("broken", mode=mode, cursor="updated_at"), control=None)
    with pytest.raises(SourceError) as caught:
        shop.land(entity)
    assert "division by zero" in str(caught.value) or "could not be converted" in str(caught.value)
    assert str(caught.value).startswith("app.orders: ")
    assert shop.raw(entity) == []
    assert shop.warehouse("select count(*) from ops.ledger") == [(0,)]
