"""People leave the tables of ops, whatever wrote what names them there."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.erasure import ops
from flows.erasure.person import Person
from flows.stores.warehouse import Warehouse

NOW = datetime(2025, 11, 3, tzinfo=UTC)


@pytest.mark.parametrize("email", ["ada@example.com", "ada+shop@example.com", "zoë@example.com"])
@pytest.mark.parametrize(
    "written",
    [
        "Write to:\\n{}",
        "{{\\u003c{}\\u003e}}",
        "?next=%2Fverify%3Fmail%3D{}",
        "\\\\{}, or not",
    ],
)
def test_waiting_records_and_texts_lose_an_address_however_it_is_escaped(
    dsn: str, email: str, written: str
) -> None:
    person = Person.new(1).with_emails([email])
    spelled = (email, email.replace("+", "\\u002B").replace("ë", "\\u00EB"), email.replace("+", "%2B"))
    with Warehouse(dsn).connect() as connection:
        for number, one in enumerate(spelled):
            text = written.format(one)
            connection.execute(
                "insert into ops.change_record values ('t', %s, %s, null, '', %s)",
                (number, NOW, b"\xff " + text.encode()),
            )
            connection.execute(
                "insert into ops.run values (%s, %s, %s, %s, '')", (f"r{number}", text, NOW, NOW)
            )
        assert ops.forget(connection, [person]) == 2 * len(spelled)
        assert ops.forget(connection, [person]) == 0
        left = connection.execute("select value from ops.change_record").fetchall()
        assert [bytes(value) for (value,) in left] == [
            b"\xff " + written.format(person.alias).encode()
        ] * len(spelled)
        texts = connection.execute("select flow from ops.run").fetchall()
        assert texts == [(written.format(person.alias),)] * len(spelled)


def test_a_letter_that_tells_of_nobody_erased_waits_and_one_that_was_replayed_stays_so(
    dsn: str,
) -> None:
    person = Person.new(1).with_emails(["ada@example.com"])
    letters = (
        ("hers", b'{"user_id": "1"}', "", "waiting"),
        ("replayed", b'{"user_id": 1}', "", "replayed"),
        ("named in the reason", b"{", "no recipient ada@example.com", "waiting"),
        ("somebody else's", b'{"user_id": 12}', "", "waiting"),
    )
    with Warehouse(dsn).connect() as connection:
        for letter, payload, reason, status in letters:
            connection.execute(
                "insert into ops.dead_letter (letter_id, source, entity, reason, payload, received_at, "
                "status) values (%s, 'events', 'clicks', %s, %s, %s, %s)",
                (letter, reason, payload, NOW, status),
            )
        assert ops.forget_letters(connection, [person]) == 3
        left = "select letter_id, payload is null, status from ops.dead_letter"
        assert set(connection.execute(left).fetchall()) == {
            ("hers", True, "discarded"),
            ("replayed", True, "replayed"),
            ("named in the reason", True, "discarded"),
            ("somebody else's", False, "waiting"),
        }
