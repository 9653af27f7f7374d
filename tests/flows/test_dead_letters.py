"""The dead-letter store: the same record once, its bytes kept, shown without harm."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from flows import deadletters, dlq
from flows.build.content import Unreadable
from flows.errors import FlowsError
from flows.extract import DeadLetter
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
