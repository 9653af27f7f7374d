"""`replay`: what raw has lost comes back from the broker, once; what nobody has stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from flows.extract import SourceError
from flows.streaming.replays import Missing
from tests.flows.replaying import (
    DAY,
    everything_once,
    execute,
    file_of_landing,
    forget_landing,
    landings,
    state,
)
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms.contract import Layer


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def _remove_the_file(topics: Topics) -> None:
    file_of_landing(topics, 1).unlink()


def _damage_the_file(topics: Topics) -> None:
    path = file_of_landing(topics, 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _remove_the_landing(topics: Topics) -> None:
    forget_landing(topics, 1)


def _remove_the_first_landing(topics: Topics) -> None:
    forget_landing(topics, 0)


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(_remove_the_file, marks=pytest.mark.full),
        pytest.param(_damage_the_file, marks=pytest.mark.full),
        _remove_the_landing,
        pytest.param(_remove_the_first_landing, marks=pytest.mark.full),
    ],
)
def test_what_raw_lost_comes_back_from_the_broker_once(
    topics: Topics, lose: Callable[[Topics], None]
) -> None:
    landings(topics)
    before = topics.rows()
    positions = topics.rows("select positions - 'landed_at' from ops.position")
    lose(topics)

    replay = topics.ask("0")
    topics.batch()

    assert replay.recovered == 20
    everything_once(topics, 60)
    assert topics.rows() == before
    assert topics.rows("select positions - 'landed_at' from ops.position") == positions
    assert topics.ask("0").recovered == 0
    topics.batch()
    everything_once(topics, 60)


@pytest.mark.full
def test_a_range_that_was_skipped_is_landed_when_it_is_replayed(topics: Topics) -> None:
    landings(topics, 1)
    topics.send(topics.event(number, minutes=DAY) for number in range(20, 40))
    execute(topics, "update ops.position set positions = jsonb_set(positions, '{offsets,0}', '30')")
    topics.batch()
    assert len(topics.numbers()) == 30

    replay = topics.ask("25", "35")
    topics.batch()

    assert replay.recovered == 5
    assert {offset for _, _, offset in topics.numbers()} == {*range(20), *range(25, 40)}
    topics.ask("0")
    topics.batch()
    everything_once(topics, 40)


@pytest.mark.full
def test_a_lost_copy_that_counts_takes_the_place_of_the_one_that_stood_in_for_it(topics: Topics) -> None:
    topics.send([topics.event(1), topics.event(2)])
    topics.batch()
    topics.send([topics.event(1, minutes=DAY)], partition=1)
    topics.batch()
    forget_landing(topics, 0)
    names = ("partition_state", "landed_window")
    execute(topics, *(f"delete from ops.{name}" for name in names), "delete from analytics.fct_events")
    execute(topics, "delete from ops.ledger where kind <> 'land'")
    for built in (Layer.STAGING, Layer.FACTS, Layer.MARTS):  # nor does the lake know of what was built
        shutil.rmtree(topics.world.lake / built)
    topics.batch()
    topics.ask("0", None, 0)
    topics.batch()

    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]


def test_what_neither_the_lake_nor_the_broker_has_stops_it_before_anything_is_changed(topics: Topics) -> None:
    landings(topics)
    forget_landing(topics, 0)
    topics.delete_before(15)
    before = state(topics)

    with pytest.raises(Missing) as stopped:
        topics.ask("5", "30")

    assert "offsets 5 to 14 of partition 0" in str(stopped.value)
    assert "the lake has 20 to 59 of it; the broker begins at 15" in str(stopped.value)
    assert str(topics.world.lake) in str(stopped.value)
    assert "partition 0 from 15 on" in str(stopped.value)
    assert state(topics) == before
    assert topics.ask("15").recovered == 5


@pytest.mark.full
def test_a_damaged_file_whose_records_the_broker_deleted_stops_it_too(topics: Topics) -> None:
    landings(topics)
    _damage_the_file(topics)
    topics.delete_before(25)
    before = state(topics)

    with pytest.raises(Missing, match=r"of the 20 records .* has 15 left. Nothing was changed. Restore"):
        topics.ask("30", "35")

    assert state(topics) == before
    topics.ask("0", "20")  # the file has nothing to do with these
    topics.ask("40")


@pytest.mark.full
def test_gaps_between_offsets_are_no_loss_even_when_the_broker_has_deleted_them(topics: Topics) -> None:
    producer = Producer(
        {"bootstrap.servers": topics.world.kafka_bootstrap, "transactional.id": topics.topic()}
    )
    producer.init_transactions(30)
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topics.topic(), json.dumps(topics.event(number)).encode(), partition=0)
        producer.flush(30)
        if number % 2:
            producer.abort_transaction(30)  # nothing comes of it: no landing tells of its offsets
        else:
            producer.commit_transaction(30)
        topics.batch()
    topics.send([topics.event(6)])
    topics.batch()
    topics.delete_before(12)

    replay = topics.ask("0")

    assert (replay.lost.spans, replay.lost.gone, replay.recovered) == ({}, {}, 0)
    topics.batch()
    assert [number for number, _, _ in topics.numbers()] == [0, 2, 4, 6]


@pytest.mark.full
def test_landings_that_do_not_say_what_they_read_are_believed_as_far_as_their_files_go(
    topics: Topics,
) -> None:
    landings(topics)
    execute(topics, "update ops.ledger set control = '{}' where kind = 'land'")
    forget_landing(topics, 1)

    assert topics.ask("0").recovered == 20
    topics.batch()
    everything_once(topics, 60)


@pytest.mark.full
def test_a_topic_that_was_made_anew_is_not_read_for_what_the_old_one_had(topics: Topics) -> None:
    landings(topics)
    forget_landing(topics, 1)
    execute(topics, 'update ops.position set positions = positions || \'{"topic_id": "another"}\'')
    before = state(topics)

    with pytest.raises(SourceError, match="made anew"):
        topics.ask("0")

    assert state(topics) == before
