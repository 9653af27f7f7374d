"""A database that can't be read: why, when it is asked again, and what it keeps for who is gone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flows.extract import SourceError, SourceRefused, source_locks
from flows.extract.application import answering
from flows.extract.postgres_session import Snapshot
from tests.flows.extract.parts import ORDERS, ORDERS_COLUMNS, World, orders_of
from transforms.entities import Postgres


def test_the_application_finds_within_a_minute_that_who_read_it_has_vanished(shop: World) -> None:
    """Else what it keeps for an open snapshot, and the lock on the table, would last for hours."""
    asked = sql.SQL("select current_setting('tcp_keepalives_idle') as idle")
    with Snapshot(shop.app_dsn, "app.orders", sql.Identifier("orders")) as snapshot:
        assert snapshot.rows(asked) == [("30",)]
        assert [batch.to_pylist() for batch in snapshot.stream(asked)] == [[{"idle": "30"}]]


def test_a_table_that_is_locked_for_long_stops_with_who_holds_it_and_is_read_once_it_is_free(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_locks, "SECONDS", 1)
    with psycopg.connect(shop.app_dsn, application_name="migration") as altering:
        altering.execute("alter table orders add column note text")
        holder = (
            rf"lock, held by session {altering.info.backend_pid} of \w+ \(migration\), idle in transaction"
        )
        with pytest.raises(SourceError, match=f'"public"."orders" at .* {holder}'):
            shop.land(ORDERS)
        altering.rollback()
    assert shop.land(ORDERS) is not None
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)


def test_no_password_is_told_when_the_database_can_not_be_reached(shop: World) -> None:
    shop.app_dsn = "postgresql://bob:s3cr3t-canary@127.0.0.1:1/app"
    with pytest.raises(SourceError) as caught:
        shop.land(ORDERS)
    assert "s3cr3t" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_database_that_lets_nobody_in_is_not_asked_again(shop: World) -> None:
    given = shop.app_dsn
    for change, said in [
        ({"user": "nobody", "password": "unknown"}, "password authentication failed|does not exist"),
        ({"dbname": "nothing"}, 'database "nothing" does not exist'),
    ]:
        shop.app_dsn = make_conninfo(given, **change)
        with pytest.raises(SourceRefused, match=said):
            shop.land(ORDERS)
        with pytest.raises(SourceRefused, match=said), answering(shop.services().settings) as dsn:
            psycopg.connect(dsn)


def test_a_database_of_which_one_host_is_away_may_be_there_again(shop: World) -> None:
    port = conninfo_to_dict(shop.app_dsn)["port"]
    shop.app_dsn = make_conninfo(
        shop.app_dsn, host="127.0.0.1,127.0.0.1", port=f"{port},1", hostaddr="", dbname="nothing"
    )
    with pytest.raises(SourceError) as caught:
        shop.land(ORDERS)
    assert not isinstance(caught.value, SourceRefused)


@pytest.fixture
def reader(shop: World) -> Iterator[str]:
    """A role that may read the orders; it is gone afterwards."""
    name, owner = f"t_reader_{secrets.token_hex(4)}", shop.app_dsn
    shop.app(f"create role {name} login password 'x'", f"grant select on orders to {name}")
    yield name
    shop.app_dsn = owner
    shop.app(f"drop owned by {name}", f"drop role {name}")


@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_rows_that_a_policy_hides_from_the_role_are_not_taken_for_deleted(
    shop: World, reader: str, mode: Literal["incremental", "snapshot"]
) -> None:
    read = Postgres("orders", mode, cursor="updated_at")
    orders = replace(ORDERS, read=read, control=None)
    owner, shop.app_dsn = shop.app_dsn, make_conninfo(shop.app_dsn, user=reader, password="x")
    assert shop.land_rows(orders) == 1000
    shop.app_dsn, limited = owner, shop.app_dsn
    shop.app(
        "alter table orders enable row level security",
        f"create policy few on orders to {reader} using (id < 10)",
    )

    shop.app_dsn = limited
    with pytest.raises(SourceRefused, match=r"a row-level security policy hides rows of .*bypassrls"):
        shop.land(orders)

    # The rows that are meant, as a view of somebody who sees all of them.
    shop.app_dsn = owner
    shop.app("create view few as select * from orders where id > 10", f"grant select on few to {reader}")
    shop.app_dsn = limited
    shop.land(replace(orders, read=replace(read, table="few")))
    assert shop.live(orders, ["id"]) == [(number,) for number in range(11, 1001)]


@pytest.mark.parametrize(
    ("shut", "opened", "said"),
    [
        (
            "alter role {} nologin",
            "alter role {} login",
            "let in there again, or ANALYTICS_APP_DSN has the one of now",
        ),
        (
            "revoke select on orders from {}",
            "grant select on orders to {}",
            'when {} has SELECT on "public"."orders"',
        ),
    ],
    ids=["login", "right"],
)
def test_what_was_taken_from_the_reader_between_two_reads_is_named_and_nothing_is_lost(
    shop: World, reader: str, shut: str, opened: str, said: str
) -> None:
    orders = replace(ORDERS, control=None)
    owner, limited = shop.app_dsn, make_conninfo(shop.app_dsn, user=reader, password="x")

    def by_the_owner(*statements: str) -> None:
        shop.app_dsn = owner
        shop.app(*statements)
        shop.app_dsn = limited

    shop.app_dsn = limited
    assert shop.land_rows(orders) == 1000
    by_the_owner(shut.format(reader), "update orders set updated_at = now() where id <= 10")
    with pytest.raises(SourceRefused, match=said.format(reader)):
        shop.land(orders)
    by_the_owner(opened.format(reader))
    assert shop.land_rows(orders) == 10
    shop.app_dsn = owner
    assert shop.live(orders, ORDERS_COLUMNS) == orders_of(shop)
