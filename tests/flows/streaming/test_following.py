"""The stream of changes, on real Debezium: within seconds, whole transactions, whatever crashes."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

import quality
from flows import failpoints, incomplete
from flows.change_landing import FOLLOW, land_changes
from flows.erasure import listed
from flows.erasure.person import Person
from flows.maintenance import folding, tidying
from flows.services import Services
from flows.streaming import following
from tests.flows.streaming.changes import ENTITIES, Company, new_order, order
from tests.flows.streaming.topics import until
from transforms import registry


@pytest.mark.full
def test_what_one_transaction_changes_is_seen_at_one_moment(company: Company) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    done = threading.Event()

    def look() -> None:
        with psycopg.connect(company.capture.settings.require("warehouse_dsn"), autocommit=True) as reader:
            while not done.wait(0.01):
                row = reader.execute(
                    "select o.status, u.plan from analytics.fct_orders o "
                    "join analytics.dim_users u using (user_id) where order_id = %s",
                    (order(3),),
                ).fetchone()
                assert row is not None
                seen[row[0], row[1]] += 1

    reader = threading.Thread(target=look)
    reader.start()
    try:
        with company.followed():
            for status, plan in (("paid", "pro"), ("shipped", "team"), ("pending", "free")):
                company.capture.app(
                    "begin",
                    f"update orders set status = '{status}' where id = '{order(3)}'",
                    f"update users set plan = '{plan}' where id = 4",
                    "commit",
                )
                until(lambda wanted=(status, plan): seen[wanted] > 1, seconds=60)  # type: ignore[misc]
    finally:
        done.set()
        reader.join(10)
    assert set(seen) == {("pending", "free"), ("paid", "pro"), ("shipped", "team")}


def test_deletes_new_rows_and_new_members_follow(company: Company) -> None:
    with company.followed():
        company.capture.app(
            "begin",
            new_order(500, 77, 3),
            f"delete from orders where id = '{order(7)}'",
            "delete from users where id = 9",
            "commit",
        )
        until(lambda: company.differences() == [], seconds=60)
        assert company.shown("select is_inferred from analytics.dim_users where user_id = 77") == [(True,)]
        company.capture.app(
            "insert into users (id, name, plan, created_at, updated_at) "
            "values (77, 'Late', 'pro', now(), now())"
        )
        until(lambda: company.differences() == [], seconds=60)
    assert company.shown("select is_inferred, name from analytics.dim_users where user_id = 77") == [
        (False, "late")
    ]
    assert company.shown("select is_deleted from analytics.dim_users where user_id = 9") == [(True,)]


def test_while_a_stream_follows_nobody_else_lands_changes(company: Company) -> None:
    with company.followed() as living:
        company.capture.app("update users set country = 'FR' where id = 1")
        until(
            lambda: company.shown("select country from analytics.dim_users where user_id = 1") == [("FR",)],
            60,
        )
        services = Services(company.capture.settings)
        with services.lake:
            assert land_changes(services, ENTITIES, "beside").outcomes == {}
        assert not living.done()


def test_a_stream_waits_while_the_session_of_one_that_was_killed_is_still_there(company: Company) -> None:
    company.capture.app("update users set country = 'NO' where id = 2")
    company.wait_for_user("country", "NO")
    with ThreadPoolExecutor(1) as pool:
        with company.services().ledger() as killed:
            assert killed.is_ours(FOLLOW, company.capture.settings.cdc_prefix)
            following = pool.submit(company.follow)
            time.sleep(1)
            assert not following.done()
        assert following.result(60).messages == 1
    assert company.shown("select country from analytics.dim_users where user_id = 2") == [("NO",)]


def test_what_was_not_shown_is_shown_by_the_next_stream_once(company: Company) -> None:
    company.capture.app("update users set country = 'IT' where id = 2")
    company.wait_for_user("country", "IT")
    assert company.follow().messages == 1
    assert company.follow().messages == 0
    assert company.shown("select country from analytics.dim_users where user_id = 2") == [("IT",)]


@pytest.mark.full
@pytest.mark.parametrize(
    "failpoint",
    [
        *("changes.landed", "landing.extracted", "landing.written", "landing.committed"),
        *("joint.before_commit", "joint.committed"),
        *("build.written", "publish.copied", "publish.applied", "publish.committed"),
        *("lake.manifest_appended", "lake.manifest_written", "publish.dropped"),
    ],
)
def test_a_kill_anywhere_and_the_next_stream_shows_the_same(company: Company, failpoint: str) -> None:
    changed = random.Random(failpoint).randint(1, 1000)
    company.capture.app(
        "begin",
        f"update orders set total_amount = {changed} where id = '{order(5)}'",
        f"update users set name = 'Name {changed}' where id = 6",
        "commit",
    )
    company.wait_for_user("name", f"Name {changed}")
    assert company.dies(failpoint)
    company.follow()
    assert company.differences() == []
    left = "select count(*) from pg_class where relnamespace = 'unpublished'::regnamespace"
    assert company.shown(left) == [(0,)]


def _is_shown(company: Company, query: str, value: str) -> bool:
    return company.shown(query) == [(value,)]


@pytest.mark.full
def test_a_stream_keeps_its_files_and_entries_few_and_shows_the_same(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "RAW_FILES", 4)
    monkeypatch.setattr(tidying, "_JOIN_AFTER", 2)
    monkeypatch.setattr(tidying, "_FOLD_AFTER", 2)
    monkeypatch.setattr(folding, "READERS_GRACE", timedelta(0))
    plan = "select plan from analytics.dim_users where user_id = 3"
    with company.followed():
        for number in range(12):
            wanted = ("free", "pro", "team")[number % 3]
            company.capture.app(f"update users set plan = '{wanted}' where id = 3")
            until(partial(_is_shown, company, plan, wanted), 60)
        raw = "select count(*) from ops.ledger where table_name = 'raw_app__users'"
        until(lambda: company.shown(raw)[0][0] < 12, 60)
    services = company.services()
    with services.lake, services.ledger() as ledger:
        assert len(ledger.files("raw_app__users")) < 8
        for name in ("raw_app__users", "stg_app__users", "dim_users"):
            layer = registry.table(name).layer.value
            assert services.lake.manifest(layer, name) == ledger.history(name)
    assert company.differences() == []
    company.capture.app("update users set plan = 'free' where id = 3")
    until(lambda: company.follow().messages == 0 and company.shown(plan) == [("free",)], 60)


def test_a_transaction_with_a_row_that_cant_be_held_is_shown_without_it_and_named(company: Company) -> None:
    company.capture.app(
        "begin",
        f"update orders set updated_at = 'infinity' where id = '{order(8)}'",
        "update users set name = 'Whole' where id = 5",
        "commit",
    )
    company.wait_for_user("name", "Whole")
    followed = company.follow()
    assert (followed.messages, followed.dead_letters) == (2, 1)
    assert company.shown("select name from analytics.dim_users where user_id = 5") == [("whole",)]
    services = Services(company.capture.settings)
    with services.warehouse.connect() as connection:
        (sentence,) = incomplete.still(connection)
    assert (
        "did not arrive whole: app.orders: updated_at can't be held as TIMESTAMP WITH TIME ZONE" in sentence
    )
    assert "dlq show " in sentence
    company.capture.app(f"update orders set updated_at = now() where id = '{order(8)}'")


@pytest.mark.full
def test_what_breaks_a_rule_stays_as_it_was_is_kept_once_and_recorded(company: Company) -> None:
    recorded = (
        "select rule, failing_rows from ops.check_result where table_name = 'fct_orders' and not passed"
    )
    quantity = f"select quantity from analytics.fct_orders where order_id = '{order(4)}'"
    company.capture.app(
        "begin",
        f"update orders set quantity = 0 where id = '{order(4)}'",
        "update users set name = 'Beside' where id = 8",
        "commit",
    )
    company.wait_for_user("name", "Beside")
    for refused in range(1, 3):
        company.follow()
        assert company.shown(recorded) == [("between_quantity", 1)] * refused
        company.capture.app(f"update orders set updated_at = now() where id = '{order(2 + refused)}'")
    assert company.shown(quantity) == [(1,)]
    assert company.shown("select name from analytics.dim_users where user_id = 8") == [("beside",)]
    kept = Path(company.capture.settings.lake_root, "quarantine", "fct_orders")
    assert len(list(kept.glob("*.parquet"))) == 1
    company.capture.app(f"update orders set quantity = 2 where id = '{order(4)}'")
    until(lambda: company.follow().messages == 0 and company.shown(quantity) == [(2,)], 60)


@pytest.mark.full
def test_a_table_whose_checks_lack_memory_waits_and_the_stream_goes_on(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "RETRY_SECONDS", 2)
    short, check = threading.Event(), quality.check

    def check_with_little_room(connection: Any, table: Any, *given: Any, **more: Any) -> Any:
        if table.name == "fct_orders" and not short.is_set():
            short.set()
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate")
        return check(connection, table, *given, **more)

    monkeypatch.setattr(quality, "check", check_with_little_room)
    with company.followed() as living:
        company.capture.app(f"update orders set quantity = 7 where id = '{order(5)}'")
        quantity = f"select quantity from analytics.fct_orders where order_id = '{order(5)}'"
        until(short.is_set, seconds=60)
        time.sleep(following.RETRY_SECONDS)
        assert company.shown(quantity) != [(7,)]
        company.capture.app("update users set name = 'Behind' where id = 8")
        until(lambda: company.shown(quantity) == [(7,)], seconds=60)
        assert living.running()
    assert living.result().interruptions == 0


@pytest.mark.parametrize("table", ["fct_orders", pytest.param("dim_users", marks=pytest.mark.full)])
def test_what_a_lock_keeps_back_is_shown_once_the_lock_is_gone_though_nothing_more_comes(
    company: Company, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "RETRY_SECONDS", 2)
    number, user = {"fct_orders": (601, 61), "dim_users": (602, 62)}[table]
    waiting = "select table_name from ops.pending_publish"
    placed = f"select user_id from analytics.fct_orders where order_id = '{order(number)}'"
    failed = "select count(*) from ops.check_result where not passed"
    before = company.shown(failed)
    with psycopg.connect(company.capture.settings.require("warehouse_dsn")) as somebody:
        somebody.execute(f"lock table analytics.{table} in share mode".encode())
        with company.followed():
            company.capture.app(
                "begin",
                new_order(number, user, 3),
                f"update products set name = 'Beside {table}' where id = 3",
                "commit",
            )
            until(lambda: company.shown(waiting) != [], seconds=60)
            assert {name for (name,) in company.shown(waiting)} == {table}
            assert company.shown("select name from analytics.dim_products where product_id = 3") == [
                (f"Beside {table}",)
            ]
            assert company.shown(placed) == []
            somebody.rollback()
            until(lambda: company.shown(placed) == [(user,)], seconds=60)
            assert company.shown(waiting) == []
    assert company.differences() == []
    assert company.shown(failed) == before


@pytest.mark.full
def test_what_waited_for_a_lock_when_a_stream_ended_is_shown_by_the_next_though_nothing_comes(
    company: Company,
) -> None:
    status = f"select status from analytics.fct_orders where order_id = '{order(9)}'"
    with psycopg.connect(company.capture.settings.require("warehouse_dsn")) as somebody:
        somebody.execute(b"lock table analytics.fct_orders in share mode")
        told = len(company.capture.events("orders"))
        company.capture.app(f"update orders set status = 'paid' where id = '{order(9)}'")
        until(lambda: len(company.capture.events("orders")) > told, seconds=60)
        assert company.follow().messages == 1
        assert company.shown(status) == [("pending",)]
    assert company.follow().messages == 0
    assert company.shown(status) == [("paid",)]


def test_every_failpoint_of_the_stream_of_changes_is_killed_at() -> None:
    root = Path(failpoints.__file__).parent
    named = {name for name in failpoints.names(root) if name.startswith(("changes.", "joint."))}
    assert named == {"changes.landed", "joint.before_commit", "joint.committed"}


@pytest.mark.full
def test_a_column_that_the_source_gets_is_in_staging_within_seconds(company: Company) -> None:
    with company.followed() as living:
        company.capture.app(
            "alter table users add column nickname text",
            "update users set nickname = 'Bo' where id = 5",
        )
        until(lambda: (5, "Bo") in company.staged("user_id, nickname"), seconds=60)
        assert not living.done()
        company.capture.app("update users set nickname = 'Jo', country = 'NL' where id = 6")
        until(lambda: (6, "Jo") in company.staged("user_id, nickname"), seconds=60)
        until(lambda: company.differences() == [], seconds=60)
    assert sum(name is not None for _, name in company.staged("user_id, nickname")) == 2


@pytest.mark.full
def test_changes_of_somebody_who_was_erased_say_that_they_are_gone_and_nothing_else(company: Company) -> None:
    services, now = company.services(), datetime.now(UTC)
    someone = Person.new(6).with_emails(["6@x.org"])
    with services.lake, services.ledger() as ledger:
        listed.begin(ledger.connection, services.lake, someone, "asked", now)
        listed.finish(ledger.connection, services.lake, 6, now, [])
        known = {file.path for file in ledger.files("raw_app__users")}
        try:
            company.capture.app(
                "begin",
                "update users set name = 'Known Again', email = 'again@x.org' where id = 6",
                "update users set name = 'Seven', email = 'seven@x.org' where id = 7",
                "commit",
            )
            company.wait_for_user("name", "Seven")
            company.follow()
            files = [file for file in ledger.files("raw_app__users") if file.path not in known]
            with services.lake.duckdb() as session:
                rows = services.lake.read(session, files).project("id, value").fetchall()
        finally:
            ledger.connection.execute("delete from ops.erasure")
    told = {user: bytes(value).decode() for user, value in rows}
    assert ("Known Again" in told[6], "again@x.org" in told[6]) == (False, False)
    assert "Seven" in told[7]
    shown = "select user_id, name, is_deleted from analytics.dim_users where user_id in (6, 7) order by 1"
    assert company.shown(shown) == [(6, None, True), (7, "seven", False)]
    company.capture.app("delete from users where id = 6")
    company.follow()
    assert company.differences() == []
