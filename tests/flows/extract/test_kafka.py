"""What is read from Kafka: every committed record as it is, from where we were to where the topic ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from flows.extract import Extract, SourceError, kafka
from tests.broker import ANY_TIMESTAMP, make_topics
from tests.flows.extract import raw_headers
from transforms.entities import Kafka, SourceEntity


@dataclass
class Topic:
    """A topic of a real broker that lives for one test."""

    bootstrap: str
    name: str

    @property
    def entity(self) -> SourceEntity:
        return SourceEntity(
            "events", "clicks", Kafka(self.name), ("kafka_partition", "kafka_offset"), "one record"
        )

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def create(self, partitions: int = 2, **config: str) -> None:
        make_topics(self.bootstrap, self.name, partitions=partitions, config=config)

    def delete(self) -> None:
        self.admin.delete_topics([self.name])[self.name].result(20)

    def delete_before(self, offset: int) -> None:
        """Let the broker delete what is before an offset of partition 0."""
        gone = TopicPartition(self.name, 0, offset)
        self.admin.delete_records([gone])[gone].result(20)

    def producer(self, **settings: Any) -> Producer:
        return Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, **settings})

    def send(self, values: Sequence[bytes | None], partition: int = 0, **fields: Any) -> None:
        producer = self.producer()
        for value in values:
            producer.produce(self.name, value, partition=partition, **fields)
        assert producer.flush(20) == 0

    def read(self, positions: dict[str, Any] | None = None, **options: Any) -> tuple[pa.Table, Extract]:
        extract = kafka.read(self.entity, self.bootstrap, positions or {}, **options)
        return pa.Table.from_batches(extract.batches, schema=extract.schema), extract


@pytest.fixture
def topic(broker: str) -> Topic:
    topic = Topic(broker, f"t-{os.urandom(4).hex()}")
    topic.create()
    return topic


def values(table: pa.Table) -> list[bytes | None]:
    return list(table["value"].to_pylist())


def test_every_record_comes_as_it_is_with_keys_headers_and_tombstones(topic: Topic) -> None:
    topic.send(
        [b"{}", b"\xff\x00 not text"], key=b"\x00k", headers=[("a", b"1"), ("a", None), ("ü", b"\xff")]
    )
    topic.send([None, b""], partition=1)
    table, extract = topic.read()
    rows = sorted(table.to_pylist(), key=lambda row: (row["kafka_partition"], row["kafka_offset"]))
    assert [row["value"] for row in rows] == [b"{}", b"\xff\x00 not text", None, b""]
    assert [row["key"] for row in rows] == [b"\x00k", b"\x00k", None, None]
    headers = [{"name": "a", "value": b"1"}, {"name": "a", "value": None}, {"name": "ü", "value": b"\xff"}]
    assert [row["headers"] for row in rows] == [headers, headers, [], []]
    assert all(row["kafka_timestamp"] is not None and row["topic"] == topic.name for row in rows)
    assert extract.positions["offsets"] == {"0": 2, "1": 2}


NANOSECONDS, MICROSECONDS, BEFORE_YEAR_1 = 1_700_000_000 * 10**9, 1_700_000_000 * 10**6, -62_135_596_800_001
"""Timestamps of producers that took another unit for milliseconds, or none at all."""
NONE = -1


def test_a_record_with_a_timestamp_that_is_no_moment_comes_without_one_and_stops_nobody(broker: str) -> None:
    topic = Topic(broker, f"t-{os.urandom(4).hex()}")
    topic.create(1, **ANY_TIMESTAMP)
    first, last = -62_135_596_800_000, 253_402_300_799_999
    stamps = (NANOSECONDS, first, MICROSECONDS, last, BEFORE_YEAR_1, 1_700_000_000_123, NONE, -2)
    for stamp in stamps:
        topic.send([str(stamp).encode()], timestamp=stamp)

    table, extract = topic.read()

    assert values(table) == [str(stamp).encode() for stamp in stamps]
    assert table["kafka_timestamp"].to_pylist() == [
        *(None, datetime.min.replace(tzinfo=UTC)),
        *(None, datetime.max.replace(microsecond=999_000, tzinfo=UTC)),
        *(None, datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)),
        *(None, datetime(1969, 12, 31, 23, 59, 59, 998_000, UTC)),
    ]
    assert extract.positions["offsets"] == {"0": len(stamps)}
    (warning,) = extract.warnings
    assert warning.startswith("4 records came without a timestamp, or with one that is no moment of")
    assert f"the first at topic {topic.name}, partition 0, offset 0." in warning


def test_a_topic_whose_partitions_have_no_leader_yet_is_read_once_they_have(broker: str) -> None:
    topic = Topic(broker, f"t-{os.urandom(4).hex()}")
    new = NewTopic(topic.name, num_partitions=20, replication_factor=1)
    topic.admin.create_topics([new])[topic.name].result(20)
    table, extract = topic.read()
    assert table.num_rows == 0
    assert extract.positions["offsets"] == {str(partition): 0 for partition in range(20)}


def test_a_record_whose_header_has_a_name_that_is_no_text_lands_without_its_headers(topic: Topic) -> None:
    topic.send([b"before"], headers=[("a", b"1")])
    odd = [(b"a", b"1"), (b"\xff\xfe", b"Ann Example")]
    for value, headers in ((b"odd", odd), (b"odd too", odd[::-1])):
        raw_headers.send(topic.bootstrap, topic.name, value, headers)
    topic.send([b"after"], headers=[("b", None)])
    table, extract = topic.read()
    assert values(table) == [b"before", b"odd", b"odd too", b"after"]
    assert table["kafka_offset"].to_pylist() == [0, 1, 2, 3]
    a, b = {"name": "a", "value": b"1"}, {"name": "b", "value": None}
    assert table["headers"].to_pylist() == [[a], None, None, [b]]
    assert extract.positions["offsets"] == {"0": 4, "1": 0}
    (said,) = extract.warnings
    assert f"2 records came with a header whose name is not UTF-8, the first at topic {topic.name}" in said
    assert "partition 0, offset 1" in said
    assert "Ann" not in said


def test_a_second_read_goes_on_where_the_first_ended(topic: Topic) -> None:
    topic.send([b"1", b"2"])
    _, first = topic.read()
    assert topic.read(first.positions)[0].num_rows == 0
    topic.send([b"3"])
    table, second = topic.read(first.positions)
    assert values(table) == [b"3"]
    assert second.positions["offsets"] == {"0": 3, "1": 0}


def test_records_that_arrive_during_the_read_are_left_for_the_next_one(topic: Topic) -> None:
    topic.send([b"x"] * 3000)
    extract = kafka.read(topic.entity, topic.bootstrap, {})
    first = next(iter(extract.batches))
    topic.send([b"y"] * 100)
    rows = first.num_rows + sum(batch.num_rows for batch in extract.batches)
    assert rows == 3000
    assert extract.positions["offsets"]["0"] == 3000


def test_aborted_transactions_are_invisible_and_their_gaps_end_the_read(topic: Topic) -> None:
    producer = topic.producer(**{"transactional.id": topic.name})
    producer.init_transactions(20)
    for value, commit in [(b"1", True), (b"2", False), (b"3", True), (b"4", False)]:
        producer.begin_transaction()
        producer.produce(topic.name, value, partition=0)
        producer.flush(20)
        if commit:
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)
    table, extract = topic.read(stall_seconds=20)
    assert values(table) == [b"1", b"3"]
    assert extract.positions["offsets"]["0"] == 8
    assert topic.read(extract.positions)[0].num_rows == 0


def test_an_open_transaction_holds_back_what_follows_it_and_is_read_once_it_ends(topic: Topic) -> None:
    topic.send([b"before"])
    producer = topic.producer(**{"transactional.id": topic.name})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic.name, b"open", partition=0)
    producer.flush(20)
    topic.send([b"after"])
    table, first = topic.read(stall_seconds=20)
    assert values(table) == [b"before"]
    producer.commit_transaction(20)
    assert values(topic.read(first.positions)[0]) == [b"open", b"after"]


def test_offsets_below_the_start_of_the_log_stop_the_topic(topic: Topic) -> None:
    topic.send([b"1", b"2"])
    _, first = topic.read()
    topic.send([b"3", b"4", b"5"])
    topic.delete_before(4)
    with pytest.raises(SourceError) as caught:
        topic.read(first.positions)
    assert "offsets 2 to 3 were deleted" in str(caught.value)
    assert "retention" in str(caught.value)


def test_offsets_behind_the_end_of_the_log_stop_the_topic(topic: Topic) -> None:
    topic.send([b"1"])
    _, first = topic.read()
    ahead = {**first.positions, "offsets": {"0": 99, "1": 0}}
    with pytest.raises(SourceError, match="read up to offset 99, but ends at 1"):
        topic.read(ahead)


def test_a_topic_that_was_made_anew_is_not_taken_for_the_old_one(topic: Topic) -> None:
    topic.send([b"1", b"2"])
    _, first = topic.read()
    topic.delete()
    for _ in range(50):
        if topic.name not in topic.admin.list_topics(timeout=10).topics:
            break
    topic.create()
    topic.send([b"a", b"b", b"c"])
    with pytest.raises(SourceError, match="made anew"):
        topic.read(first.positions)


def test_another_topic_under_one_declaration_is_told_with_the_one_that_was_read(topic: Topic) -> None:
    """Its records would stand at the places of the other's."""
    topic.send([b"1", b"2"])
    _, first = topic.read()
    other = Topic(topic.bootstrap, f"t-{os.urandom(4).hex()}")
    other.create()
    with pytest.raises(SourceError) as caught:
        other.read(first.positions)
    said = str(caught.value)
    assert said.startswith(f"Topic {other.name} at {topic.bootstrap}: what was read before")
    assert f"is {topic.name}, which is there still. Nothing was landed. Declare {topic.name} again" in said
    other.delete()


