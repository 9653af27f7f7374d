"""One event more than the generated world has, late, in the topic and in the truth."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime

import polars as pl
from confluent_kafka import Consumer, Producer, TopicPartition

from flows.sandbox import world
from flows.sandbox.world import topics, truth
from tests.flows.company import Company

_DAY = 86_400_000_000


def send_late_event(company: Company, days: int) -> date:
    """Let a signed-in user's event of `days` days ago arrive now; returns its day (UTC)."""
    state = company.state()
    lived = world.World.load(state.folder)
    assert lived is not None
    assert state.kafka_bootstrap is not None
    last = lived.periods - 1
    sent = lived.log.scan("deliveries", last, last + 1).collect()
    like = sent.filter(
        (pl.col("topic") == 0)
        & ~pl.col("copied")
        & pl.col("reason").is_null()
        & pl.col("user_id").is_not_null()
        # Of today, not of the days from which late events came.
        & (pl.col("event_time") > pl.col("event_time").max() - _DAY // 2)
    ).row(0, named=True)
    key, document = _message(state.kafka_bootstrap, like["partition"], like["offset"])
    moment = like["event_time"] - days * _DAY
    document["event_id"] = str(uuid.uuid4())
    document["event_time"] = datetime.fromtimestamp(moment / 1e6, UTC).isoformat()
    positions = topics.positions(state.kafka_bootstrap)
    place = {"partition": like["partition"], "offset": positions["user_events"][like["partition"]]}
    late = sent.clear().vstack(
        pl.DataFrame(
            [like | place | {"event_id": document["event_id"], "event_time": moment}], schema=sent.schema
        )
    )
    lived.log.write("deliveries", last, sent.vstack(late))
    producer = Producer({"bootstrap.servers": state.kafka_bootstrap})
    producer.produce("user_events", json.dumps(document).encode(), key, partition=like["partition"])
    assert producer.flush(30) == 0
    positions = topics.positions(state.kafka_bootstrap)
    truth.write(state.folder / "truth", lived.shape, lived.log, lived.periods, lived.stops, lived.commits)
    replace(lived, positions=positions).save()
    company.changed()
    return datetime.fromtimestamp(moment / 1e6, UTC).date()


def _message(bootstrap: str, partition: int, offset: int) -> tuple[bytes, dict[str, object]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "late", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition("user_events", partition, offset)])
        message = consumer.poll(30)
        assert message is not None
        assert message.error() is None
        return bytes(message.key() or b""), json.loads(message.value() or b"")
    finally:
        consumer.close()
