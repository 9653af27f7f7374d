"""The stream's member of the consumer group, read by one thread while another shows what was read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from confluent_kafka import Consumer

from flows.streaming.consumer import Records, StreamConsumer
from flows.streaming.journal import Journal
from tests.flows.streaming.topics import Topics, until
from tests.house import House


def test_a_read_that_lets_partitions_go_keeps_nobody_from_making_visible_what_was_read(
    house: House, tmp_path: Path
) -> None:
    """It waits for that, so that nobody who makes it visible may wait for a read."""
    topics = Topics.build(house, tmp_path)
    topics.send(topics.event(number) for number in range(100))
    records, leaving, shown = Records(), threading.Event(), threading.Event()

    def settle() -> None:
        if records:
            leaving.set()
            assert shown.wait(20), "what was read could not be made visible while partitions went"

    bootstrap, group = topics.world.kafka_bootstrap, topics.way.group
    with topics.world.services().warehouse.connect() as connection, ThreadPoolExecutor(1) as reader:
        consumer = StreamConsumer(topics.way, Journal(connection), bootstrap, {}, "first", settle)
        another = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
        with closing(consumer), closing(another):
            while not records:
                records = consumer.read(0.1)
            another.subscribe([topics.topic()])
            reading = reader.submit(until, lambda: bool(consumer.read(0.1)) or leaving.is_set())
            assert leaving.wait(20)
            assert consumer.lag == 0
            consumer.tell_broker(records)
            shown.set()
            reading.result(20)
