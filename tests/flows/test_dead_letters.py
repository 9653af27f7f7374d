"""The dead-letter store: the same record once, its bytes kept, shown without harm."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows import deadletters, dlq, incomplete
from flows.build.content import Unreadable
from flows.errors import FlowsError
from flows.extract import DeadLetter, Incomplete
from flows.settings import Settings
from tests.flows.extract.parts import ORDERS, ORDERS_DDL, World
from tests.house import Server
from transforms.contract import Layer, Table
from warehouse_ddl.files import bootstrap

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
LETTER = DeadLetter(
    source="events",
    entity="clicks",
    reason="it is not valid JSON",
    payload=b"\xff\x00{bad\x1b[31m",
    received_at=NOW,
    topic="clicks",
    kafka_partition=1,
    kafka_offset=7,
)


@pytest.fixture
def world(postgres18: Server, tmp_path: Path) -> World:
    return World.build(postgres18, tmp_path)


@pytest.fixture
def connection(world: World) -> Iterator[psycopg.Connection]:
    with psycopg.connect(world.warehouse_dsn, autocommit=True) as connection:
        yield connection


def test_the_same_record_is_entered_once_whichever_batch_brought_it(connection: psycopg.Connection) -> None:
    assert deadletters.enter(connection, [LETTER]) == 1
    assert deadletters.enter(connection, [replace(LETTER, batch_id="other", seq=3), LETTER]) == 0
    assert deadletters.enter(connection, [replace(LETTER, kafka_offset=8)]) == 1
    assert deadletters.counted(connection) == [("events.clicks", "waiting", "it is not valid JSON", 2)]


def test_another_record_at_the_same_offset_of_a_topic_that_was_made_anew_is_another_letter(
    connection: psycopg.Connection,
) -> None:
    first = replace(LETTER, kafka_timestamp=NOW, batch_id="stream-1", seq=0)
    anew = replace(first, kafka_timestamp=NOW + timedelta(days=1), batch_id="stream-2")
    assert deadletters.enter(connection, [first]) == 1
    deadletters.mark_replayed(connection, {first.letter_id: "00"}, "replay-1", NOW)

    assert deadletters.enter(connection, [anew]) == 1  # though its bytes are the same
    assert deadletters.enter(connection, [anew, replace(first, batch_id="lost-1")]) == 0

    assert deadletters.waiting(connection) == [anew.letter_id]
    again = replace(first, batch_id="replay-1", payload=b"2")
    assert deadletters.enter(connection, [again]) == 1
    assert set(deadletters.waiting(connection)) == {anew.letter_id, first.letter_id}


@pytest.mark.parametrize("same", [{}, {"batch_id": "lost-1"}, {"payload": b"without what names them"}])
def test_a_letter_that_was_entered_by_its_offset_alone_is_known_when_its_record_is_met_again(
    connection: psycopg.Connection, same: dict[str, Any]
) -> None:
    by_offset = replace(LETTER, batch_id="stream-1", seq=0)
    deadletters.enter(connection, [by_offset])
    deadletters.mark_replayed(connection, {by_offset.letter_id: "00"}, "replay-1", NOW)
    incomplete.enter(connection, Settings(_env_file=None), [Incomplete(7, "why", by_offset.letter_id)])
    met = replace(by_offset, kafka_timestamp=NOW, **same)

    for _ in range(2):
        assert deadletters.enter(connection, [met]) == 0

    assert deadletters.waiting(connection) == []
    assert deadletters.find(connection, met.letter_id).status == "replayed"
    assert incomplete.still(connection) == []


def test_a_transaction_is_whole_once_the_table_that_lacked_a_row_of_it_is_equal_to_the_source(
    connection: psycopg.Connection,
) -> None:
    lost = replace(LETTER, source="app", entity="orders", kafka_offset=9)
    deadletters.enter(connection, [lost])
    found = [Incomplete(7, "it can't be read", lost.letter_id), Incomplete(8, "its end was not told", "")]
    incomplete.enter(connection, Settings(_env_file=None), found)

    incomplete.settle(connection, [])
    (named,) = incomplete.still(connection)
    incomplete.settle(connection, [ORDERS])

    assert named.startswith("transaction 7 of ")
    assert incomplete.still(connection) == []


def test_a_letter_that_was_entered_by_its_offset_alone_hides_no_other_record_there(
    connection: psycopg.Connection,
) -> None:
    by_offset = replace(LETTER, batch_id="stream-1", seq=0)
    other = replace(by_offset, batch_id="stream-2", payload=b"{worse", kafka_timestamp=NOW)
    assert [deadletters.enter(connection, [one]) for one in (by_offset, other, other)] == [1, 1, 0]
    assert set(deadletters.waiting(connection)) == {by_offset.letter_id, other.letter_id}


def test_the_bytes_are_kept_as_they_were(connection: psycopg.Connection) -> None:
    deadletters.enter(connection, [LETTER])
    found = deadletters.find(connection, LETTER.letter_id[:10])
    assert found.payload == LETTER.payload
    assert found.place == "topic clicks, partition 1, offset 7"
    assert [letter.letter_id for letter in deadletters.listed(connection, "events.clicks")] == [
        LETTER.letter_id
    ]
    assert deadletters.listed(connection, "events.orders") == []


def test_a_store_of_an_older_version_gets_what_it_lacks_and_keeps_its_letters(
    connection: psycopg.Connection,
) -> None:
    deadletters.enter(connection, [LETTER])
    connection.execute(
        "alter table ops.dead_letter drop column replayed_at, drop column replayed_as, "
        "drop column replayed_sha256, drop column forwarded_at"
    )
    for statement in bootstrap():
        connection.execute(statement.encode())
    stored = deadletters.find(connection, LETTER.letter_id)
    assert (stored.payload, stored.status, stored.replayed_at) == (LETTER.payload, "waiting", None)


def test_an_unknown_letter_says_how_to_find_one(connection: psycopg.Connection) -> None:
    with pytest.raises(FlowsError, match="dlq list"):
        deadletters.find(connection, "zz")
    deadletters.enter(connection, [LETTER, replace(LETTER, kafka_offset=8)])
    with pytest.raises(FlowsError, match="more of its id"):
        deadletters.find(connection, "")


def test_the_commands_show_letters_without_commanding_the_terminal(
    world: World,
    connection: psycopg.Connection,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.dlq.open_services", world.services)
    assert dlq.list_command(argparse.Namespace(entity=None, limit=5, all=False)) == 0
    assert "No dead letters" in capsys.readouterr().out
    deadletters.enter(connection, [LETTER])
    dlq.list_command(argparse.Namespace(entity=None, limit=5, all=False))
    dlq.show_command(argparse.Namespace(letter=LETTER.letter_id))
    shown = capsys.readouterr().out
    assert "it is not valid JSON" in shown
    assert "{bad" in shown
    assert "\x1b" not in shown


def test_what_a_model_could_not_read_is_found_again_in_raw_with_its_bytes(world: World) -> None:
    world.app(
        ORDERS_DDL,
        "insert into orders select i, i, 'EUR', '2025-10-07', '2025-10-07' from generate_series(1, 3) as i",
    )
    landed = world.land(ORDERS)
    assert landed is not None
    services = world.services()
    staging = Table("stg_app__orders", Layer.STAGING, "one row per order", (), (), upstreams=(ORDERS.table,))
    unreadable = [Unreadable(landed.batch_id, 1, "it smells")]
    with services.ledger() as ledger:
        connection = ledger.connection
        given = (connection, ledger, services.lake, staging, unreadable, NOW)
        assert deadletters.enter_unreadable(*given) == 1
        assert deadletters.enter_unreadable(*given) == 0
        (letter,) = deadletters.listed(connection, "app.orders")
        stored = deadletters.find(connection, letter.letter_id)
        assert stored.place == f"batch {landed.batch_id}, row 1"
        assert json.loads(stored.payload or b"")["id"] == 2
        with pytest.raises(FlowsError, match="not found in raw again"):
            deadletters.enter_unreadable(*given[:4], [Unreadable(landed.batch_id, 99, "gone")], NOW)