def test_a_new_partition_is_read_from_its_beginning(topic: Topic) -> None:
    topic.send([b"1"])
    _, first = topic.read()
    topic.admin.create_partitions([NewPartitions(topic.name, 3)])[topic.name].result(20)
    for _ in range(50):
        if len(topic.admin.list_topics(topic.name, timeout=10).topics[topic.name].partitions) == 3:
            break
    topic.send([b"new"], partition=2)
    table, second = topic.read(first.positions)
    assert values(table) == [b"new"]
    assert second.positions["offsets"] == {"0": 1, "1": 0, "2": 1}


def test_gaps_of_a_compacted_topic_do_not_confuse_the_end(broker: str) -> None:
    topic = Topic(broker, f"t-{os.urandom(4).hex()}")
    topic.create(1, **{"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"})
    for value in range(50):
        topic.send([str(value).encode()], key=b"same")
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    assert topic.admin.describe_configs([resource])[resource].result(20)["cleanup.policy"].value == "compact"
    table, extract = topic.read(stall_seconds=20)
    assert values(table)[-1] == b"49"
    assert extract.positions["offsets"] == {"0": 50}


def test_the_lag_is_what_a_read_would_go_through(topic: Topic) -> None:
    topic.send([b"1", b"2", b"3"])
    assert kafka.lag(topic.bootstrap, topic.name, {}) == {0: 3, 1: 0}
    _, first = topic.read()
    assert kafka.lag(topic.bootstrap, topic.name, first.positions) == {0: 0, 1: 0}


