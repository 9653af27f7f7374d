"""The stream: what is sent is there, once, whatever happens meanwhile."""

from __future__ import annotations

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer

from flows.extract import SourceError, kafka_records
from flows.landing import land
from flows.progress import Progress
from flows.stores.manifest import LakeFile
from flows.stores.warehouse_errors import WarehouseError
from flows.streaming import taking_in
from flows.streaming.consumer import StreamConsumer
from flows.streaming.journal import Fenced, Journal, Journaled
from tests.flows.extract.parts import Broker
from tests.flows.replaying import let_producers_say_the_time
from tests.flows.streaming.counting import without_copies
from tests.flows.streaming.topics import Topics, until
from tests.house import House
from transforms.contract import Rule, RuleKind


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def test_messages_become_rows_and_their_raw_records_are_landed(topics: Topics) -> None:
    topics.send(topics.event(number) for number in range(500))
    topics.send([topics.event(500)], partition=2)

    tally = topics.stream()

    assert (tally.messages, tally.rows, tally.copies, tally.dead_letters) == (501, 501, 0, 0)
    assert topics.numbers() == [*((number, 0, number) for number in range(500)), (500, 2, 0)]
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == 501
    assert topics.rows("select count(*) from ops.stream_batch") == [(0,)]
    again = topics.stream()
    assert (again.messages, again.rows) == (0, 0)


@pytest.mark.parametrize("taken_in_by", ["stream", "batch"])
def test_a_record_lands_with_the_time_key_and_headers_that_it_was_sent_with(
    topics: Topics, taken_in_by: str
) -> None:
    let_producers_say_the_time(topics)
    value, key = json.dumps(topics.event(1)).encode(), b"\xff\x00"
    headers: list[tuple[str, str | bytes | None]] = [("a", b"\xfe"), ("a", None)]
    at = topics.began - timedelta(hours=1, milliseconds=-123)
    producer = Producer({"bootstrap.servers": topics.world.kafka_bootstrap})
    producer.produce(topics.topic(), value, key, 1, timestamp=round(at.timestamp() * 1000), headers=headers)
    assert producer.flush(30) == 0

    if taken_in_by == "stream":
        topics.stream()
    else:
        topics.world.land(topics.entity())

    landed = [{"name": name, "value": content} for name, content in headers]
    assert topics.world.raw(topics.entity(), f"select {', '.join(kafka_records.SCHEMA.names)} from raw") == [
        (topics.topic(), 1, 0, at, key, landed, value)
    ]


def test_what_is_no_event_is_a_dead_letter_with_its_bytes_and_the_rest_goes_on(topics: Topics) -> None:
    bad = [b"\xff\xfe", b"{", b"[1]", b'{"event_id": 1}', b'{"a": NaN}', b"[" * 100_000]
    topics.send([topics.event(1), *bad, topics.event(2)])

    tally = topics.stream()

    assert tally.dead_letters == len(bad)
    assert [number for number, _, _ in topics.numbers()] == [1, 2]
    letters = topics.rows("select kafka_offset, payload from ops.dead_letter order by 1")
    assert [(offset, bytes(payload)) for offset, payload in letters] == list(enumerate(bad, start=1))
    topics.batch()
    assert topics.rows("select count(*) from ops.dead_letter") == [(len(bad),)]


def test_a_row_that_breaks_a_rule_of_its_own_is_never_seen_but_a_dead_letter(topics: Topics) -> None:
    way = topics.way
    (fact,) = way.facts
    known = Rule(
        "known_event_type",
        "accepted_values",
        RuleKind.CONSISTENCY,
        {"column": "event_type", "values": ["login"]},
    )
    strict = replace(way, facts=(replace(fact, expect=(*fact.expect, known)),))
    topics.send([topics.event(1, user_id=1), topics.event(2, user_id=1, event_type="logout")])

    tally = topics.stream(way=strict)

    assert (tally.rows, tally.dead_letters) == (1, 1)
    assert topics.numbers() == [(1, 0, 0)]
    assert [count for count, _, _ in topics.counts().values()] == [1]
    ((offset, payload, reason),) = topics.rows("select kafka_offset, payload, reason from ops.dead_letter")
    assert (offset, json.loads(bytes(payload))["event_type"]) == (1, "logout")
    assert reason.startswith("it breaks the rule known_event_type of fct_events")
    assert len(topics.raw_places()) == 2


