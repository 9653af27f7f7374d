"""Dead letters that are replayed: once, at their place, through the models every record goes through."""

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
from confluent_kafka import Producer

from flows import deadletters, dlq
from flows.errors import FlowsError
from flows.extract import DeadLetter
from flows.settings import Settings
from tests.flows.streaming.topics import Topics, until
from tests.house import House

BROKEN = b'{"event_id": "no uuid"}'


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


@pytest.fixture
def connection(topics: Topics) -> Iterator[psycopg.Connection]:
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        yield connection


def _repaired(topics: Topics, number: int = 2) -> bytes:
    return json.dumps(topics.event(number)).encode()


def _letters(topics: Topics) -> list[tuple[str, str]]:
    return topics.rows("select letter_id, status from ops.dead_letter order by kafka_partition, kafka_offset")


def _position(topics: Topics) -> object:
    return topics.rows(
        "select positions - 'landed_at' from ops.position where entity = 'raw_events__user_events'"
    )


def _rebuild(connection: psycopg.Connection) -> None:
    """Make every event table be built from its first landing on, as a changed model does."""
    connection.execute(
        "update ops.partition_state set fingerprint = 'older' where table_name like '%events%'"
    )


@pytest.mark.parametrize("taken_in_by", ["stream", "batch"])
def test_a_repaired_record_is_published_once_at_its_place(topics: Topics, taken_in_by: str) -> None:
    topics.send([topics.event(1), BROKEN, topics.event(3)])
    getattr(topics, taken_in_by)()
    topics.batch()
    before = _position(topics)
    ((letter, _),) = _letters(topics)

    (outcome,) = topics.replay([letter], given=_repaired(topics))

    assert (outcome.reason, outcome.table) == ("", "stg_events__user_events")
    assert outcome.window == topics.began.date().isoformat()
    assert _letters(topics) == [(letter, "replayed")]
    assert _position(topics) == before
    done = topics.batch()
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1), (3, 0, 2)]
    assert [built.partitions for built in done["stg_events__user_events"]] == [[outcome.window]]
    counts = "count(*), count(distinct (topic, kafka_partition, kafka_timestamp, key, headers))"
    again = topics.world.raw(topics.entity(), f"select {counts} from raw where kafka_offset = 1")
    assert again == [(2, 1)]
    for one in topics.reconcile():
        assert one.passed, one.message


def test_what_is_replayed_while_a_stream_lives_is_built_by_the_batch_and_both_agree(topics: Topics) -> None:
    with topics.living():
        topics.send([topics.event(1), BROKEN])
        until(lambda: bool(_letters(topics) and topics.numbers()))
        ((letter, _),) = _letters(topics)
        (outcome,) = topics.replay([letter], given=_repaired(topics))
        assert not outcome.reason
        topics.batch()
        assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]
        # Of two copies the lower place counts, and the stream sees what the batch has published.
        topics.send([topics.event(2, minutes=1), topics.event(3)], partition=1)
        until(lambda: any(number == 3 for number, _, _ in topics.numbers()))
        assert topics.numbers() == [(1, 0, 0), (2, 0, 1), (3, 1, 1)]
        topics.send([topics.event(2), topics.event(4)], partition=1)
        until(lambda: len(topics.numbers()) == 4)
    topics.batch()
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1), (3, 1, 1), (4, 1, 3)]
    for one in topics.reconcile():
        assert one.passed, one.message


def test_replayed_twice_is_replayed_once(topics: Topics) -> None:
    topics.send([BROKEN])
    topics.stream()
    ((letter, _),) = _letters(topics)
    topics.replay([letter], given=_repaired(topics))
    landed = topics.raw_places()

    (same,) = topics.replay([letter], given=_repaired(topics))
    (asked,) = topics.replay([letter])
    (other,) = topics.replay([letter], given=_repaired(topics, 9))

    assert same.was_done
    assert asked.was_done
    assert "with other bytes, and a record comes once" in other.reason
    assert topics.raw_places() == landed
    assert topics.replay() == []
    topics.batch()
    assert [number for number, _, _ in topics.numbers()] == [2]


