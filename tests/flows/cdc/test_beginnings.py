"""From where change topics are read when the broker has lost something of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from flows.change_landing import land_changes
from flows.change_topics import TOPIC, beginnings
from flows.extract import SourceError, cdc
from flows.extract.debezium_guard import ANEW, REMEMBERED, Observed
from flows.extract.kafka import REQUEST_SECONDS, Topic
from tests.broker import make_topics
from tests.flows.capture import empty_topics, entity
from tests.flows.extract.told import landed_once, rows_of
from tests.flows.streaming.topics import until
from tests.house import House

ALPHA = entity("alpha")


class _Seen:
    """What of the source and the connector counts here."""

    registration = "second"


@pytest.mark.full
def test_a_new_registration_begins_anew_where_the_broker_lost_the_topic_and_goes_on_elsewhere(
    house: House, tmp_path: Path
) -> None:
    settings = empty_topics(house, tmp_path, "alpha")
    name = f"{settings.cdc_prefix}.public.alpha"
    producer = Producer({"bootstrap.servers": house.kafka})
    for _ in range(3):
        producer.produce(name, b"{}", partition=0)
    assert producer.flush(30) == 0
    topic = Topic(name, house.kafka, {}, REQUEST_SECONDS)
    topic.held()

    def begun(topic_id: str, offset: int, registration: str = "first") -> dict[str, Any]:
        position = {
            "topic_id": topic_id,
            "offsets": {"0": offset},
            cdc.TRANSACTIONS: 7,
            REMEMBERED: {"registration": registration, TOPIC: name},
        }
        at = beginnings(settings, {ALPHA: position}, cast(Observed, _Seen()))[ALPHA]
        return {key: value for key, value in at.items() if key != REMEMBERED}

    there = {"topic_id": topic.id, "offsets": {"0": 2}, cdc.TRANSACTIONS: 7}
    assert begun(topic.id, 2) == there
    assert begun("of a topic that is gone", 2) == {cdc.TRANSACTIONS: 7}
    assert begun(topic.id, 500) == {cdc.TRANSACTIONS: 7}  # the broker has lost what was read
    # Without a new registration nobody sends anything anew: it halts, with the command that has it sent.
    assert begun("of a topic that is gone", 2, "second")["topic_id"] == "of a topic that is gone"


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_change_topic_that_was_made_anew_halts_and_the_command_it_names_makes_the_table_right(
    house: House, tmp_path: Path
) -> None:
    with landed_once(house, tmp_path, ALPHA) as (capture, services):
        name = f"{capture.settings.cdc_prefix}.public.alpha"
        admin = AdminClient({"bootstrap.servers": house.kafka})
        capture.app("delete from alpha where id = 1", "update alpha set label = 'x' where id = 2")
        until(lambda: len(capture.ids("alpha")) == 4)
        admin.delete_topics([name])[name].result(20)
        until(lambda: name not in admin.list_topics(timeout=10).topics)
        make_topics(house.kafka, name)
        with pytest.raises(SourceError, match="made anew") as caught:
            land_changes(services, [ALPHA], "halted").of(ALPHA)
        assert str(caught.value).endswith(ANEW)

        capture.anew(ALPHA)
        capture.app("insert into alpha values (4, 'after')")
        until(lambda: 4 in capture.ids("alpha"), 60)
        land_changes(services, [ALPHA], "anew").of(ALPHA)
        assert rows_of(services, ALPHA) == capture.app("select id, label from alpha order by id")
