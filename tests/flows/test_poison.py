"""Messages that are none, and values that no column holds: kept with their bytes, and in nobody's way."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from confluent_kafka import Producer

from tests.flows.kill_story import Story
from tests.flows.kill_world import run
from tests.flows.poison import event, poison

AT = datetime(2025, 11, 3, 10, tzinfo=UTC)


@pytest.mark.full
def test_one_message_in_a_hundred_is_poison_and_the_rest_arrives(story: Story) -> None:
    """Good rows 100 %, dead letters exactly those messages with place and bytes, nothing left unread."""
    bad = list(poison(AT).values())
    good = 100 * len(bad)
    world = story.world
    topic = world.new_topic("user_events")
    producer = Producer(
        {
            "bootstrap.servers": world.state.kafka_bootstrap,
            "message.max.bytes": 4_000_000,
            "linger.ms": 50,
            "enable.idempotence": True,  # a send that is tried again must not change places with the next
        }
    )
    for number in range(good):
        producer.produce(topic, event(1000 + number, AT), partition=0)
        if number % 100 == 50:
            producer.produce(topic, bad[number // 100].value, partition=0)
        producer.poll(0)
    largest = event(10, AT, user_id=2**63 - 1, properties={"n": 12345678901234567890123456789012345678})
    producer.produce(topic, largest, partition=0)
    assert producer.flush(60) == 0
    del producer
    place = world.place(
        sources=("raw_events__user_events",),
        models=("stg_events__user_events", "dim_users", "fct_events"),
        topics=(("user_events", topic),),
        now=(AT + timedelta(hours=2)).isoformat(),
    )
    run(place)
    with psycopg.connect(place.warehouse_dsn) as connection:
        letters = connection.execute(
            "select topic, kafka_partition, kafka_offset, payload, reason from ops.dead_letter order by 3"
        ).fetchall()
        counted = connection.execute("select count(*) from analytics.fct_events").fetchone()
        exact = connection.execute(
            "select user_id, properties ->> 'n' from analytics.fct_events where event_id = %s",
            (uuid.UUID(int=10),),
        ).fetchone()
        position = connection.execute(
            "select positions -> 'offsets' ->> '0' from ops.position where entity = 'raw_events__user_events'"
        ).fetchone()
    assert counted == (good + 1,)
    assert exact == (2**63 - 1, "12345678901234567890123456789012345678")
    assert position == (str(good + len(bad) + 1),)
    assert [letter[2] for letter in letters] == [101 * place_ + 51 for place_ in range(len(bad))]
    for (name, partition, _, payload, reason), expected in zip(letters, bad, strict=True):
        # A message without a value has no bytes; its reason tells it from an empty one.
        assert (name, partition, bytes(payload)) == (topic, 0, expected.value or b"")
        assert expected.word in reason, expected.value