def test_an_event_that_was_ahead_of_the_clock_is_read_when_its_time_has_come(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.send([topics.event(1, minutes=-60), b"never"])
    topics.stream()
    early, never = topics.replay()
    assert early.reason == "event_time is more than 5 minutes after its arrival"
    assert never.reason == "it is not valid JSON"

    monkeypatch.setattr(Settings, "clock_offset", timedelta(hours=2))
    outcomes = topics.replay()
    topics.batch()

    assert sorted(outcome.reason for outcome in outcomes) == ["", "it is not valid JSON"]
    assert topics.numbers() == [(1, 0, 0)]
    assert [status for _, status in _letters(topics)] == ["replayed", "waiting"]


def test_a_rebuild_from_nothing_brings_neither_the_letter_nor_a_second_row_back(
    topics: Topics, connection: psycopg.Connection
) -> None:
    topics.send([topics.event(1), BROKEN, b"never"])
    topics.batch()
    topics.replay([_letters(topics)[0][0]], given=_repaired(topics))
    topics.batch()
    before, letters = topics.rows(), _letters(topics)

    _rebuild(connection)
    done = topics.batch()

    assert done["stg_events__user_events"]
    assert topics.rows() == before
    assert _letters(topics) == letters
    assert [status for _, status in letters] == ["replayed", "waiting"]


def test_a_dry_run_says_where_records_would_go_and_changes_nothing(
    topics: Topics, connection: psycopg.Connection
) -> None:
    topics.send([BROKEN, b"never"])
    topics.stream()
    everything = "select count(*), max(sequence) from ops.ledger"
    before = (topics.rows(everything), _position(topics), topics.raw_places(), _letters(topics))
    letter = before[-1][0][0]

    (would,) = topics.replay([letter], given=_repaired(topics), dry_run=True)
    both = topics.replay(dry_run=True)

    assert (would.reason, would.window) == ("", topics.began.date().isoformat())
    assert {outcome.reason for outcome in both} == {"event_id is missing or no UUID", "it is not valid JSON"}
    assert (topics.rows(everything), _position(topics), topics.raw_places(), _letters(topics)) == before
    assert topics.left_over() == []


def test_a_message_without_a_value_stays_one(topics: Topics) -> None:
    producer = Producer({"bootstrap.servers": topics.world.kafka_bootstrap})
    producer.produce(topics.topic(), None, key=b"k", headers=[("h", b"1")], partition=0)
    assert producer.flush(30) == 0
    topics.stream()
    (outcome,) = topics.replay()
    assert outcome.reason == "it has no value"
    topics.replay([outcome.letter.letter_id], given=_repaired(topics))
    rows = topics.world.raw(
        topics.entity(), "select key, headers, value is null from raw order by _landed_at"
    )
    assert [row[2] for row in rows] == [True, False]
    assert rows[0][:2] == rows[1][:2] == (b"k", [{"name": "h", "value": b"1"}])


@pytest.mark.full
@pytest.mark.parametrize("name", ["lake.renamed", "ledger.before_commit", "ledger.committed"])
def test_a_replay_that_is_killed_is_finished_by_the_next_and_lands_once(topics: Topics, name: str) -> None:
    topics.send([topics.event(1), BROKEN])
    topics.stream()
    ((letter, _),) = _letters(topics)
    repaired: dict[str, Any] = {"letters": [letter], "given": _repaired(topics)}

    assert topics.dies("replay", name, **repaired)
    (outcome,) = topics.replay(**repaired)

    assert outcome.was_done == (name == "ledger.committed")
    assert _letters(topics) == [(letter, "replayed")]
    topics.batch()
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]
    assert len(topics.raw_places()) == 3
    assert topics.left_over() == []


def test_a_letter_waits_anew_when_a_model_rejects_what_was_replayed(connection: psycopg.Connection) -> None:
    first = DeadLetter(
        "events", "clicks", "broken", b"1", datetime(2025, 11, 3, tzinfo=UTC), "clicks", 0, 7, "a", 1
    )
    deadletters.enter(connection, [first])
    deadletters.mark_replayed(connection, {first.letter_id: "00"}, "replay-1", datetime.now(UTC))

    assert deadletters.enter(connection, [first]) == 0
    assert deadletters.waiting(connection) == []
    again = replace(first, batch_id="replay-1", seq=0, reason="a new rule", payload=b"2")
    assert deadletters.enter(connection, [first, again]) == 1
    assert deadletters.enter(connection, [first, again]) == 0

    stored = deadletters.find(connection, first.letter_id)
    assert (stored.status, stored.reason, stored.payload, stored.seq) == ("waiting", "a new rule", b"2", 0)


def test_the_command_says_what_happened_and_what_comes_next(
    topics: Topics,
    connection: psycopg.Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def replay(*letters: str, **given: object) -> tuple[int, str]:
        options = {"entity": None, "with_file": None, "dry_run": False, **given}
        code = dlq.replay_command(argparse.Namespace(letter=list(letters), **options))
        return code, capsys.readouterr().out

    def listed(everything: bool) -> str:
        dlq.list_command(argparse.Namespace(entity=None, limit=9, all=everything))
        return capsys.readouterr().out

    monkeypatch.setattr("flows.dlq.open_services", topics.world.services)
    assert replay() == (0, "No dead letters wait: there is nothing to replay.\n")
    topics.send([BROKEN, b"never"])
    topics.stream()
    file = tmp_path / "repaired.json"
    file.write_bytes(_repaired(topics))
    (letter, _), (never, _) = _letters(topics)

    code, said = replay(letter, with_file=file, dry_run=True)
    assert code == 0
    assert f"would be read: stg_events__user_events, {topics.began:%Y-%m-%d}" in said
    assert "Nothing was changed" in said
    code, said = replay(letter[:12], with_file=file)
    assert code == 0
    assert "1 of 1 landed. Build the days they belong to: python -m flows\n" in said
    code, said = replay()
    assert code == 1
    assert (
        f"{never[:12]}  topic {topics.topic()}, partition 0, offset 1: can't be read: it is not valid JSON"
        in said
    )
    assert "replay ID --with FILE" in said
    assert replay(letter)[1].count("was replayed before; nothing to do") == 1
    assert letter[:12] not in listed(everything=False)
    assert "event_id is missing or no UUID (replayed)" in listed(everything=True)
    dlq.show_command(argparse.Namespace(letter=letter))
    assert "status:   replayed\nreplayed: " in capsys.readouterr().out

    for letters, options, sentence in (
        ([], {"with_file": file}, "exactly one dead letter"),
        ([letter, never], {"with_file": file}, "exactly one dead letter"),
        ([letter], {"with_file": tmp_path / "none"}, "No such file or directory. Nothing was replayed"),
        ([letter], {"entity": "clicks"}, "not of clicks"),
        (["zz"], {}, "dlq list"),
    ):
        with pytest.raises(FlowsError, match=sentence):
            replay(*letters, **options)
    connection.execute("alter table ops.dead_letter drop column replayed_sha256")
    with pytest.raises(FlowsError, match="Prepare it with a run"):
        replay(letter)
