"""Messages that are none, and values that no column holds: kept with their bytes, and in nobody's way."""

from __future__ import annotations

import json
import uuid

import psycopg
from confluent_kafka import Producer

from tests.flows.kill_story import Story
from tests.flows.kill_world import run

_POISON: tuple[tuple[bytes | None, str], ...] = (
    (b'{"event_id": "x', "JSON"),
    (b"\xff\xfe\x00", "UTF-8"),
    (b"\xed\xa0\x80", "UTF-8"),
    (b"\x00", "JSON"),
    (b"[" * 100_000, "JSON"),
    (b'{"a":' * 100_000, "JSON"),
    (b'"' + b"x" * 1_200_000 + b'"', "larger"),
    (b"", "JSON"),
    (None, "no value"),
    (b"null", "object"),
    (b"[1, 2]", "object"),
    (b'{"event_id": 5}', "event_id"),
)


def _event(number: int, **more: object) -> bytes:
    whole: dict[str, object] = {
        "event_id": str(uuid.UUID(int=number)),
        "event_type": "login",
        "event_time": "2025-11-03T10:00:00Z",
        "user_id": 1,
        "anonymous_id": "a",
        "session_id": "s",
        "page": None,
        "properties": {"n": number},
    }
    return json.dumps({**whole, **more}).encode()


_EXTREME: tuple[tuple[bytes, str], ...] = (
    (_event(1, event_time="0001-01-01T00:00:00Z"), "event_time"),
    (_event(2, event_time="9999-12-31T23:59:59.999999Z"), "event_time"),
    (_event(3, event_time="294277-01-01T00:00:00Z"), "event_time"),
    (_event(4, user_id=2**63), "user_id"),
    (_event(5).replace(b'"user_id": 1', b'"user_id": NaN'), ""),
    (_event(6).replace(b'{"n": 6}', b'{"n": 1e999999}'), ""),
    (_event(7).replace(b'{"n": 7}', b'{"n": -Infinity}'), ""),
)
"""Values that no column can hold exactly, and a word of the reason."""


def test_one_message_in_a_hundred_is_poison_and_the_rest_arrives(story: Story) -> None:
    """Good rows 100 %, dead letters exactly those messages with place and bytes, nothing left unread."""
    poison = [*_POISON, *_EXTREME]
    good = 100 * len(poison)
    world = story.world
    topic = world.new_topic("user_events")
    producer = Producer(
        {"bootstrap.servers": world.state.kafka_bootstrap, "message.max.bytes": 4_000_000, "linger.ms": 50}
    )
    for number in range(good):
        producer.produce(topic, _event(1000 + number), partition=0)
        if number % 100 == 50:
            producer.produce(topic, poison[number // 100][0], partition=0)
        producer.poll(0)
    largest = _event(10, user_id=2**63 - 1, properties={"n": 12345678901234567890123456789012345678})
    producer.produce(topic, largest, partition=0)
    assert producer.flush(60) == 0
    del producer
    place = world.place(
        sources=("raw_events__user_events",),
        models=("stg_events__user_events", "dim_users", "fct_events"),
        topics=(("user_events", topic),),
        now="2025-11-03T12:00:00+00:00",
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
    assert position == (str(good + len(poison) + 1),)
    assert [letter[2] for letter in letters] == [101 * place_ + 51 for place_ in range(len(poison))]
    for (name, partition, _, payload, reason), (value, word) in zip(letters, poison, strict=True):
        # A message without a value has no bytes; its reason tells it from an empty one.
        assert (name, partition, bytes(payload)) == (topic, 0, value or b"")
        assert word in reason, value
