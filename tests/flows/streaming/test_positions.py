"""A topic of which the broker has lost something: told with its numbers, gone past by consent alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from unittest import mock

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from flows.__main__ import main
from flows.extract import SourceError
from flows.extract.kafka import PositionGone
from flows.landing import land
from flows.positions import Standing, StreamLives, accept, gaps, look
from flows.streaming.journal import Journal
from tests.broker import make_topics
from tests.flows.streaming.topics import PARTITIONS, Topics, until
from tests.house import House
from transforms.entities import Kafka


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def test_a_topic_that_was_made_anew_is_read_on_by_consent_alone_and_the_loss_is_kept(topics: Topics) -> None:
    topics.send(topics.event(number) for number in range(10))
    topics.stream()
    topics.send([topics.event(10)])  # nobody reads it before it is lost
    _make_anew(topics)
    topics.send(topics.event(number) for number in range(20, 24))
    topics.send([topics.event(24)], partition=1)
    way_on = re.escape(f"python -m flows positions {topics.topic()}")
    with pytest.raises(PositionGone, match=f"made anew.*{way_on}$"):
        topics.stream()
    services = topics.world.services()
    with services.lake:
        with pytest.raises(PositionGone, match=f"made anew.*{way_on}$"):
            land(services, topics.entity(), "batch")
        seen = look(services, topics.entity())
        assert re.search(
            r"partition 0: the topic was made anew .*lost is what came from offset 10 on and was not read; "
            r"the lake has offsets 0 to 9; it is read on from 0",
            "\n".join(seen.lines()),
        )
        assert topics.rows("select count(*) from ops.position_reset") == [(0,)]

        accept(services, topics.entity(), "test")
        assert look(services, topics.entity()).gaps == []
        assert accept(services, topics.entity(), "test").gaps == []  # twice is once

    assert topics.stream().rows == 5
    assert topics.numbers() == [
        *((number, 0, number) for number in range(10)),
        *((number, 0, number - 20) for number in range(20, 24)),
        (24, 1, 0),
    ]
    assert topics.rows(
        "select kafka_partition, offset_before, lost_to, next_offset, in_lake, topic_id_before <> topic_id "
        "from ops.position_reset where offset_before > 0"
    ) == [(0, 10, None, 0, [[0, 10]], True)]
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before


def test_what_can_not_be_read_of_a_topic_that_was_made_anew_is_a_letter_though_its_offset_had_one(
    topics: Topics,
) -> None:
    topics.send([b"{bad", b"{worse"])
    topics.stream()
    _make_anew(topics)
    topics.send([b"{bad", topics.event(1), b"{worst"])
    accept(topics.world.services(), topics.entity(), "test")

    assert topics.stream().dead_letters == 2

    query = "select kafka_offset, payload from ops.dead_letter order by received_at, kafka_offset"
    there = [(0, b"{bad"), (1, b"{worse"), (0, b"{bad"), (2, b"{worst")]
    assert topics.rows(query) == there
    topics.batch()  # it meets the same records
    assert topics.rows(query) == there


def test_no_consent_reads_another_topic_on_in_the_place_of_one_that_is_there(topics: Topics) -> None:
    """Records of both would stand at the same places of one table."""
    topics.send(topics.event(number) for number in range(10))
    topics.batch()
    entity = topics.entity()
    assert isinstance(entity.read, Kafka)
    renamed = replace(entity, read=replace(entity.read, topic=topics.topic("clicks")))
    services = topics.world.services()
    with services.lake:
        told = f"Declare {re.escape(topics.topic())} again"
        with pytest.raises(PositionGone, match=told):
            look(services, renamed)
        with pytest.raises(PositionGone, match=told):
            accept(services, renamed, "test")
        assert look(services, entity).gaps == []
    assert topics.rows("select count(*) from ops.position_reset") == [(0,)]


def test_records_that_were_deleted_unread_are_named_and_gone_past_by_consent(
    topics: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics.send(topics.event(number) for number in range(10))
    services = topics.world.services()
    with topics.living():
        until(lambda: len(topics.numbers()) == 10)
        with (
            services.lake,
            mock.patch("flows.positions._PATIENCE_SECONDS", 0.0),
            pytest.raises(StreamLives, match="A stream reads the topic"),
        ):
            accept(services, topics.entity(), "test")
    topics.send(topics.event(number) for number in range(10, 30))
    topics.delete_before(20)
    with services.warehouse.connect() as connection:
        journal = Journal(connection)
        journal.take(topics.entity().table, {0: 10}, "one that is away")

    def said(*more: str) -> tuple[int, str]:
        with (
            mock.patch("flows.streaming.replays.entity_of", return_value=topics.entity()),
            mock.patch("flows.commands.ensure_services"),
            mock.patch("flows.services.open_services", return_value=topics.world.services()),
        ):
            return main(["positions", topics.topic(), *more]), capsys.readouterr().out

    code, told = said()
    assert code == 1
    assert (
        "lost are the records at offsets 10 to 19; the lake has offsets 0 to 9; it is read on from 20" in told
    )
    assert told.endswith(f"to accept the loss: python -m flows positions {topics.topic()} --yes\n")
    assert said("--yes")[0] == 0
    code, told = said()
    assert code == 0
    assert "partition 0: read up to offset 20, 10 wait" in told

    assert topics.stream().rows == 10
    assert [number for number, _, _ in topics.numbers()] == [*range(10), *range(20, 30)]
    assert topics.rows("select offset_before, lost_to, next_offset from ops.position_reset") == [(10, 20, 20)]


def test_records_that_the_broker_deletes_under_a_living_stream_end_it_and_it_never_jumps(
    house: House, tmp_path: Path
) -> None:
    """It asks for little at a time, and a commit that waits keeps it behind."""
    little = {
        "queued.min.messages": "1",
        "queued.max.messages.kbytes": "1",
        "fetch.message.max.bytes": "1000",
    }
    topics = Topics.build(house, tmp_path, kafka_options=little)
    waits = "select count(*) from pg_locks where relation = 'ops.stream_batch'::regclass and not granted"
    told = pytest.raises(SourceError, match="were deleted by the broker before they were read")
    with told, topics.living() as living:
        with psycopg.connect(topics.world.warehouse_dsn) as busy:
            busy.execute("lock table ops.stream_batch in exclusive mode")
            topics.send([topics.event(0)])
            until(lambda: topics.rows(waits) == [(1,)])
            large = {"x": "x" * 600_000}
            topics.send(topics.event(number, properties=large) for number in range(1, 12))
            topics.delete_before(12)
        until(living.done)

    taken = [number for number, _, _ in topics.numbers()]
    assert taken == list(range(len(taken)))
    positions = "select next_offset from ops.stream_partition where kafka_partition = 0 and entity = '{}'"
    assert topics.rows(positions.format(topics.entity().table)) == [(len(taken),)]


@pytest.mark.full
def test_a_topic_that_is_made_anew_under_a_living_stream_ends_it_though_it_is_longer_than_what_was_read(
    topics: Topics,
) -> None:
    topics.send(topics.event(number) for number in range(5))
    ends = pytest.raises(PositionGone, match="made anew")
    with ends, topics.living() as living:
        until(lambda: len(topics.numbers()) == 5)
        _make_anew(topics)
        topics.send(topics.event(number) for number in range(20, 40))
        until(living.done)

    accept(topics.world.services(), topics.entity(), "test")
    topics.stream()

    assert [number for number, _, _ in topics.numbers()] == [*range(5), *range(20, 40)]
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before


def test_a_topic_that_is_deleted_under_a_living_stream_ends_it_and_is_named(topics: Topics) -> None:
    topics.send([topics.event(0)])
    ends = pytest.raises(SourceError, match=f"There is no topic {topics.topic()}")
    with ends, topics.living() as living:
        until(lambda: len(topics.numbers()) == 1)
        _delete(topics)
        until(living.done)


def test_a_topic_that_is_made_anew_and_is_shorter_than_what_was_read_is_named_as_that(topics: Topics) -> None:
    topics.send(topics.event(number) for number in range(5))
    ends = pytest.raises(PositionGone, match="made anew")
    with ends, topics.living() as living:
        until(lambda: len(topics.numbers()) == 5)
        _make_anew(topics)
        topics.send([topics.event(5)])
        until(living.done)
    assert [number for number, _, _ in topics.numbers()] == list(range(5))


def test_partitions_that_a_topic_is_given_are_read_within_seconds_and_from_their_beginning(
    topics: Topics,
) -> None:
    topics.send(topics.event(number) for number in range(5))
    with topics.living():
        until(lambda: len(topics.numbers()) == 5)
        admin = AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})
        name, more = topics.topic(), PARTITIONS + 2
        admin.create_partitions([NewPartitions(name, more)])[name].result(20)
        until(lambda: len(admin.list_topics(name, 10).topics[name].partitions) == more)
        topics.send((topics.event(number) for number in range(5, 10)), partition=more - 1)
        until(lambda: len(topics.numbers()) == 10)

    assert topics.numbers()[5:] == [(number, more - 1, number - 5) for number in range(5, 10)]
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before


def test_a_partition_that_ends_before_its_position_is_read_from_its_beginning() -> None:
    known = {"topic_id": "a", "offsets": {"0": 9, "1": 5, "2": 3, "3": 4}}
    held = {0: (2, 6), 1: (0, 7), 2: (3, 3)}
    found = gaps(known, "a", held)
    assert [(gap.partition, gap.next_offset, gap.lost_to) for gap in found] == [(0, 2, None), (3, None, None)]
    assert Standing("t", "a", known, held, found).offsets == {"0": 2, "1": 5, "2": 3}
    assert gaps({"offsets": {}}, "a", held) == []


def test_a_topic_that_nobody_declared_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["positions", "nothing"]) == 2
    assert "No source is declared with topic nothing." in capsys.readouterr().err


def _make_anew(topics: Topics) -> None:
    _delete(topics)
    make_topics(topics.world.kafka_bootstrap, topics.topic(), partitions=PARTITIONS)


def _delete(topics: Topics) -> None:
    admin = AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})
    name = topics.topic()
    admin.delete_topics([name])[name].result(20)
    until(lambda: name not in admin.list_topics(timeout=10).topics)
