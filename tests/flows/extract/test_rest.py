"""The REST protocol on real HTTP: what arrives, once, whatever happens between two pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.extract import DeadLetter, Extract
from flows.extract.http import RestError
from flows.extract.rest import SCHEMA, read
from flows.sandbox.apis import sendgrid_objects, stripe_objects
from flows.sandbox.apis.actions import create_charge, refund_charge
from transforms.entities import Rest, SourceEntity
from transforms.sources import sendgrid, stripe

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
SECOND = int(NOW.timestamp())
ENTITIES = {entity.table: entity for entity in stripe.ENTITIES + sendgrid.ENTITIES}
CHARGES = ENTITIES["raw_stripe__charges"]


def charge(number: int, created: int | None = None, **fields: Any) -> dict[str, Any]:
    """A charge, one a minute before now unless said otherwise."""
    moment = SECOND - 60 * number - 60 if created is None else created
    return stripe_objects.charge(id=f"ch_{number:05d}", amount=100, currency="eur", created=moment, **fields)


def drain(extract: Extract) -> list[dict[str, Any]]:
    """Rows of a read, in order."""
    rows: list[dict[str, Any]] = []
    for batch in extract.batches:
        assert batch.schema.equals(SCHEMA)
        rows.extend(batch.to_pylist())
    return rows


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def everything(apis: Any, entity: SourceEntity, position: Mapping[str, Any] | None = None) -> Extract:
    return read(entity, apis.connection(entity.source), position, NOW)


def test_every_object_of_a_long_list_arrives_once_as_the_text_it_was(apis: Any) -> None:
    apis.store.put("charges", [charge(number) for number in range(250)])

    extract = everything(apis, CHARGES)
    rows = drain(extract)

    assert ids(rows) == [f"ch_{number:05d}" for number in range(250)]
    assert json.loads(rows[7]["object"]) == apis.store.get("charges", "ch_00007")
    assert {row["window_end"] for row in rows} == {NOW}
    assert extract.windows == {"2025-11-03": 250}
    assert extract.positions["until"] == NOW.isoformat()


def test_numbers_keep_every_digit_they_were_sent_with(apis: Any) -> None:
    text = '{"id":"ch_x","created":1,  "amount":100000000000000000000000000001, "rate":1.10}'
    apis.store.put("charges", [charge(1)])
    apis.fault("bad_record", record=text)

    rows = drain(everything(apis, CHARGES))

    assert rows[0]["object"] == text


def test_an_object_created_between_two_pages_arrives_with_the_next_read(apis: Any) -> None:
    apis.store.put("charges", [charge(number) for number in range(150)])
    # Created within the window, but newer than the page that was already given.
    apis.fault("put", list="charges", objects=[charge(900, SECOND - 5)], skip=1)

    first = everything(apis, CHARGES)
    rows = drain(first)
    assert len(rows) == 150
    later = read(CHARGES, apis.connection(), first.positions, NOW + timedelta(minutes=5))

    assert ids(drain(later)) == ["ch_00900"]


def test_what_has_not_changed_in_the_overlap_is_not_landed_again(apis: Any) -> None:
    apis.store.put("charges", [charge(number) for number in range(150)])
    first = everything(apis, CHARGES)
    drain(first)
    refund_charge(apis.store, "ch_00003", 40, SECOND + 1)

    second = read(CHARGES, apis.connection(), first.positions, NOW + timedelta(minutes=1))

    assert ids(drain(second)) == ["ch_00003"]
    # An hour of lookback: the position remembers its sixty objects and no older one.
    assert len(first.positions["digests"]) == 60
    third = read(CHARGES, apis.connection(), second.positions, NOW + timedelta(minutes=1))
    assert drain(third) == []


def test_a_refund_of_an_old_charge_arrives_through_events_in_the_window_of_the_charge(apis: Any) -> None:
    events = ENTITIES["raw_stripe__events"]
    create_charge(apis.store, charge(1, SECOND - 20 * 86400))
    create_charge(apis.store, charge(2))
    first_charges, first_events = everything(apis, CHARGES), everything(apis, events)
    drain(first_charges)
    drain(first_events)

    refund_charge(apis.store, "ch_00001", 30, SECOND + 30)
    later = NOW + timedelta(hours=1)
    charges = read(CHARGES, apis.connection(), first_charges.positions, later)
    second = read(events, apis.connection(), first_events.positions, later)

    assert drain(charges) == []
    objects = [json.loads(row["object"]) for row in drain(second)]
    assert {item["type"] for item in objects} == {"charge.refunded", "refund.created"}
    refunded = next(item for item in objects if item["type"] == "charge.refunded")
    assert refunded["data"]["object"]["amount_refunded"] == 30
    assert second.windows == {"2025-10-14": 1, "2025-11-03": 1}


def test_paging_goes_on_when_the_object_of_the_cursor_is_deleted(apis: Any) -> None:
    customers = ENTITIES["raw_stripe__customers"]
    apis.store.put(
        "customers",
        [
            stripe_objects.customer(id=f"cus_{number:05d}", created=SECOND - number - 1)
            for number in range(250)
        ],
    )
    apis.fault("delete", list="customers", id="cus_00099", skip=1)

    rows = drain(everything(apis, customers))

    assert ids(rows) == [f"cus_{number:05d}" for number in range(250)]


def bounces(count: int) -> list[dict[str, Any]]:
    return [
        sendgrid_objects.bounce(email=f"{number:05d}@example.com", created=SECOND - number - 1, reason="550")
        for number in range(count)
    ]


def addresses(rows: list[dict[str, Any]]) -> list[str]:
    return [json.loads(row["object"])["email"] for row in rows]


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 999, 1200])
def test_offset_paging_gives_every_record_once(apis: Any, count: int) -> None:
    apis.store.put("bounces", bounces(count))

    rows = drain(everything(apis, ENTITIES["raw_sendgrid__bounces"]))

    assert addresses(rows) == [item["email"] for item in bounces(count)]
    assert len({row["id"] for row in rows}) == count


def test_a_bounce_lifted_between_two_pages_hides_no_other(apis: Any) -> None:
    apis.store.put("bounces", bounces(1200))
    apis.fault("delete", list="bounces", id="00003@example.com", skip=1)
    apis.fault("delete", list="bounces", id="00004@example.com", skip=2)

    rows = drain(everything(apis, ENTITIES["raw_sendgrid__bounces"]))

    assert addresses(rows) == [item["email"] for item in bounces(1200)]


def test_a_record_that_appears_in_front_while_paging_repeats_none(apis: Any) -> None:
    apis.store.put("bounces", bounces(700))
    newer = sendgrid_objects.bounce(email="late@example.com", created=SECOND - 1, reason="550")
    apis.fault("put", list="bounces", objects=[newer], skip=1)

    rows = drain(everything(apis, ENTITIES["raw_sendgrid__bounces"]))

    assert addresses(rows) == [item["email"] for item in bounces(700)]


def test_messages_are_split_by_time_until_no_answer_is_full(apis: Any) -> None:
    messages = [
        sendgrid_objects.message(
            msg_id=f"m{number:05d}",
            to_email="a@example.com",
            subject="Grüße",
            last_event_time=f"{NOW - timedelta(seconds=60 * number + 1):%Y-%m-%dT%H:%M:%SZ}",
        )
        for number in range(2500)
    ]
    apis.store.put("messages", messages)

    extract = everything(apis, ENTITIES["raw_sendgrid__messages"])
    rows = drain(extract)

    assert sorted(ids(rows)) == [item["msg_id"] for item in messages]
    for row in rows:
        time = datetime.fromisoformat(json.loads(row["object"])["last_event_time"])
        assert row["window_start"] <= time < row["window_end"]
    assert extract.windows == {"": 2500}


def test_a_day_of_statistics_lands_again_only_when_its_numbers_move(apis: Any) -> None:
    stats = ENTITIES["raw_sendgrid__stats"]
    apis.store.put("stats", [sendgrid_objects.stats(date=f"2025-11-0{day}", requests=5) for day in (1, 2, 3)])
    first = everything(apis, stats)
    rows = drain(first)
    assert len(rows) == 1096
    assert ids(rows)[-3:] == ["2025-11-01", "2025-11-02", "2025-11-03"]

    apis.store.put("stats", [sendgrid_objects.stats(date="2025-11-03", requests=9)])
    second = read(stats, apis.connection("sendgrid"), first.positions, NOW + timedelta(hours=1))

    assert ids(drain(second)) == ["2025-11-03"]
    assert second.windows == {"2025-11-03": 1}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("42", "not an object"),
        ("null", "not an object"),
        ('{"object":"charge"}', "no usable 'id'"),
        ('{"id":{"a":1}}', "no usable 'id'"),
        ('{"id":"ch_1","name":"\\ud800"}', "not valid JSON"),
        ('{"id":"ch_1","n":NaN}', "not valid JSON"),
        ('{"id":"ch_1","n":1e400}', "not valid JSON"),
        ('{"id":"ch_1" "n":["]",2]}', "not valid JSON"),
        ("nonsense", "not valid JSON"),
        ('{"id":"ch_1","n":' + "[" * 100_000 + "]" * 100_000 + "}", "not valid JSON"),
        ('{"id":"ch_1","name":"\udcff"}', "not valid JSON"),
    ],
)
def test_a_record_that_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on(
    apis: Any, record: str, reason: str
) -> None:
    apis.store.put("charges", [charge(number) for number in range(3)])
    # A byte that is no UTF-8 travels to the fault switch as a lone surrogate.
    apis.control.post("/_control/faults", content=json.dumps({"kind": "bad_record", "record": record}))

    extract = everything(apis, CHARGES)
    rows = drain(extract)

    assert ids(rows) == ["ch_00000", "ch_00001", "ch_00002"]
    (letter,) = extract.dead_letters
    assert isinstance(letter, DeadLetter)
    assert letter.payload == record.encode("utf-8", "surrogateescape")
    assert reason in letter.reason
    assert (letter.source, letter.entity) == ("stripe", "charges")


def test_a_position_older_than_what_the_service_keeps_stops_that_entity(apis: Any) -> None:
    events = ENTITIES["raw_stripe__events"]
    position = {"until": (NOW - timedelta(days=31)).isoformat(), "digests": {}}

    with pytest.raises(RestError, match="keeps only 30 days") as caught:
        everything(apis, events, position)
    assert "where entity like 'raw_stripe__%'" in str(caught.value)


@pytest.mark.parametrize("position", [{"until": "yesterday"}, {"digests": {}}, {"until": 5}])
def test_a_position_that_cannot_be_read_is_named(apis: Any, position: dict[str, Any]) -> None:
    with pytest.raises(RestError, match="its position in the ledger can't be read"):
        everything(apis, CHARGES, position)


def test_a_clock_that_was_set_back_keeps_the_position(apis: Any) -> None:
    apis.store.put("charges", [charge(1)])
    first = everything(apis, CHARGES)
    drain(first)

    again = read(CHARGES, apis.connection(), first.positions, NOW - timedelta(minutes=30))
    drain(again)

    assert again.positions["until"] == first.positions["until"]


def test_nothing_is_asked_and_no_position_given_before_the_pages_are_read(apis: Any) -> None:
    before = apis.requests("/v1/charges")

    extract = everything(apis, CHARGES)

    assert extract.positions == {}
    assert apis.requests("/v1/charges") == before


def test_every_declared_entity_can_be_read_from_an_empty_service(apis: Any) -> None:
    for entity in ENTITIES.values():
        extract = everything(apis, entity)
        rows = drain(extract)
        assert len(rows) == (1096 if entity.name == "stats" else 0), entity.table
        assert extract.positions["until"] == NOW.isoformat()


def test_a_read_that_never_ends_is_stopped(apis: Any) -> None:
    apis.store.put("charges", [charge(number) for number in range(20)])
    assert isinstance(CHARGES.read, Rest)
    small = replace(CHARGES, read=replace(CHARGES.read, page_size=2))

    with pytest.raises(RestError, match="more than 5 pages"):
        drain(read(small, apis.connection(max_pages=5), None, NOW))
