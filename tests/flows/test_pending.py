"""What somebody's lock keeps from being shown: nothing of it is lost, and nothing is built upon it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from flows.build.inputs import News, Reader
from flows.services import Services
from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.flows.test_by_key import FACTS, MODELS, Shop, Step
from tests.flows.warehouses import Warehouses
from tests.house import Server

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def warehouses(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> Warehouses:
    return Warehouses.build(postgres18, tmp_path_factory.mktemp("pending"), NOW)


@pytest.fixture
def place(warehouses: Warehouses) -> Iterator[Place]:
    place = warehouses.place(*MODELS)
    yield place
    warehouses.drop(place)


@contextmanager
def locked(place: Place, statement: str) -> Iterator[None]:
    """Another session has done this and does not commit while the block lasts."""
    with psycopg.connect(place.warehouse_dsn, application_name="somebody") as connection:
        connection.execute(statement.encode())
        yield
        connection.rollback()


def _ask(place: Place, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(place.warehouse_dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def _orders(place: Place) -> list[tuple[Any, ...]]:
    return _ask(
        place,
        "select order_id::text, to_char(created_at at time zone 'UTC', 'YYYY-MM'), quantity, currency "
        "from analytics.fct_orders order by 1",
    )


class Told:
    """A shop, and how much of what it did has landed."""

    def __init__(self, services: Services, place: Place) -> None:
        self.services, self.place = services, place
        self.shop, self.landed, self.runs = Shop(is_captured=True), 0, 0

    def does(self, *steps: tuple[int, str, int, int]) -> None:
        """These changes (order, what, month, quantity) land, and what is due is built."""
        for key, what, month, quantity in steps:
            self.shop.do(Step(key, what, month, quantity, is_cut=False))
        self.landed = self.shop.land(self.services, self.landed)
        self.run()

    def run(self) -> None:
        """What is due is built, after nothing has come."""
        self.runs += 1
        kill_child.build_all(self.services, self.place, f"run-{self.runs}")


@pytest.fixture
def told(place: Place) -> Iterator[Told]:
    services = kill_child.services(place)
    with services.lake, kill_child.without_audit():
        told = Told(services, place)
        told.does((0, "put", 8, 1), (1, "put", 9, 1), (2, "put", 9, 1))
        yield told


WAITING = "select table_name, partition from ops.pending_publish order by 1, 2"
LOCKS = {
    "an index that is being built": "lock table analytics.fct_orders in share mode",
    "a row that somebody holds": "select from analytics.fct_orders for update",
}


@pytest.mark.parametrize("statement", LOCKS.values(), ids=LOCKS)
def test_changes_that_a_lock_keeps_from_being_shown_are_shown_by_the_next_run(
    told: Told, statement: str
) -> None:
    before = told.shop.expected
    with locked(told.place, statement):
        told.does((0, "put", 8, 2), (1, "delete", 9, 1))
        assert _orders(told.place) == before
        assert _ask(told.place, WAITING) == [(FACTS, "2025-08"), (FACTS, "2025-09")]
    told.run()
    assert _orders(told.place) == told.shop.expected != before
    assert _ask(told.place, "select * from ops.pending_publish") == []


def test_what_comes_while_a_lock_is_in_the_way_is_shown_with_what_waited(told: Told) -> None:
    with locked(told.place, LOCKS["a row that somebody holds"]):
        told.does((0, "put", 8, 2))
        told.does((1, "put", 9, 3))
    told.does((3, "put", 10, 1))
    assert _orders(told.place) == told.shop.expected
    assert _ask(told.place, "select * from ops.pending_publish") == []


def test_a_change_that_was_taken_back_while_it_waited_waits_no_longer(told: Told) -> None:
    with locked(told.place, LOCKS["an index that is being built"]):
        told.does((3, "put", 10, 1))
        assert _ask(told.place, WAITING) == [(FACTS, "2025-10")]
        told.does((3, "delete", 10, 1))
    assert _orders(told.place) == told.shop.expected
    assert _ask(told.place, "select * from ops.pending_publish") == []


def test_what_was_built_anew_upstream_and_waits_is_shown_by_the_next_run(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    news = Reader.news

    def only_windows(reader: Reader, name: str, since: str) -> News | None:
        found = news(reader, name, since)
        return found and News((), found.windows, found.windows)

    with locked(told.place, LOCKS["a row that somebody holds"]), monkeypatch.context() as patched:
        patched.setattr(Reader, "news", only_windows)
        told.does((0, "put", 8, 2))
        assert _ask(told.place, WAITING) == [(FACTS, "2025-08")]
    told.run()
    assert _orders(told.place) == told.shop.expected
    assert _ask(told.place, "select * from ops.pending_publish") == []