def test_a_broker_that_is_not_there_is_told_within_the_time(topic: Topic) -> None:
    with pytest.raises(SourceError, match="ANALYTICS_KAFKA_BOOTSTRAP"):
        Topic("127.0.0.1:1", topic.name).read(request_seconds=2.0)


def test_a_topic_that_does_not_exist_is_named(topic: Topic) -> None:
    with pytest.raises(SourceError, match=r"There is no topic nowhere.*or correct its declaration"):
        Topic(topic.bootstrap, "nowhere").read()


def test_large_records_come_in_small_batches(topic: Topic) -> None:
    topic.send([b"x" * 900_000] * 60)
    extract = kafka.read(topic.entity, topic.bootstrap, {})
    sizes = [batch.nbytes for batch in extract.batches]
    assert sum(sizes) > 54_000_000
    assert extract.positions["offsets"]["0"] == 60


def test_records_that_the_broker_deletes_while_they_are_read_stop_the_read(topic: Topic) -> None:
    """A client that asks for little at a time is behind when the deletion comes."""
    topic.send([b"x" * 900_000] * 60)
    little = {
        "queued.min.messages": "1",
        "queued.max.messages.kbytes": "1024",
        "fetch.message.max.bytes": "1000000",
    }
    extract = kafka.read(topic.entity, topic.bootstrap, {}, options=little, stall_seconds=20)
    next(iter(extract.batches))
    topic.delete_before(59)
    with pytest.raises(SourceError, match="deleted records while they were being read"):
        list(extract.batches)
    assert extract.positions == {}
