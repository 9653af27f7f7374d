"""What the application counts of a captured table, compared with what was landed of it: at one place in its
log, to the cent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from pydantic import SecretStr

from flows import first_read
from flows.landed import rows_landed
from flows.progress import Progress
from flows.services import Services
from flows.source_totals import Asked, land_changes
from tests.flows.capture import Capture
from tests.flows.company import Company, with_models
from tests.flows.extract.parts import ORDERS, ORDERS_DDL
from tests.flows.streaming.topics import until
from tests.house import House
from transforms.entities import Postgres

TABLE = replace(ORDERS, read=Postgres("orders", mode="cdc"))


class Shop:
    """Orders of an application that real Debezium reads, and a lake of their changes."""

    def __init__(self, capture: Capture, warehouse_dsn: str) -> None:
        self.capture = capture
        settings = capture.settings.model_copy(update={"warehouse_dsn": SecretStr(warehouse_dsn)})
        self.services = Services(settings)

    def land(self) -> int:
        landing = land_changes(self.services, [TABLE], "run").of(TABLE)
        return landing.rows if landing else 0

    def totals(self) -> list[tuple[Any, ...]]:
        """(currency, rows, amount) as the application counted them."""
        with self.services.warehouse.connect() as connection:
            return connection.execute(
                "select group_value, sum(row_count)::int, sum(amount) from ops.control_total "
                "group by 1 order by 1"
            ).fetchall()

    def landed(self) -> list[tuple[Any, ...]]:
        """The same of the rows that were landed."""
        lake = self.services.lake
        with duckdb.connect() as connection, self.services.ledger() as ledger:
            rows = rows_landed(connection, lake, TABLE, ledger.files(TABLE.table))
            assert rows is not None
            rows.create_view("landed")
            return connection.execute(
                "select currency, count(*), sum(amount) from (select * from landed qualify row_number() over "
                "(partition by id order by _landed_at desc, _seq desc) = 1) where _op <> 'd' "
                "group by 1 order by 1"
            ).fetchall()


@pytest.fixture
def shop(capture: Capture, house: House) -> Iterator[Shop]:
    capture.app(
        ORDERS_DDL,
        "insert into orders (id, amount, currency) select n, n, 'EUR' from generate_series(1, 500) n",
    )
    capture.register(TABLE)
    shop = Shop(capture, house.server().database())
    with shop.services.lake, Progress("run") as progress:
        shop.services.lake.begin_session()
        assert first_read.land(shop.services, [TABLE], "first", progress).failures() == {}
        yield shop


@pytest.mark.full
def test_the_totals_are_those_of_the_place_that_was_landed_while_others_write(shop: Shop) -> None:
    shop.land()
    assert shop.totals() == shop.landed() == [("EUR", 500, 125_250)]
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(shop.capture.settings.require("app_dsn"), autocommit=True) as connection:
            number = 500
            while not done.is_set():
                number += 1
                connection.execute(
                    "insert into orders (id, amount, currency) values (%s, 0.01, %s)",
                    (number, "USD" if number % 3 else "EUR"),
                )
                connection.execute("update orders set amount = amount + 0.01 where id = %s", (number // 2,))
                connection.execute("delete from orders where id = %s", (number // 3,))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            shop.land()
            assert shop.totals() == shop.landed()
    finally:
        done.set()
        writer.join()
    shop.land()
    assert shop.totals() == shop.landed()
    counted = shop.capture.app(
        "select currency, count(*)::int, sum(amount) from orders group by 1 order by 1"
    )
    assert shop.totals() == counted


def test_a_change_that_could_not_be_read_leaves_the_totals_unknown_until_it_is_mended(shop: Shop) -> None:
    shop.land()
    shop.capture.app("update orders set amount = 'NaN' where id = 7")
    # Debezium tells of it when it does; until then nothing new is landed, and the totals are what they were.
    until(lambda: shop.land() >= 0 and shop.totals() == [])
    shop.capture.app("update orders set amount = 8 where id = 7")
    shop.land()
    assert shop.totals() == shop.landed() == [("EUR", 500, 125_251)]


@pytest.mark.parametrize(
    ("transaction", "is_known"), [(4294967290, True), (4294967295, False), (3, True), (4, False), (5, False)]
)
def test_a_transaction_is_known_also_where_its_number_began_anew(transaction: int, is_known: bool) -> None:
    asked = Asked([], 2**32 + 5, (2**32 - 1, 2**32 + 4), 0)
    with duckdb.connect() as connection:
        assert connection.execute(f"select {asked.knows(f'{transaction}::bigint')}").fetchone() == (is_known,)


@pytest.mark.full
def test_a_first_read_that_is_not_over_halts_its_tables_and_says_so(
    capture: Capture, house: House, tmp_path: Path
) -> None:
    """Landed at once, the half of them that is there would be all that the warehouse knows."""
    capture.app(
        ORDERS_DDL,
        "insert into orders (id, amount, currency) select n, 1, 'EUR' from generate_series(1, 40000) n",
    )
    capture.register(TABLE)
    shop = Shop(capture, house.server().database())
    with shop.services.lake, Progress("run") as progress:
        shop.services.lake.begin_session()
        halted = first_read.land(shop.services, [TABLE], "first", progress, seconds=0.0).failures()
        assert "still reading" in halted[TABLE.table]
        landing = first_read.land(shop.services, [TABLE], "second", progress).of(TABLE)
        assert landing is not None
        assert landing.rows == 40_000
        assert first_read.land(shop.services, [TABLE], "third", progress, seconds=0.0).outcomes == {}, (
            "landed: nothing to wait for"
        )


@pytest.mark.full
def test_one_wrong_cent_in_an_order_fails_the_rule_on_captured_orders(
    company: Company, tmp_path: Path
) -> None:
    place = company.copy()
    assert place.value("select count(*) from ops.control_total where entity = 'app.orders'") > 0
    before = place.physical("fct_orders")
    cent = "total_amount::decimal(10,2) as revenue"
    one = "order_id = (select min(order_id) from stg_app__orders)"
    wrong = f"(total_amount + case when {one} then 0.01 else 0 end)"
    models = with_models(tmp_path, {"facts/fct_orders.sql": (cent, cent.replace("total_amount", wrong))})
    done = place.command("run", "--select", "fct_orders", models=models)
    assert done.code == 1, done.said
    assert "fct_orders: rule revenue_equals_application failed" in done.said
    assert place.physical("fct_orders") == before
