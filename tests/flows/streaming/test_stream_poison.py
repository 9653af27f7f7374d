"""Poison in the stream: each message in the one store, with bytes, place and reason; the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer

from flows.streaming.tally import Tally
from tests.broker import ANY_TIMESTAMP, set_config
from tests.flows.extract import raw_headers
from tests.flows.extract.parts import Broker
from tests.flows.poison import event, poison
from tests.flows.streaming.topics import Topics
from tests.house import House

HUNDRED_MEGABYTES = 100_000_000


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


@pytest.fixture
def large(house: House, tmp_path: Path) -> Iterator[Topics]:
    """On a broker of its own, whose topic takes messages of 100 MB."""
    broker = Broker()
    try:
        topics = Topics.build(house, tmp_path, bootstrap=broker.bootstrap)
        set_config(broker.bootstrap, topics.topic(), **{"max.message.bytes": "104000000"})
        yield topics
    finally:
        broker.end()


@pytest.mark.full
def test_every_poison_is_a_letter_and_the_good_rows_of_its_micro_batch_go_on(topics: Topics) -> None:
    bad = list(poison(topics.began).values())
    producer = Producer({"bootstrap.servers": topics.world.kafka_bootstrap, "message.max.bytes": 4_000_000})
    for number, one in enumerate(bad):
        producer.produce(topics.topic(), event(1000 + number, topics.began), partition=0)
        producer.produce(topics.topic(), one.value, partition=0)
        producer.poll(0)
    assert producer.flush(60) == 0

    tally = topics.stream()

    assert (tally.rows, tally.dead_letters, tally.interruptions) == (len(bad), len(bad), 0)
    assert topics.numbers() == [(1000 + number, 0, 2 * number) for number in range(len(bad))]
    letters = topics.rows(
        "select topic, kafka_partition, kafka_offset, payload, reason from ops.dead_letter order by 3"
    )
    for number, (letter, one) in enumerate(zip(letters, bad, strict=True)):
        assert (*letter[:3], bytes(letter[3])) == (topics.topic(), 0, 2 * number + 1, one.value or b"")
        assert one.word in letter[4], one.value
    before = topics.rows(), letters
    topics.batch()
    again = topics.rows(
        "select topic, kafka_partition, kafka_offset, payload, reason from ops.dead_letter order by 3"
    )
    assert (topics.rows(), again) == before


def test_an_event_whose_header_has_a_name_that_is_no_text_is_published_and_counted(topics: Topics) -> None:
    at = topics.began - timedelta(minutes=1)
    odd = [(b"\xff\xfe", b"1")]
    raw_headers.send(topics.world.kafka_bootstrap, topics.topic(), event(1, at), odd)
    raw_headers.send(topics.world.kafka_bootstrap, topics.topic(), event(2, at), [(b"a", b"1")])

    tally = topics.stream()

    assert (tally.rows, tally.dead_letters, tally.interruptions) == (2, 0, 0)
    assert "1 without their headers" in tally.line(1.0)
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]
    raw_headers.send(topics.world.kafka_bootstrap, topics.topic(), event(3, at), odd)
    topics.batch()
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1), (3, 0, 2)]


@pytest.mark.parametrize("taken_in_by", ["stream", "batch"])
def test_messages_with_timestamps_that_are_no_moment_are_taken_in_as_any_others(
    topics: Topics, taken_in_by: str
) -> None:
    set_config(topics.world.kafka_bootstrap, topics.topic(), **ANY_TIMESTAMP)
    wild = (1_700_000_000 * 10**9, 1_700_000_000 * 10**6, -62_135_596_800_001)
    at = topics.began - timedelta(minutes=1)
    producer = Producer({"bootstrap.servers": topics.world.kafka_bootstrap})
    for number, stamp in enumerate(wild):
        for value in (event(number, at), b"no JSON %d" % number):
            producer.produce(topics.topic(), value, partition=0, timestamp=stamp)
    assert producer.flush(60) == 0

    done = getattr(topics, taken_in_by)()

    if isinstance(done, Tally):
        assert (done.rows, done.dead_letters, done.interruptions) == (3, 3, 0)
        assert (list(done.latencies), done.latency()) == ([], (0.0, 0.0))  # nobody knows when they were sent
        assert done.line(0).endswith("6 without their timestamp (no moment of the years 1 to 9999)")
    topics.send([topics.event(3)])
    tally = topics.stream()
    assert (tally.rows, tally.interruptions, len(tally.latencies)) == (1, 0, 1)
    assert topics.numbers() == [(0, 0, 0), (1, 0, 2), (2, 0, 4), (3, 0, 6)]
    letters = topics.rows("select kafka_offset, payload from ops.dead_letter order by 1")
    assert [(offset, bytes(payload)) for offset, payload in letters] == [
        (2 * number + 1, b"no JSON %d" % number) for number in range(3)
    ]
    topics.batch()
    assert topics.rows("select kafka_offset, payload from ops.dead_letter order by 1") == letters
    assert len(topics.raw_places()) == 7


@pytest.mark.full
@pytest.mark.parametrize("taken_in_by", ["stream", "batch"])
def test_a_message_of_100_megabytes_is_a_letter_and_the_good_rows_go_on(
    large: Topics, taken_in_by: str
) -> None:
    huge = b'{"event_id": "' + b"x" * (HUNDRED_MEGABYTES - 16) + b'"}'
    assert len(huge) == HUNDRED_MEGABYTES
    producer = Producer({"bootstrap.servers": large.world.kafka_bootstrap, "message.max.bytes": 104_000_000})
    at = large.began - timedelta(minutes=1)
    for value in (event(1, at), huge, event(2, at)):
        producer.produce(large.topic(), value, partition=0)
        assert producer.flush(120) == 0

    getattr(large, taken_in_by)()

    assert large.numbers() == [(1, 0, 0), (2, 0, 2)]
    (letter,) = large.rows("select kafka_offset, reason, payload from ops.dead_letter")
    assert letter[:2] == (1, "it is larger than 1 MiB")
    assert bytes(letter[2]) == huge
