"""A table that is to be read otherwise than before: nothing of it is lost, left behind or doubled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from flows.extract import SourceRefused
from flows.extract.waiting import waiting
from tests.flows.extract.parts import ORDERS, ORDERS_COLUMNS, ORDERS_DDL, World, orders_of
from tests.flows.extract.sources import source_server
from tests.house import Server
from transforms.contract import Partition
from transforms.entities import Postgres, SourceEntity

DAY = timedelta(days=1)


def read(mode: Any, cursor: str | None = None, key: tuple[str, ...] = ("id",), **more: Any) -> SourceEntity:
    """The orders, read so."""
    return replace(ORDERS, read=Postgres("orders", mode, cursor=cursor, **more), key=key)


BY_UPDATE = read("incremental", "updated_at", deletes_every=DAY)
BY_CREATION = read("incremental", "created_at", deletes_every=DAY)
BY_NUMBER = read("incremental", "id", deletes_every=DAY)
WHOLE = read("snapshot")
WAYS = {"updated_at": BY_UPDATE, "created_at": BY_CREATION, "id": BY_NUMBER, "snapshot": WHOLE}


@pytest.fixture
def warehouse(postgres18: Server) -> str:
    return postgres18.database()


@pytest.fixture
def world(postgres18: Server, tmp_path: Path) -> World:
    return World.build(postgres18, tmp_path)


@pytest.mark.parametrize(("first", "then"), permutations(WAYS, 2))
def test_what_one_way_of_reading_has_not_seen_is_found_by_the_next(
    shop: World, first: str, then: str
) -> None:
    shop.land(WAYS[first])
    shop.app("insert into orders values (5000, 1.00, 'EUR')")
    shop.land(WAYS[first])
    # Behind the mark of either column, and with nothing that a mark alone would show.
    shop.app(
        "update orders set amount = 9.99 where id = 700",
        "update orders set amount = 8.88, updated_at = now() - interval '1 day' where id = 701",
        "delete from orders where id in (702, 5000)",
        "insert into orders values (-1, 2.00, 'EUR', '2025-01-01', '2025-01-01')",
    )

    landing = shop.land(WAYS[then])

    assert landing is not None
    assert landing.rows == (1002 if then == "snapshot" else 5), (
        "what differs; of a snapshot the whole, and what is gone"
    )
    assert len(landing.warnings) == 1
    assert landing.warnings[0].endswith(" before; so all of it was read, and compared with what was landed.")
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)
    assert shop.land(WAYS[then]) is None, "it is told once, and then it is read as ever"


@pytest.mark.parametrize("wide", [("id", "currency"), ("id",)])
@pytest.mark.parametrize("way", ["updated_at", "snapshot"])
def test_rows_are_told_apart_by_the_key_that_is_declared_now(
    shop: World, way: str, wide: tuple[str, ...]
) -> None:
    narrow = ("id",) if wide != ("id",) else ("id", "currency")
    before, after = replace(WAYS[way], key=narrow), replace(WAYS[way], key=wide)
    assert isinstance(before.read, Postgres)
    every = replace(before, read=replace(before.read, deletes_every=timedelta(0)))
    shop.land(every)
    shop.app("update orders set currency = 'CHF', updated_at = now() where id = 7")
    shop.app("delete from orders where id = 8")
    shop.land(every)
    shop.app("delete from orders where id = 9")

    landing = shop.land(after)

    assert landing is not None
    assert landing.warnings == (
        f"app.orders: its key was {', '.join(narrow)} before; so all of it was read, and compared with what "
        "was landed.",
    )
    assert shop.live(after, ORDERS_COLUMNS) == orders_of(shop)
    assert shop.land(after) is None


def test_a_wider_lookback_finds_what_came_late_and_lands_nothing_twice(shop: World) -> None:
    narrow = read("incremental", "updated_at", deletes_every=None, lookback=timedelta(0))
    shop.land(narrow)
    for number in range(2):
        shop.app(f"insert into orders values ({5000 + number}, 1.00, 'EUR')")
        assert shop.land_rows(narrow) == 1
    shop.app("update orders set amount = 8.88, updated_at = now() - interval '1 day' where id = 700")
    assert shop.land(narrow) is None

    wide = read("incremental", "updated_at", deletes_every=None, lookback=7 * DAY)
    assert shop.land_rows(wide) == 1
    assert shop.land(wide) is None
    assert shop.land(narrow) is None, "a shorter one hides nothing"
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)


def test_a_table_in_the_place_of_another_is_compared_whole(shop: World) -> None:
    shop.land(BY_UPDATE)
    # As from a backup: a row as it was, one that had been deleted, and one lost.
    shop.app(
        "create table restored (like orders including all)",
        "insert into restored select * from orders where id <> 8",
        "update restored set amount = 1.11 where id = 700",
        "drop table orders",
        "alter table restored rename to orders",
    )

    landing = shop.land(BY_UPDATE)

    assert landing is not None
    assert landing.rows == 2
    assert landing.warnings == (
        "app.orders: its table in the database is another one than before; so all of it was read, and "
        "compared with what was landed.",
    )
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)
    assert shop.land(BY_UPDATE) is None


def test_a_snapshot_of_a_table_that_is_made_anew_each_time_lands_when_it_differs(shop: World) -> None:
    shop.land(WHOLE)
    shop.app("create table other (like orders including all)", "insert into other select * from orders")
    shop.app("drop table orders", "alter table other rename to orders")
    assert shop.land(WHOLE) is None


def test_a_server_that_was_restored_has_its_rows_compared_with_what_was_landed_of_later(
    warehouse: str, tmp_path: Path
) -> None:
    with source_server(18) as server:
        world = World(server.dsn, warehouse, tmp_path / "lake")
        world.app(ORDERS_DDL, "insert into orders select n, 1.00, 'EUR' from generate_series(1, 100) n")
        server.back_up()
        world.land(BY_UPDATE)
        world.app(
            "update orders set amount = 2.00, updated_at = now() where id = 7",
            "insert into orders values (5000, 3.00, 'EUR')",
            "delete from orders where id = 8",
        )
        world.land(BY_UPDATE)

        server.restore()
        landing = world.land(BY_UPDATE)

        assert landing is not None
        assert landing.warnings == (
            "app.orders: its server was restored or replaced since; so all of it was read, and compared with "
            "what was landed.",
        )
        assert world.live(ORDERS, ORDERS_COLUMNS) == orders_of(world)
        assert world.land(BY_UPDATE) is None


def test_windows_by_another_column_are_refused_since_no_table_would_find_what_was_landed(shop: World) -> None:
    def by(column: str | None) -> SourceEntity:
        return replace(BY_UPDATE, partition=Partition(column, "month") if column else None)

    shop.land(by("created_at"))
    shop.app("insert into orders values (5000, 1.00, 'EUR')")
    for _ in range(2):
        with pytest.raises(
            SourceRefused, match=r'Declare Partition\("created_at", …\) for it again, or give it'
        ):
            shop.land(by("updated_at"))
        # Without windows tables read all of it; what they were told by before is not forgotten.
        shop.land(by(None))
    shop.land(replace(by("created_at"), partition=Partition("created_at", "day")))
    assert shop.live(ORDERS, ORDERS_COLUMNS) == orders_of(shop)


def test_what_waits_is_told_only_by_reading_where_all_is_to_be_compared(shop: World) -> None:
    def told(entity: SourceEntity) -> dict[str, int] | None:
        services = shop.services()
        with services.ledger() as ledger:
            return waiting(entity, ledger.positions(entity.table).positions, services.settings)

    shop.land(BY_UPDATE)
    assert told(BY_UPDATE) == {}
    assert [told(BY_CREATION), told(BY_NUMBER)] == [None, None]
    shop.land(BY_NUMBER)
    assert told(BY_NUMBER) == {}
    shop.land(WHOLE)
    assert told(BY_UPDATE) is None
