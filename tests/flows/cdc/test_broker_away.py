"""A broker that goes away with half of a transaction delivered: silence is not the end of a topic."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

import flows.sandbox as sandbox
from flows.cdc import pending
from flows.cdc.feed import ChangeFeed
from flows.cdc.pending import Cut
from flows.extract import debezium
from flows.sandbox import Part
from tests.flows.capture import empty_topics, entity
from tests.flows.streaming.topics import until
from tests.house import House
from transforms import engine

ALPHA, BETA = entity("alpha"), entity("beta")
CHANGE = {"op": "u", "source": {"txId": 7, "snapshot": "false"}}
END = {
    "status": "END",
    "id": "7:1",
    "data_collections": [
        {"data_collection": f"public.{name}", "event_count": 1} for name in ("alpha", "beta")
    ],
}


@pytest.mark.full
@pytest.mark.timeout(300)
def test_what_a_broker_has_not_delivered_before_it_went_away_is_waited_for(
    own_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One change of it was read, the other and its end come once the broker is back."""
    monkeypatch.setattr(pending, "STALL_SECONDS", 1.0)
    settings = empty_topics(own_house, tmp_path, "alpha", "beta")
    prefix, ends = settings.cdc_prefix, debezium.names(settings).transactions
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})

    cuts: list[Cut] = []

    def handed_on() -> bool:
        feed.poll(0.1)
        cuts.extend([cut] if (cut := feed.cut()) else [])
        return bool(cuts)

    def tell(topic: str, message: dict[str, Any]) -> None:
        producer.produce(topic, json.dumps(message), partition=0)
        assert producer.flush(60) == 0

    with closing(ChangeFeed(settings, {ALPHA: {}, BETA: {}}, engine.connect(threads=1), tmp_path)) as feed:
        tell(f"{prefix}.public.alpha", CHANGE)
        until(lambda: feed.poll(0.1) == 1)
        until(lambda: feed.poll(0.1) == 0 and feed.is_read)
        own_house.kill(Part.KAFKA)
        away_until = time.monotonic() + 4
        while time.monotonic() < away_until:
            feed.poll(0.1)
            assert feed.cut() is None
        state = sandbox.start(own_house.folder, frozenset({Part.KAFKA}))
        assert state.kafka_bootstrap == settings.kafka_bootstrap
        monkeypatch.setattr(pending, "STALL_SECONDS", 10.0)
        tell(f"{prefix}.public.beta", CHANGE)
        tell(ends, END)
        until(handed_on, seconds=30)
        assert (cuts[-1].rows, cuts[-1].incomplete) == (2, ())
        feed.done(cuts.pop())
        monkeypatch.setattr(pending, "STALL_SECONDS", 1.0)
        tell(f"{prefix}.public.alpha", {**CHANGE, "source": {"txId": 8, "snapshot": "false"}})
        until(handed_on, seconds=30)
        assert [(one.transaction, one.reason) for one in cuts[-1].incomplete] == [(8, "its end did not come")]