def test_of_two_copies_the_lower_partition_counts_whichever_comes_first(topics: Topics) -> None:
    topics.send([topics.event(1, partition=1), topics.event(2), topics.event(2)], partition=1)
    topics.stream()
    assert topics.numbers() == [(1, 1, 0), (2, 1, 1)]

    topics.send([topics.event(2, minutes=3000)], partition=2)  # another time, and behind: left out
    topics.send([topics.event(1, minutes=3000)], partition=0)  # another day, and before: it takes the place
    topics.stream()

    assert topics.numbers() == [(1, 0, 0), (2, 1, 1)]
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before


def test_a_batch_agrees_with_the_stream_and_writes_nothing(topics: Topics) -> None:
    topics.send(topics.event(number, minutes=number) for number in range(3000))
    topics.stream()
    before = topics.rows("select *, ctid, tableoid from analytics.fct_events order by event_id")

    done = topics.batch()

    assert sum(built.rows for built in done["fct_events"]) == 3000
    assert sum(built.rows_written for built in done["fct_events"]) == 0
    after = topics.rows("select *, ctid, tableoid from analytics.fct_events order by event_id")
    assert after == before


def test_a_batch_before_and_after_and_the_stream_in_between_give_one_warehouse(topics: Topics) -> None:
    topics.send(topics.event(number) for number in range(100))
    topics.batch()
    topics.send((topics.event(number) for number in range(50, 150)), partition=1)
    topics.stream()
    topics.send((topics.event(number) for number in range(120, 200)), partition=2)
    topics.batch()

    sent = [
        *((number, 0, number) for number in range(100)),
        *((number, 1, number - 50) for number in range(50, 150)),
        *((number, 2, number - 120) for number in range(120, 200)),
    ]
    assert topics.numbers() == list(without_copies(sent))
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == len(sent)


def test_while_a_stream_lives_a_batch_lands_only_what_it_took_in(topics: Topics) -> None:
    topics.send(topics.event(number) for number in range(10))
    services = topics.world.services()
    with services.lake, topics.living() as living:
        until(lambda: len(topics.numbers()) == 10)
        landing = land(services, topics.entity(), "batch")
        assert landing is not None
        assert landing.rows == 10
        topics.send(topics.event(number) for number in range(10, 20))
        until(lambda: len(topics.numbers()) == 20)
    assert living.result().messages == 20
    assert [offset for _, _, offset in topics.raw_places()] == list(range(20))


def test_two_streams_share_the_partitions_and_take_each_message_in_once(topics: Topics) -> None:
    for partition in range(3):
        first = partition * 1000
        topics.send((topics.event(number) for number in range(first, first + 1000)), partition)
    with ThreadPoolExecutor(2) as pool:
        services = [topics.world.services() for _ in range(2)]
        tallies = list(pool.map(topics.stream, services))

    assert sum(tally.messages for tally in tallies) == 3000
    assert len(topics.numbers()) == 3000
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == 3000


def test_what_a_producer_took_back_is_never_seen(topics: Topics) -> None:
    producer = Producer(
        {"bootstrap.servers": topics.world.kafka_bootstrap, "transactional.id": topics.topic()}
    )
    producer.init_transactions(30)
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topics.topic(), json.dumps(topics.event(number)).encode(), partition=0)
        assert producer.flush(30) == 0  # or an abort would leave nothing at the broker to be hidden
        if number % 2:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)

    topics.stream()

    assert [number for number, _, _ in topics.numbers()] == [0, 2, 4]


def test_records_that_the_broker_deleted_unread_stop_the_stream_loudly(topics: Topics) -> None:
    topics.send(topics.event(number) for number in range(10))
    topics.stream()
    topics.send(topics.event(number) for number in range(10, 30))
    topics.delete_before(20)

    with pytest.raises(SourceError, match=r"offsets 10 to 19 were deleted"):
        topics.stream()

    assert len(topics.numbers()) == 10


