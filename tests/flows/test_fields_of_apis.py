"""A field that an API stops sending stops its table; one that it need not send does not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

import quality
from flows.build.guard import CheckFailed
from flows.sandbox.apis import sendgrid_objects as sendgrid
from flows.sandbox.apis import stripe_objects as stripe
from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.flows.landings import enter_object
from tests.flows.warehouses import Warehouses
from transforms import engine, registry

MONEY: Mapping[str, Any] = {"amount": 1000, "currency": "eur", "created": 1_761_000_000}
CHARGE = stripe.charge(id="ch_1", amount_refunded=300, **MONEY)
OBJECTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "stg_stripe__charges": ("raw_stripe__charges", CHARGE),
    "stg_stripe__refunds": ("raw_stripe__refunds", stripe.refund(id="re_1", charge="ch_1", **MONEY)),
    "stg_stripe__disputes": ("raw_stripe__disputes", stripe.dispute(id="dp_1", charge="ch_1", **MONEY)),
    "stg_stripe__balance_transactions": (
        "raw_stripe__balance_transactions",
        stripe.balance_transaction(id="txn_1", source="ch_1", fee=30, **MONEY),
    ),
    "stg_sendgrid__messages": (
        "raw_sendgrid__messages",
        sendgrid.message(
            msg_id="m1", to_email="a@x.org", subject="Hi", last_event_time="2025-10-07T12:00:00Z"
        ),
    ),
}
SENT: Mapping[str, str] = {
    "stg_stripe__charges": "amount amount_captured amount_refunded currency status disputed refunded created",
    "stg_stripe__refunds": "amount currency status charge created",
    "stg_stripe__disputes": "amount currency status charge reason created",
    "stg_stripe__balance_transactions": (
        "amount fee fee_details net currency type status available_on created"
    ),
    "stg_sendgrid__messages": "to_email status opens_count clicks_count last_event_time",
}
"""Fields of each object that its API's description says are always there."""
MODELS = (
    *("dim_users", "stg_app__orders", "stg_stripe__charges", "stg_stripe__balance_transactions"),
    *("stg_stripe__disputes", "fct_payments"),
)


def _refused(name: str, values: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """Of objects under their ids: the rules that stop the staging table which reads one of them."""
    table, (raw, _) = registry.table(name), OBJECTS[name]
    with engine.connect(threads=1) as connection:
        connection.execute(
            "create table landed as select id, object::json as object, now() as window_start, "
            "now() as window_end, 'b1' as _batch_id, now() as _landed_at, 0::bigint as _seq "
            "from (select unnest(?) as id, unnest(?) as object)",
            [[*values], [json.dumps(value) for value in values.values()]],
        )
        inputs = {
            upstream: connection.table("landed")
            if upstream == raw
            else engine.empty(registry.table(upstream).columns, connection)
            for upstream in table.upstreams
        }
        engine.compute(table, connection, inputs).rows.to_table("content")
        (key,) = table.key
        return {
            one: {
                result.rule
                for result in quality.blocking(
                    quality.check(
                        connection, table, table.expect, f"(select * from content where {key} = '{one}')"
                    )
                )
            }
            for one in values
        }


@pytest.mark.parametrize("name", SENT)
def test_an_object_without_a_field_that_is_always_sent_stops_its_table(name: str) -> None:
    _, whole = OBJECTS[name]
    lacking = {field: {key: whole[key] for key in whole if key != field} for field in SENT[name].split()}

    stopped = _refused(name, lacking)

    assert [field for field, rules in stopped.items() if not any("not_null" in rule for rule in rules)] == []


@pytest.mark.parametrize("name", SENT)
def test_an_object_with_no_more_than_what_is_always_sent_stops_nothing(name: str) -> None:
    _, whole = OBJECTS[name]
    assert _refused(name, {"x": {field: whole[field] for field in SENT[name].split()}}) == {"x": set()}


@pytest.fixture
def place(warehouses: Warehouses) -> Iterator[Place]:
    with warehouses.lent(*MODELS) as place:
        yield place


@pytest.mark.full
def test_a_charge_that_no_longer_says_what_was_refunded_is_kept_and_what_is_published_stays(
    place: Place,
) -> None:
    services, entity = kill_child.services(place), registry.entity("raw_stripe__charges")
    published = "select payment_id, amount_refunded_minor from analytics.fct_payments"
    with services.lake, psycopg.connect(place.warehouse_dsn, autocommit=True) as connection:
        enter_object(services, entity, 1, CHARGE)
        kill_child.build_all(services, place, "run-1")
        assert connection.execute(published).fetchall() == [("ch_1", 300)]

        changed = {name: value for name, value in CHARGE.items() if name != "amount_refunded"}
        enter_object(services, entity, 2, changed)
        with pytest.raises(CheckFailed, match="not_null_amount_refunded_minor failed for 1 rows"):
            kill_child.build_all(services, place, "run-2")

        assert connection.execute(published).fetchall() == [("ch_1", 300)]
        (file,) = (services.lake.root / "quarantine" / "stg_stripe__charges").glob("*.parquet")
        assert file.stat().st_size > 0

        enter_object(services, entity, 3, {**CHARGE, "amount_refunded": 1000})
        kill_child.build_all(services, place, "run-3")
        assert connection.execute(published).fetchall() == [("ch_1", 1000)]
