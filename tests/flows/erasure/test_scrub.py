"""What is taken out of a row, and what is not: pure, without a store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import date
from urllib.parse import quote

import pyarrow as pa
import pytest

from flows.erasure.person import Person
from flows.erasure.scrub import Scrubber
from flows.extract import kafka_records
from transforms import registry
from transforms.contract import Column

ADA = Person.new(7).with_emails(["Ada@Example.com"])
KNOWN = Person(ADA.user_id, ADA.alias, ADA.salt, ADA.email_hashes)
"""The same, long after her erasure: her address is not known any more."""


@pytest.mark.parametrize(
    ("text", "is_hers"),
    [
        ("mail to ADA@example.com, please", True),
        (json.dumps({"to": "<ada@example.com>"}), True),
        (hashlib.sha256(b"ada@example.com").hexdigest(), True),
        ("xada@example.com", False),
        ("x.ada@example.com", False),
        ("ada@example.com.au", False),
        ("ada@example.community", False),
        ("ada at example.com", False),
    ],
)
def test_an_address_is_hers_and_not_a_part_of_another(text: str, is_hers: bool) -> None:
    assert ADA.is_named_in(text) is is_hers
    assert (ADA.without(text) != text) is is_hers
    assert not ADA.is_named_in(ADA.without(text))


def test_an_address_beyond_ascii_is_known_as_json_writes_it() -> None:
    zoe = Person.new(8).with_emails(["zoë@example.com"])
    assert zoe.is_named_in(json.dumps({"mail": "Zoë@example.com"}, ensure_ascii=False))
    assert zoe.is_named_in(json.dumps({"mail": "zoë@example.com"}))


@pytest.mark.parametrize(
    "text",
    [
        "mail to ADA@example.com.",
        '{"page": "/verify?mail=Ada@Example.com&x=1"}',
        "/verify?mail=ada%40example.com",
        '{"to": "<ada@example.com>", "cc": "b@example.com"}',
    ],
)
def test_an_address_that_is_known_by_its_hash_alone_is_found_in_a_text_and_replaced(text: str) -> None:
    assert KNOWN.is_named_in(text)
    assert ADA.is_named_in(text)
    batch = pa.record_batch({"value": [text.encode(), b"xada@example.com, ada@example.com.au"]})
    rows, changed = Scrubber([KNOWN], registry.entity("raw_events__page_views")).batch(batch)
    assert changed == [0]
    assert rows["value"].to_pylist() == [ADA.without(text).encode(), batch["value"][1].as_py()]
    assert ADA.alias in ADA.without(text)


@pytest.mark.parametrize(
    "email", ["ada@example.com", "ada+shop@example.com", "o'brien@example.com", "zoë@bücher.example"]
)
def test_an_address_is_found_however_a_writer_escapes_it_and_what_stands_before_it(email: str) -> None:
    person = Person.new(8).with_emails([email])
    by_hash = Person(8, person.alias, person.salt, person.email_hashes)
    as_net = email.replace("+", "\\u002B").replace("'", "\\u0027")
    for text in (
        json.dumps({"text": f"Write to:\n{email}"}),
        json.dumps({"text": f"Write to:\n{email}"}, ensure_ascii=False),
        json.dumps({"as JSON within JSON": json.dumps(f"\t{email}\n")}),
        f'{{"to": "Ada \\u003c{email}\\u003e", "page": "?a=1\\u0026mail={email}\\u0026b=2"}}',
        f'{{"to": "{as_net}"}}',
        f"?mail={quote(email, safe='@').replace('%C3%BC', 'ü')}&x=1",
        f"?mail={quote(email, safe='+').replace('%C3%BC', 'ü')}",
        f"/login?next={quote(f'/verify?mail={email}').replace('%C3%BC', 'ü')}",
        email.upper(),
    ):
        assert person.is_named_in(text), text
        assert by_hash.is_named_in(text), text
        assert not person.is_named_in(person.without(text)), text
        batch = pa.record_batch({"value": [text.encode()]})
        assert Scrubber([person]).batch(batch)[1] == [0], text
    for text in (f"x%2B{email}", f"x\\u002d{email}", f"n{email}", f"3d{email}"):
        assert not person.is_named_in(text), text
        assert not by_hash.is_named_in(text), text


@pytest.mark.parametrize(
    "email", ['"o\'brien ada"@example.com', r'"a\"b\\"@example.com', "ada/eve@example.com"]
)
def test_a_quoted_address_is_found_as_json_writes_it_and_json_within_json(email: str) -> None:
    person = Person.new(8).with_emails([email])
    message = {"id": "m1", "to_email": email, "subject": f"To {email}: hello"}
    for text in (email, json.dumps(message), json.dumps(message).replace("/", r"\/")):
        for written in (text, json.dumps({"inner": text})):
            assert person.is_named_in(written), written
            assert not person.is_named_in(person.without(written))
    batch = pa.record_batch({"id": ["m1"], "object": [json.dumps(message)]})
    rows, changed = Scrubber([person], registry.entity("raw_sendgrid__messages")).batch(batch)
    assert changed == [0]
    assert json.loads(rows["object"][0].as_py())["to_email"] == person.alias


def test_an_address_beyond_ascii_is_known_by_its_hash_as_json_and_a_url_write_it() -> None:
    zoe = Person.new(8).with_emails(["zoë@example.com"])
    by_hash = Person(8, zoe.alias, zoe.salt, zoe.email_hashes)
    for text in (json.dumps({"mail": "Zoë@example.com"}), "?mail=zo%C3%AB%40example.com"):
        assert zoe.is_named_in(text)
        assert by_hash.is_named_in(text)


def test_a_text_full_of_almost_addresses_is_read_once() -> None:
    """What somebody sends to keep a stream busy: long runs, and an @ after each character."""
    for text in ("a" * 1_000_000 + "@", "@" * 200_000, "a@" * 100_000, "." * 100_000 + "@x" * 1000):
        assert not KNOWN.is_named_in(text)


def test_an_alias_is_never_taken_for_an_address() -> None:
    assert Person.new(9).with_emails([ADA.alias]).emails == ()


def test_a_change_record_loses_personal_fields_of_its_own_row_alone() -> None:
    after = {"id": 7, "email": "ada@example.com", "name": "Ada", "country": "GB", "plan": "pro"}
    values = [
        json.dumps({"before": None, "after": after}),
        json.dumps({"payload": {"before": after, "after": {**after, "name": "A."}}}),
        json.dumps({"before": None, "after": {**after, "id": 77, "email": "b@example.com"}}),
    ]
    batch = pa.record_batch({"id": [7, 7, 77], "value": [value.encode() for value in values]})
    rows, changed = Scrubber([KNOWN], registry.entity("raw_app__users")).batch(batch)
    assert changed == [0, 1]
    first, second, third = (json.loads(value) for value in rows["value"].to_pylist())
    assert first["after"] == {"id": 7, "email": None, "name": None, "country": "GB", "plan": "pro"}
    assert second["payload"]["before"]["name"] is None
    assert third["after"]["email"] == "b@example.com"


def test_typed_columns_and_conversations_are_emptied_in_her_rows_alone() -> None:
    told = json.dumps([{"by": "user", "text": "My number is 12345"}])
    batch = pa.record_batch(
        {
            "user_id": [7, 8],
            "subject": ["broken ring", "other"],
            "messages": [told, told],
            "status": ["open"] * 2,
        }
    )
    rows, changed = Scrubber([KNOWN], registry.entity("raw_app__support_tickets")).batch(batch)
    assert changed == [0]
    assert rows["subject"].to_pylist() == [None, "other"]
    assert json.loads(rows["messages"].to_pylist()[0]) == [{"by": "user", "text": ""}]
    assert rows["status"].to_pylist() == ["open", "open"]


def test_an_object_of_an_api_is_known_by_the_hash_of_its_address() -> None:
    objects = [
        {
            "id": "cus_1",
            "email": "ADA@example.com",
            "name": "Ada",
            "address": {"country": "GB", "line1": "1 St"},
        },
        {"id": "cus_2", "email": "b@example.com", "name": "Bob"},
    ]
    text = pa.array([json.dumps(one) for one in objects])
    batch = pa.record_batch(
        {"id": ["cus_1", "cus_2"], "object": pa.ExtensionArray.from_storage(pa.json_(), text)}
    )
    rows, changed = Scrubber([KNOWN], registry.entity("raw_stripe__customers"), is_arriving=True).batch(batch)
    assert changed == [0]
    first = json.loads(str(rows["object"].to_pylist()[0]))
    assert first == {
        "id": "cus_1", "email": ADA.alias, "name": None, "address": {"country": "GB", "line1": None}
    }  # fmt: skip


def test_an_object_that_says_whose_it_is_needs_no_address_and_what_it_was_before_goes_too() -> None:
    hers = {"id": "cus_1", "email": None, "name": "Ada", "metadata": {"user_id": "7"}}
    objects = [
        {**hers, "address": {"country": "GB", "line1": "1 St"}},
        {
            "id": "evt_1",
            "data": {"object": hers, "previous_attributes": {"name": "A.", "address": {"city": "Y"}}},
        },
        {
            "id": "evt_2",
            "data": {
                "object": {**hers, "metadata": {"user_id": "77"}},
                "previous_attributes": {"name": "A."},
            },
        },
    ]
    batch = pa.record_batch({"object": [json.dumps(one) for one in objects]})
    for person in (ADA, KNOWN, Person.new(7)):
        scrubber = Scrubber([person], registry.entity("raw_stripe__events"))
        rows, changed = scrubber.batch(batch)
        assert changed == [0, 1]
        customer, event, other = map(json.loads, rows["object"].to_pylist())
        gone = {**hers, "name": None}
        assert customer == {**gone, "address": {"country": "GB", "line1": None}}
        assert event["data"] == {
            "object": gone,
            "previous_attributes": {"name": None, "address": {"city": None}},
        }
        assert other == objects[2]
        assert scrubber.batch(rows)[1] == []


def test_what_arrives_of_an_erased_account_says_that_it_is_gone() -> None:
    batch = pa.record_batch({"id": [7, 8], "email": ["new@example.com", "b@example.com"], "_op": ["r", "r"]})
    rows, _ = Scrubber([KNOWN], registry.entity("raw_app__users"), is_arriving=True).batch(batch)
    assert rows.to_pylist() == [
        {"id": 7, "email": None, "_op": "d"}, {"id": 8, "email": "b@example.com", "_op": "r"}
    ]  # fmt: skip


def test_an_account_of_somebody_else_that_has_an_address_of_theirs_is_not_gone() -> None:
    batch = pa.record_batch({"id": [8], "name": ["for ada@example.com"], "_op": ["r"]})
    rows, _ = Scrubber([ADA], registry.entity("raw_app__users"), is_arriving=True).batch(batch)
    assert rows.to_pylist() == [{"id": 8, "name": f"for {ADA.alias}", "_op": "r"}]


@pytest.mark.parametrize("person", [ADA, KNOWN], ids=["known", "known by hash"])
def test_what_others_wrote_in_the_application_loses_her_address_and_keeps_everything_else(
    person: Person,
) -> None:
    tickets = registry.entity("raw_app__support_tickets")
    said = json.dumps([{"author": "customer", "body": "ask ada@example.com or bob@example.com, 100% sure"}])
    batch = pa.record_batch({"id": [1, 2], "user_id": [8, 8], "subject": ["Ada@Example.com", "hello"],
                             "messages": [said, "[]"]})  # fmt: skip
    rows, changed = Scrubber([person], tickets, is_arriving=True).batch(batch)
    assert changed == [0]
    assert rows.to_pylist() == [
        {"id": 1, "user_id": 8, "subject": ADA.alias, "messages": said.replace("ada@example.com", ADA.alias)},
        {"id": 2, "user_id": 8, "subject": "hello", "messages": "[]"},
    ]

    orders = registry.entity("raw_app__order_events")
    value = json.dumps({"after": {"id": 1, "payload": json.dumps({"by": "ada@example.com"})}}).encode()
    rows, changed = Scrubber([person], orders, is_arriving=True).batch(pa.record_batch({"value": [value]}))
    assert rows["value"].to_pylist() == [value.replace(b"ada@example.com", ADA.alias.encode())]


def test_who_has_her_address_now_keeps_the_account() -> None:
    users = registry.entity("raw_app__users")
    value = json.dumps({"before": None, "after": {"id": 8, "email": "ada@example.com"}}).encode()
    batch = pa.record_batch({"id": [8], "email": ["ada@example.com"], "value": [value]})
    assert Scrubber([KNOWN], users, is_arriving=True).batch(batch)[1] == []


def test_a_personal_field_goes_by_the_name_that_it_had_when_it_was_landed_too() -> None:
    users = registry.entity("raw_app__users")
    renamed = [
        replace(c, name="mail", formerly=("email",)) if c.name == "email" else c for c in users.columns
    ]
    value = json.dumps({"before": {"id": 7, "email": "old"}, "after": {"id": 7, "mail": "new"}})
    batch = pa.record_batch({"id": [7], "value": [value.encode()]})
    rows, _ = Scrubber([KNOWN], replace(users, columns=tuple(renamed))).batch(batch)
    (left,) = rows["value"].to_pylist()
    assert json.loads(left) == {"before": {"id": 7, "email": None}, "after": {"id": 7, "mail": None}}


def test_an_address_in_a_url_is_found_by_its_hash_where_no_at_sign_stands_anywhere() -> None:
    batch = pa.record_batch({"value": [b"/verify?mail=ada%40example.com"]})
    assert Scrubber([KNOWN], registry.entity("raw_events__clicks")).batch(batch)[1] == [0]


def test_bytes_that_are_no_text_are_searched_too() -> None:
    batch = pa.record_batch({"value": [b"\xff\xfe ADA@EXAMPLE.COM \x00", b"\xff"]})
    rows, changed = Scrubber([ADA]).batch(batch)
    assert changed == [0]
    assert rows["value"].to_pylist() == [b"\xff\xfe " + ADA.alias.encode() + b" \x00", b"\xff"]


def test_the_headers_of_a_message_are_read_too() -> None:
    kind = kafka_records.SCHEMA.field("headers").type
    headers = [None, [{"name": "to", "value": b"Ada@Example.com"}, {"name": "n", "value": None}], []]
    batch = pa.record_batch({"value": [b"1", b"2", b"3"], "headers": pa.array(headers, kind)})
    for person in (ADA, KNOWN):
        rows, changed = Scrubber([person], registry.entity("raw_events__clicks")).batch(batch)
        assert changed == [1]
        hers = [{"name": "to", "value": ADA.alias.encode()}, {"name": "n", "value": None}]
        assert rows["headers"].to_pylist() == [None, hers, []]


def test_a_personal_column_that_is_no_text_is_emptied_in_her_rows() -> None:
    users = registry.entity("raw_app__users")
    born = replace(users, columns=(*users.columns, Column("born_on", "date", pii=True)))
    batch = pa.record_batch({"id": [7, 8], "born_on": [date(1990, 1, 2)] * 2})
    rows, changed = Scrubber([KNOWN], born).batch(batch)
    assert changed == [0]
    assert rows["born_on"].to_pylist() == [None, date(1990, 1, 2)]
