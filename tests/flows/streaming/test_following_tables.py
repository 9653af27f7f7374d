"""Tables that changes are followed of, each by itself: what is refused of one, and what is quiet."""

from __future__ import annotations

import io

import psycopg
import pytest

from flows.build.job import build_due
from flows.progress import Progress
from tests.flows.kill_child import without_audit
from tests.flows.streaming.changes import Company, new_order, order
from tests.flows.streaming.topics import until
from transforms import catalog, registry


@pytest.mark.full
def test_an_order_whose_time_moves_to_another_month_is_one_order_and_goes_when_it_is_deleted(
    company: Company,
) -> None:
    month = f"select to_char(order_date, 'YYYY-MM') from analytics.fct_orders where order_id = '{order(10)}'"

    def move(to: str) -> None:
        company.capture.app(f"update orders set created_at = '{to}-02' where id = '{order(10)}'")
        until(lambda: company.shown(month) == [(to,)], 60)

    with company.followed():
        move("2025-11")
        move("2025-10")
        company.capture.app(
            f"update orders set created_at = '2025-12-02' where id = '{order(10)}'",
            f"delete from orders where id = '{order(10)}'",
        )
        until(lambda: company.shown(month) == [], 60)
    assert company.differences() == []


@pytest.mark.full
def test_a_table_that_postgresql_refuses_stays_as_it_was_and_the_others_go_on(company: Company) -> None:
    of_order = f"from analytics.fct_orders where order_id = '{order(600)}'"
    company.shown(
        "insert into analytics.fct_orders select (jsonb_populate_record(o, jsonb_build_object('order_id', "
        f"'{order(600)}'))).* from analytics.fct_orders o where order_id = '{order(11)}' returning 1"
    )
    company.capture.app(
        "begin", new_order(600, 3, 3), "update users set name = 'Not Held Up' where id = 10", "commit"
    )
    company.wait_for_user("name", "Not Held Up")
    said = io.StringIO()
    followed = company.follow(progress=Progress("test", said))
    assert (followed.messages, followed.interruptions) == (2, 0)
    assert company.shown("select name from analytics.dim_users where user_id = 10") == [("not held up",)]
    assert "fct_orders: analytics.fct_orders is not what the lake says was published: " in said.getvalue()
    assert "of 1 rows to insert, some were there already. Nothing was changed. " in said.getvalue()
    assert "`python -m flows rebuild fct_orders`" in said.getvalue()
    assert order(600) not in said.getvalue()
    company.shown(f"delete {of_order} returning 1")
    company.capture.app(f"update orders set updated_at = now() where id = '{order(11)}'")
    until(lambda: company.follow().messages == 0 and company.differences() == [], 60)


@pytest.mark.full
def test_a_table_without_changes_remembers_its_source_as_it_was_seen_last(company: Company) -> None:
    known = (
        "select positions -> 'guard' ->> 'beat', positions -> 'transactions' from ops.position "
        "where entity = 'raw_app__products'"
    )
    ((before, passed),) = company.shown(known)
    beats = f"select max(beat) from {company.capture.names.heartbeat}"
    until(lambda: company.capture.app(beats)[0][0] > int(before), seconds=60)
    company.capture.app("update users set country = 'ES' where id = 1")
    company.wait_for_user("country", "ES")
    assert company.follow().messages == 1

    def is_remembered() -> bool:
        company.follow()
        ((after, ended),) = company.shown(known)
        return bool(int(after) > int(before) and ended > passed)

    # The end of the transaction is told in a topic of its own, after its changes.
    until(is_remembered, seconds=60)
    assert company.shown("select count(*) from ops.ledger where table_name = 'raw_app__products'") == [(1,)]


def test_a_table_that_stands_otherwise_than_its_model_says_is_left_to_the_batch(company: Company) -> None:
    column = "alter table analytics.fct_orders {} column discount_amount".format
    discount = f"select discount_amount from analytics.fct_orders where order_id = '{order(12)}'"
    with psycopg.connect(company.capture.settings.require("warehouse_dsn"), autocommit=True) as owner:
        owner.execute(column("drop").encode())
        company.capture.app(
            "begin",
            f"update orders set discount_amount = 2, total_amount = 3 where id = '{order(12)}'",
            "update users set name = 'Not Left' where id = 9",
            "commit",
        )
        company.wait_for_user("name", "Not Left")
        followed = company.follow(without=["fct_orders"])
        owner.execute(f"{column('add')} numeric(12,2)".encode())
    assert (followed.messages, followed.interruptions) == (2, 0)
    assert company.shown("select name from analytics.dim_users where user_id = 9") == [("not left",)]
    assert company.differences() == ["orders"]

    orders, services = registry.table("fct_orders"), company.services()
    with services.lake, without_audit():
        build_due(services, orders, catalog.fingerprint(orders), "batch")
    assert company.differences() == []
    assert company.shown(discount) == [(2,)]
