"""Letters of the APIs and of the application's database: replayed in the form in which their source lands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows import deadletters
from flows.extract import DeadLetter
from flows.redelivery import Outcome, redeliver
from flows.sandbox.apis import stripe_objects as stripe
from tests.flows.extract.parts import World
from tests.flows.modes import without_capture
from tests.flows.streaming.topics import until
from tests.house import Server
from transforms import engine, registry

RECEIVED = datetime.now(UTC) - timedelta(hours=1)
CHARGE = {
    "id": "ch_1",
    "amount": 1250,
    "amount_captured": 1250,
    "amount_refunded": 0,
    "currency": "eur",
    "status": "succeeded",
    "created": 1_762_000_000,
}
ORDER: dict[str, Any] = {
    "id": "00000000-0000-0000-0000-000000000001",
    "user_id": 7,
    "product_id": 3,
    "quantity": 2,
    "unit_price": 5.25,
    "discount_amount": 0,
    "total_amount": 10.50,
    "currency": "EUR",
    "coupon_code": None,
    "status": "paid",
    "created_at": "2025-10-07T12:00:00.123456+02:00",
    "updated_at": "2025-10-07T12:00:00+00:00",
}


@pytest.fixture(autouse=True)
def _read_by_rows() -> Iterator[None]:
    """A letter of a captured table is another matter: its row is mended in the application."""
    with without_capture():
        yield


@pytest.fixture
def world(postgres18: Server, tmp_path: Path) -> World:
    return World.build(postgres18, tmp_path)


def _replay(
    world: World, source: str, entity: str, payload: Any, repaired: Any = None, **more: Any
) -> Outcome:
    """Enter a letter with this payload and replay it."""
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    given = repaired if isinstance(repaired, bytes | None) else json.dumps(repaired).encode()
    place = {"coordinates": text.hex(), "received_at": RECEIVED, **more}
    letter = DeadLetter(source=source, entity=entity, reason="broken", payload=text, **place)
    services = world.services()
    with services.lake, services.warehouse.connect() as connection:
        deadletters.enter(connection, [letter])
        (outcome,) = redeliver(services, [letter.letter_id], "replay", given=given)
        assert deadletters.waiting(connection) == ([letter.letter_id] if outcome.reason else [])
        connection.execute("delete from ops.dead_letter where status = 'waiting'")
    return outcome


def _built(world: World, *models: str) -> list[tuple[Any, ...]]:
    """Key and refunded amount of the last of these models, each computed of what is landed and the others."""
    services = world.services()
    with services.lake, services.ledger() as ledger, services.lake.duckdb() as connection:
        for name in models:
            sources = {
                upstream: connection.table(upstream)
                if upstream in models
                else services.lake.read(connection, ledger.files(upstream))
                for upstream in registry.table(name).upstreams
            }
            engine.compute(name, connection, sources).rows.to_table(name)
        return connection.sql(f"select payment_id, amount_refunded_minor from {models[-1]}").fetchall()


def test_an_object_of_an_api_comes_back_as_the_text_it_is(world: World) -> None:
    assert _replay(world, "stripe", "charges", {"amount": 1}).reason == "no usable 'id'"
    text = json.dumps(CHARGE, indent=1).encode()

    outcome = _replay(world, "stripe", "charges", {"amount": 2}, text + b"\n")

    assert (outcome.reason, outcome.table, outcome.window) == ("", "stg_stripe__charges", "2025-11")
    rows = world.raw(registry.entity("raw_stripe__charges"), "select id, object::varchar, _seq from raw")
    assert rows == [("ch_1", text.decode(), 0)]
    assert world.warehouse("select windows from ops.ledger where kind = 'land'") == [({"2025-11-01": 1},)]


def test_of_two_replays_at_once_the_second_finds_the_record_landed(world: World) -> None:
    letter = DeadLetter("stripe", "charges", "broken", b"{", RECEIVED, coordinates="x")
    services = world.services()
    with services.warehouse.connect() as connection:
        deadletters.enter(connection, [letter])

    def replayed(run_id: str) -> bool:
        own = world.services()
        with own.lake:
            (outcome,) = redeliver(own, [letter.letter_id], run_id, given=json.dumps(CHARGE).encode())
        assert not outcome.reason
        return outcome.was_done

    waiting = (
        "select count(*) from pg_locks where locktype = 'advisory' and not granted "
        "and database = (select oid from pg_database where datname = current_database())"
    )
    with ThreadPoolExecutor(2) as pool:
        with services.ledger() as ledger, ledger.locked("land", "raw_stripe__charges"):
            both = [pool.submit(replayed, run_id) for run_id in ("first", "second")]
            until(lambda: world.warehouse(waiting) == [(2,)])
        assert sorted(one.result(60) for one in both) == [False, True]
    rows = world.raw(registry.entity("raw_stripe__charges"), "select count(*), count(distinct id) from raw")
    assert rows == [(1, 1)]


def test_what_the_source_sent_again_since_is_not_overwritten_by_an_older_letter(world: World) -> None:
    assert not _replay(world, "stripe", "charges", b"{", CHARGE).reason
    late = _replay(world, "stripe", "charges", b"[", {**CHARGE, "status": "pending"})
    assert late.reason == "its source has sent the record again since, and what it sent counts"
    newer = datetime.now(UTC) + timedelta(seconds=1)
    assert not _replay(
        world, "stripe", "charges", b"]", {**CHARGE, "status": "failed"}, received_at=newer
    ).reason


def test_a_letter_of_a_list_that_is_replayed_late_does_not_undo_what_an_event_told_meanwhile(
    world: World,
) -> None:
    received = datetime.now(UTC) - timedelta(days=3)
    told = {**CHARGE, "object": "charge", "amount_refunded": 1250, "refunded": True}
    event = stripe.event(
        id="evt_1", type="charge.refunded", created=int(received.timestamp()) + 86_400, object=told
    )

    assert not _replay(world, "stripe", "events", b"{", event).reason
    assert not _replay(world, "stripe", "charges", b"{", CHARGE, received_at=received).reason

    assert world.raw(registry.entity("raw_stripe__charges"), "select window_end from raw") == [(received,)]
    assert _built(world, "stg_stripe__events", "stg_stripe__charges") == [("ch_1", 1250)]


def test_an_object_that_belongs_to_no_partition_stays_a_letter_and_stops_no_build(world: World) -> None:
    outcome = _replay(world, "stripe", "charges", b"{", {**CHARGE, "created": "soon"})
    assert outcome.reason == "stg_stripe__charges finds no created_at in it"
    assert world.warehouse("select count(*) from ops.ledger") == [(0,)]


def test_a_row_of_the_database_comes_back_with_its_declared_types(world: World) -> None:
    outcome = _replay(world, "app", "orders", {**ORDER, "total_amount": "NaN"}, ORDER)

    assert (outcome.reason, outcome.window) == ("", "2025-10")
    (row,) = world.raw(
        registry.entity("raw_app__orders"),
        "select total_amount, coupon_code, epoch_us(created_at), _op, _batch_id like 'replay-%' from raw",
    )
    at = datetime.fromisoformat(ORDER["created_at"])
    micros = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert row == (Decimal("10.50"), None, micros, "r", True)
    assert world.warehouse("select windows from ops.ledger where kind = 'land'") == [({"2025-10": 1},)]


def test_nested_values_of_a_row_come_back_exactly(world: World) -> None:
    entity = registry.entity("raw_app__products")
    values = {column.name: None for column in entity.columns} | {
        "id": 1,
        "updated_at": "2025-10-07T12:00:00Z",
        "created_at": "2025-10-07T12:00:00Z",
    }
    text = json.dumps({**values, "tags": ["ä", None, 'q"'], "attributes": 0}).replace(
        '"attributes": 0', '"attributes": {"n": 12345678901234567890.50, "k": [true]}'
    )
    outcome = _replay(world, "app", "products", b"{", text.encode())
    assert outcome.reason == ""
    ((tags, attributes),) = world.raw(entity, "select tags, attributes::varchar from raw")
    assert tags == ["ä", None, 'q"']
    assert attributes == '{"n": 12345678901234567890.50, "k": [true]}'


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"total_amount": "NaN"}, "total_amount is no decimal"),
        ({"total_amount": 1.005}, "total_amount has more digits"),
        ({"user_id": 2**63}, "user_id is no bigint"),
        ({"user_id": 1.5}, "user_id is no bigint"),
        ({"user_id": [1]}, "user_id is no bigint"),
        ({"id": None}, "id is null"),
        ({"updated_at": None}, "updated_at is null"),
        ({"created_at": None}, "created_at is null"),
        ({"created_at": "infinity"}, "created_at is outside the years 1 to 9999"),
        ({"created_at": "10000-01-01 00:00:00+00"}, "created_at is outside the years 1 to 9999"),
        ({"created_at": "yesterday"}, "created_at is no timestamp"),
    ],
)
def test_a_value_that_no_column_holds_is_told(world: World, change: dict[str, Any], reason: str) -> None:
    assert _replay(world, "app", "orders", {**ORDER, **change}).reason.lower().startswith(reason)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "it is not valid JSON"),
        (b"[1]", "it is no JSON object"),
        (b"{}", "it has no column id"),
        (b"\xff", "it is not valid JSON"),
        (b'{"id": NaN}', "it is not valid JSON"),
    ],
)
def test_bytes_that_are_no_row_are_told(world: World, payload: bytes, reason: str) -> None:
    assert _replay(world, "app", "orders", payload).reason.startswith(reason)


def test_a_table_that_is_read_whole_is_mended_at_its_source(world: World) -> None:
    assert (
        "mend the row in the application's database" in _replay(world, "app", "categories", {"id": 1}).reason
    )


def test_a_letter_of_an_entity_that_is_gone_says_so(world: World) -> None:
    assert _replay(world, "stripe", "gone", b"{}").reason.startswith("stripe.gone is not declared")