@pytest.mark.full
def test_sessions_that_are_cut_again_and_again_lose_nothing_and_double_nothing(topics: Topics) -> None:
    with topics.living() as living:
        for number in range(60):
            first = number * 50
            topics.send((topics.event(n) for n in range(first, first + 50)), partition=number % 3)
            if number % 6 == 0:
                topics.rows(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
        until(lambda: len(topics.numbers()) == 3000, 90)
    assert living.result().interruptions > 0
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == 3000
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before
    assert topics.left_over() == []


@pytest.mark.full
def test_a_broker_that_is_killed_and_comes_back_loses_nothing_and_doubles_nothing(
    house: House, tmp_path: Path
) -> None:
    broker = Broker()
    try:
        topics = Topics.build(house, tmp_path, bootstrap=broker.bootstrap)
        with topics.living():
            for number in range(3):
                first = number * 1000
                topics.send((topics.event(n) for n in range(first, first + 1000)), partition=number)
                if number == 1:
                    until(lambda: len(topics.numbers()) > 0, 60)
                broker.kill()
                time.sleep(2)
                broker.start()
            until(lambda: len(topics.numbers()) == 3000, 120)
        assert len(topics.raw_places()) == len(set(topics.raw_places())) == 3000
    finally:
        broker.end()


def test_a_warehouse_that_stays_away_does_not_keep_a_stream_beyond_its_time(topics: Topics) -> None:
    topics.world.warehouse_dsn = "host=127.0.0.1 port=9 dbname=nobody"
    begun = time.monotonic()
    with pytest.raises(WarehouseError, match="connection to the warehouse failed"):
        taking_in.take_in(topics.world.services(), topics.way, stop=threading.Event(), seconds=2)
    assert time.monotonic() - begun < 30


def test_a_stream_that_waits_for_a_batch_says_so_and_ends_when_it_is_told_to(topics: Topics) -> None:
    topics.send([topics.event(1)])
    services, said, stop = topics.world.services(), io.StringIO(), threading.Event()
    progress = Progress("test", said)
    with (
        services.lake,
        services.warehouse.connect() as batch,
        ThreadPoolExecutor(1) as pool,
        Journal(batch).alone(topics.entity("clicks").table),
    ):
        waits = pool.submit(taking_in.take_in, services, topics.way, stop=stop, progress=progress)
        until(lambda: "a batch is reading raw_events__clicks" in said.getvalue(), 30)
        stop.set()
        assert waits.result(20).messages == 0
    assert topics.stream().messages == 1


@pytest.mark.full
def test_a_stream_for_which_the_group_has_no_partition_is_idle(topics: Topics) -> None:
    topics.send([topics.event(1)])
    with ExitStack() as others:
        for _ in range(4):
            others.enter_context(topics.living())
        until(lambda: len(topics.numbers()) == 1, 60)
        begun = time.monotonic()
        topics.stream()
        assert time.monotonic() - begun < 50, "it ended by its time, not because it was idle"


def test_an_older_claim_can_commit_nothing(topics: Topics) -> None:
    entity = topics.entity()
    with topics.world.services().warehouse.connect() as connection:
        journal = Journal(connection)
        old = journal.take(entity.table, {0: 5}, "zombie")
        new = journal.take(entity.table, {0: 5}, "successor")
        file = LakeFile(entity.table, "raw", "", "raw/x.parquet", 3, 1, "")
        batch = Journaled("b", entity.table, "id", {0: (5, 8)}, {}, file)
        with pytest.raises(Fenced, match="taken it over"), connection.transaction():
            journal.enter(batch, old)
        with connection.transaction():
            journal.enter(batch, new)
        assert journal.positions(entity.table)["offsets"] == {"0": 8}
        with pytest.raises(Fenced), connection.transaction():
            journal.enter(batch, new)  # the same once more

        # It was asked where to begin before the last owner committed: that counts.
        assert journal.take(entity.table, {0: 5}, "third")[0].next_offset == 8


def test_what_was_read_is_settled_before_partitions_change_hands(topics: Topics) -> None:
    topics.send([topics.event(0)])
    held: list[bool] = []
    with topics.world.services().warehouse.connect() as connection:
        consumer = StreamConsumer(
            topics.way,
            Journal(connection),
            topics.world.kafka_bootstrap,
            {},
            "one",
            lambda: held.append(has_claims()),
            lambda: None,
        )

        def has_claims() -> bool:
            return consumer.lag > 0 or bool(consumer.ended({(topics.entity().table, 0)}))

        until(lambda: bool(consumer.read(0.1)))
        until(lambda: not consumer.read(0.1) and consumer.is_idle)
        assert held == [False]  # before they came
        consumer.close()
        assert held == [False, True]  # before they went
