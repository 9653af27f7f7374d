"""Windows that are due together are read and checked together: neither what they hold nor whether it may be
shown depends on it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from flows.sandbox.apis import stripe_objects as stripe
from flows.services import Services
from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.flows.landings import enter_object
from tests.flows.test_by_key import Shop, Step
from tests.flows.test_properties import TOPICS, Sent, land
from tests.flows.warehouses import Warehouses
from transforms import registry

FACTS = ("fct_payments", "fct_refunds", "mart_revenue_reconciliation")
MODELS = (
    *("stg_app__orders", "stg_app__payments", "dim_date", "dim_users", "dim_products", "dim_currencies"),
    *("stg_stripe__charges", "stg_stripe__refunds", "stg_stripe__balance_transactions"),
    *("stg_stripe__disputes", "fct_orders", *FACTS),
)
ORDER = "00000000-0000-4000-8000-000000000000"


def test_what_is_further_away_than_the_lookback_is_the_same_whichever_months_are_due(
    warehouses: Warehouses,
) -> None:
    """An order of February is charged in August, by a charge of January that is given back in October."""
    with warehouses.lent(*MODELS) as place:
        services, shop = kill_child.services(place), Shop()
        with services.lake:
            shop.do(Step(0, "put", 2, 2, is_cut=False))
            shop.land(services, 0)
            _charge(services, 0, "ch_1", _at(8), ORDER)
            _charge(services, 1, "ch_2", _at(1, 2), ORDER)
            _give_back(services, 0, "re_1", "ch_2", 10)
            _movement(services, 0, "ch_2", 10)
            kill_child.build_all(services, place, "all at once")
            before = _published(place)
            assert _counted(place) == (2, 2)

            _charge(services, 2, "ch_3", _at(8, 21))
            _charge(services, 3, "ch_4", _at(10, 21))
            kill_child.build_all(services, place, "two months")

            after = _published(place)
            for table in FACTS:
                assert set(before[table]) - set(after[table]) == set(), table
            assert _counted(place) == (4, 4)
            assert [kill_child.rebuilt(services, table) for table in FACTS] == [[], [], []]


EVENTS = (*(f"stg_events__{topic}" for topic in TOPICS), "dim_users", "fct_events")


@pytest.mark.parametrize(
    "landings",
    [
        [
            [(1, 20, 2, "user_events")],
            [(1, 0, 1, "user_events")],
            [(2, 20, 0, "user_events"), (3, 0, 0, "user_events")],
        ],
        [[(1, 20, 2, "user_events"), (1, 0, 1, "user_events")]],
        [[(1, 20, 2, "user_events"), (1, 0, 1, "clicks")]],
    ],
    ids=["in one topic", "in one landing", "in two topics"],
)
def test_copies_that_nobody_looks_for_stop_nothing(
    warehouses: Warehouses, landings: list[list[tuple[int, int, int, str]]]
) -> None:
    """An event is sent again after more days than the lookback has: both stand."""
    with warehouses.lent(*EVENTS) as place:
        services = kill_child.services(place)
        with services.lake:
            for number, landing in enumerate(landings):
                sent = [Sent(0, part, event, day, 43_200, 1, topic) for event, day, part, topic in landing]
                land(services, number, list(enumerate(sent, 10 * number)))
                kill_child.build_all(services, place, f"run-{number}")
            assert kill_child.rebuilt(services, "stg_events__user_events") == []
            assert kill_child.rebuilt(services, "fct_events") == []
            with psycopg.connect(place.warehouse_dsn) as connection:
                copies = connection.execute(
                    "select event_time::date::text from analytics.fct_events "
                    "where right(event_id::text, 1) = '1' order by 1"
                ).fetchall()
    assert copies == [("2025-10-14",), ("2025-11-03",)]


def _at(month: int, day: int = 20) -> int:
    return int(datetime(2025, month, day, 12, tzinfo=UTC).timestamp())


def _enter(services: Services, entity: str, number: int, value: dict[str, Any]) -> None:
    enter_object(services, registry.entity(f"raw_stripe__{entity}"), number, value)


def _charge(services: Services, number: int, name: str, created: int, order: str | None = None) -> None:
    metadata = {"order_id": order} if order else None
    charge = stripe.charge(id=name, amount=400, currency="eur", created=created, metadata=metadata)
    _enter(services, "charges", number, charge)


def _give_back(services: Services, number: int, name: str, charge: str, month: int) -> None:
    refund = stripe.refund(id=name, charge=charge, amount=100, currency="eur", created=_at(month))
    _enter(services, "refunds", number, refund)


def _movement(services: Services, number: int, charge: str, month: int) -> None:
    movement = stripe.balance_transaction(
        id="txn_1", source=charge, fee=30, amount=400, currency="eur", created=_at(month)
    )
    _enter(services, "balance_transactions", number, movement)


def _published(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(place.warehouse_dsn) as connection:
        return {
            table: connection.execute(f"select * from analytics.{table}".encode()).fetchall()
            for table in FACTS
        }


def _counted(place: Place) -> tuple[int, int]:
    """Charges, and how often the reconciliation counts one."""
    with psycopg.connect(place.warehouse_dsn) as connection:
        (found,) = connection.execute(
            "select (select count(*) from analytics.fct_payments), "
            "(select sum(stripe_payments)::int from analytics.mart_revenue_reconciliation)"
        ).fetchall()
    return found
