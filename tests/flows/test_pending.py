"""What somebody's lock keeps from being shown: nothing of it is lost, and nothing is built upon it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows.build.inputs import News, Reader
from flows.progress import Progress
from flows.services import Services
from flows.summary import Summary
from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.flows.test_by_key import FACTS, MODELS, Shop, Step
from tests.flows.warehouses import Warehouses
from transforms import registry


@pytest.fixture
def place(warehouses: Warehouses) -> Iterator[Place]:
    with warehouses.lent(*MODELS) as place:
        yield place


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

    def lands(self, *steps: tuple[int, str, int, int]) -> None:
        """These changes land: order, what, month, quantity."""
        for key, what, month, quantity in steps:
            self.shop.do(Step(key, what, month, quantity, is_cut=False))
        self.landed = self.shop.land(self.services, self.landed)

    def does(self, *steps: tuple[int, str, int, int]) -> None:
        """These changes land, and what is due is built."""
        self.lands(*steps)
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


@pytest.mark.full
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


@pytest.mark.full
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


def _scheduled(services: Services, models: Sequence[str]) -> Summary:
    """A run that builds what is due of these models, in the order and with the waits of every run."""
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.batch import runner
    from flows.schedule import Schedule

    @flow(name="pending", task_runner=runner)
    def run() -> Summary:
        summary = Summary(str(flow_run.id), "pending")
        chosen = [table for table in registry.build_order() if table.name in models]
        with Progress("run", io.StringIO()) as progress:
            Schedule(services, [], chosen, summary, progress).carry_out()
        return summary

    return run()


@pytest.mark.full
def test_what_needs_a_dimension_that_waits_waits_with_it_and_is_named(prefect: None, told: Told) -> None:
    before = _orders(told.place)
    with locked(told.place, "lock table analytics.dim_users in share mode"):
        told.lands((4, "put", 10, 1))
        waits = _scheduled(told.services, MODELS)
        assert _orders(told.place) == before
    assert (waits.failures, waits.skipped) == ([], [f"{FACTS}: they need dim_users, which waits"])
    (line,) = waits.pending
    assert "dim_users (all of it) stays as it was: session" in line
    assert not any(
        table.windows for table in waits.tables.values() if table is not waits.tables["dim_products"]
    )
    assert not Path(told.services.lake.root, "quarantine").exists()
    done = _scheduled(told.services, MODELS)
    assert (done.failures, done.skipped, done.pending) == ([], [], [])
    assert _orders(told.place) == told.shop.expected != before


def test_a_rule_that_what_is_published_breaks_fails_the_run_that_wrote_beside_it(
    prefect: None, told: Told
) -> None:
    """What a difference is written beside is held to Great Expectations at no other moment."""
    with psycopg.connect(told.place.warehouse_dsn) as connection:
        connection.execute("update analytics.fct_orders set quantity = 0 where order_id::text like '%1'")
    told.lands((3, "put", 9, 2))
    done = _scheduled(told.services, MODELS)
    assert len(_orders(told.place)) == 4
    (failure,) = done.failures
    assert failure.startswith("fct_orders: rule between_quantity (accuracy) fails for 1 of 3 rows")
    assert _ask(
        told.place, "select rule, partition, engine, failing_rows from ops.check_result where not passed"
    ) == [("between_quantity", "2025-09", "great_expectations", 1)]
