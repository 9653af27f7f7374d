"""A topic begins as its newest records show it."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from confluent_kafka import Producer

from flows.errors import FlowsError
from flows.new.json_fields import Kind
from flows.new.topic import Field, Shape, shape, staging
from tests.broker import make_topics
from tests.flows.new.begun import Begun
from tests.house import House
from transforms import engine, registry
from transforms.entities import Kafka

_OF_TYPE: dict[str, Kind] = {"VARCHAR": "varchar", "BIGINT": "bigint", "INTEGER": "integer"}
_OWN = {"event_id", "event_time", "kafka_partition", "kafka_offset", "_batch_id", "_seq"}
ID, AT = "00000000-0000-0000-0000-{:012d}", "2025-10-07T12:00:00Z"


def _sent(house: House, *values: dict[str, Any] | bytes, partitions: int = 2) -> str:
    topic = f"searches.{secrets.token_hex(4)}"
    make_topics(house.kafka, topic, partitions=partitions)
    producer = Producer({"bootstrap.servers": house.kafka})
    for number, value in enumerate(values):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(topic, body, partition=number % partitions)
    assert producer.flush(30) == 0
    return topic


@pytest.mark.parametrize("name", ["clicks", "page_views"])
def test_the_models_of_this_projects_topics_are_what_would_be_written(name: str) -> None:
    table = registry.table(f"stg_events__{name}")
    fields = [
        Field(column.name, _OF_TYPE[column.type], column.description)
        for column in table.columns
        if column.name not in _OWN
    ]
    text = staging(f"raw_events__{name}", table.grain, Shape("event_id", "event_time", fields))
    assert table.path is not None
    assert text == table.path.read_text(encoding="utf-8")


def test_a_topic_comes_out_typed_by_its_records(
    begun: Begun, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = _sent(
        house,
        {
            "id": ID.format(1), "at": AT, "userId": 7, "query": "shoes", "hits": 3, "took": 0.5,
            "isBot": False, "shown_at": AT, "filters": {"size": 40}, "key": "k", "text": 5,
            "odd name": 1, "none": None, "order": 1, "from": "a", "_id": "i", "_1st": 1,
            "Twice": 1, "twice": 2,
        },
        {"id": ID.format(2), "at": AT, "query": "", "took": 2, "new": True},
        b"no JSON",
        b"[1]",
    )  # fmt: skip
    monkeypatch.setenv("ANALYTICS_KAFKA_BOOTSTRAP", house.kafka)
    known = begun.new("events.searches", "--read", topic, "--time", "at")

    entity = known.entities["raw_events__searches"]
    assert isinstance(entity.read, Kafka)
    assert (entity.read.topic, entity.read.event_time) == (topic, "at")
    table = known.table("stg_events__searches")
    assert {column.name: column.type for column in table.columns if column.name not in _OWN} == {
        "user_id": "BIGINT", "query": "VARCHAR", "hits": "BIGINT", "took": "DOUBLE", "is_bot": "BOOLEAN",
        "shown_at": "TIMESTAMP WITH TIME ZONE", "filters": "JSON", "event_key": "VARCHAR",
        "event_text": "BIGINT", "none": "VARCHAR", "order": "BIGINT", "from": "VARCHAR", "id": "VARCHAR",
        "new": "BOOLEAN",
    }  # fmt: skip
    assert begun.differences(known) == []
    assert any("odd name, _1st, Twice, twice." in line for line in begun.draft.next)
    declared = begun.project.declarations("events").read_text(encoding="utf-8")
    assert f'topic="{topic}",' in declared


def test_what_is_not_of_its_type_is_a_dead_letter_by_name(begun: Begun) -> None:
    values = [{"event_id": ID.format(1), "event_time": AT, "ratio": 0.5, "ok": True, "seen_at": AT, "n": 1}]
    found = shape("t", [json.dumps(one).encode() for one in values])
    path = begun.project.models / "staging" / "stg_events__searches.sql"
    path.write_text(staging("raw_events__clicks", "one row", found), encoding="utf-8")
    known = registry.read(begun.project.models, registry.declared_entities())
    wrong = {"ratio": "x", "ok": 1, "seen_at": "yesterday", "n": 1.5}
    with engine.connect() as connection:
        rows = ", ".join(
            f"('t', 0, {place}, now(), null, null, '{json.dumps({**values[0], **given})}'::blob, 'b', "
            f"now(), {place})"
            for place, given in enumerate([{}, *({name: value} for name, value in wrong.items())])
        )
        columns = ", ".join(column.name for column in known.table("raw_events__clicks").columns)
        given = connection.sql(f"select * from (values {rows}) as raw({columns})")
        computed = engine.compute(
            "stg_events__searches", connection, {"raw_events__clicks": given}, registry=known
        )
        assert computed.dead_letters is not None
        told = computed.dead_letters.order("kafka_offset").project("_dead_letter_reason").fetchall()
        assert len(computed.rows.fetchall()) == 1
    assert told == [
        ("ratio is no number",),
        ("ok is neither true nor false",),
        ("seen_at is no ISO 8601 time with an offset",),
        ("n is no integer",),
    ]


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ([], {}, "no record with a value yet"),
        ([b"1", b"x"], {}, r"none of its newest 2 values is a JSON object\. Have its producer"),
        ([b"\0\0\0\0\7\6abc"], {}, "JSON object, and all begin as those of a schema registry"),
        ([{"a": 1, "at": AT}], {}, "a, at none is what tells one event from the others"),
        ([{"a": ID.format(1), "b": ID.format(2), "at": AT}], {}, "--key a or b"),
        ([{"event_id": ID.format(1), "at": "12:00"}], {}, "when it happened"),
        ([{"event_id": ID.format(1), "event_time": AT}], {"time": "when"}, "when is not when it happened"),
        ([{"id": ID.format(1), "event_time": AT}, {"event_time": AT}], {}, "none is what tells one event"),
    ],
)
def test_records_that_are_no_events_are_refused_with_what_to_say(
    values: list[Any], options: dict[str, str], said: str
) -> None:
    sent = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    with pytest.raises(FlowsError, match=said):
        shape("t", sent, **options)
