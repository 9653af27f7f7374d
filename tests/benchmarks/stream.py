"""The stream on a real broker: how much it takes in when it is behind and in how much memory, beside
quixstreams; how soon an event can be queried when it is not behind. Broker, database and stream share the
machine.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import flows.sandbox as sandbox
from flows import stream
from flows.sandbox import Part
from flows.services import Services
from flows.stores import apply, leaf_indexes
from flows.stores.difference import duckdb_session
from flows.streaming.route import route
from flows.streaming.tally import Tally
from tests.benchmarks.environments import interpreter, seconds_of
from tests.benchmarks.events import messages
from tests.benchmarks.measure import Result, slope
from tests.benchmarks.processes import Done, in_child
from tests.benchmarks.server import CACHE, Server, settle
from transforms import registry
from transforms.entities import Kafka, SourceEntity

WAITING = 3_000_000
RATE = 5_000
QUIX = "3.28"
_QUIX_MESSAGES = 60_000
_PARTITIONS = 4
_REPEATED = 40
_WARM_SECONDS = 10
_CHUNK = 10_000
_LONGEST_SECONDS = 3 * 3600.0


def run(server: Server, full: bool) -> Iterator[Result]:
    """user_events alone, 2.5 % of them sent twice. What is taken in is counted in PostgreSQL and in the lake:
    each event once. quixstreams reads the beginning of the same topic afterwards, alone on the machine too.
    """
    bootstrap = broker()
    number = WAITING
    python = interpreter("quix", QUIX, (f"quixstreams=={QUIX}.*",))
    with server.services(kafka_bootstrap=bootstrap) as services, _topic(bootstrap) as entity:
        _produce(bootstrap, entity, _sent(number))
        settle(services.settings.require("warehouse_dsn"))
        done = in_child(services.settings, _take_in, entity, None)
        _prove(services, entity, number)
        theirs = _quix_seconds(python, bootstrap, entity, services.lake.root / "quix")
    tally = done.result
    details = {"seconds": round(done.seconds, 1), "micro_batches": tally.batches, "copies": tally.copies}
    yield Result(
        f"events taken in a second, {number:,} waiting, exactly once into lake and PostgreSQL, indexed",
        number / done.seconds,
        "/s",
        80_000,
        "at least",
        None,
        details,
    )
    yield Result(
        "quixstreams counting them by key and 5 minutes, exactly once ÷ taking them in, time an event",
        (theirs / _QUIX_MESSAGES) / (done.seconds / number),
        "×",
        20,
        "at least",
        None,
        {"quixstreams": QUIX, "seconds": {"quixstreams": round(theirs, 1)}, "messages": _QUIX_MESSAGES},
    )
    yield Result(
        f"peak memory of the stream, {number:,} waiting", done.peak_gb, "GB", 1.0, "at most", None, details
    )
    number = RATE * (300 if full else 60)
    waited = sorted(at_rate(server, list(_sent(number)), number).result.latencies)
    details = {"events": number, "micro_batches": len(waited), "worst": round(waited[-1] * 1000)}
    claim = f"ms from the broker to queryable, oldest of a micro-batch, at {RATE:,} events/s"
    yield Result(f"{claim}: p50", waited[len(waited) // 2] * 1000, "ms", 200, "at most", None, details)
    yield Result(f"{claim}: p99", waited[int(len(waited) * 0.99)] * 1000, "ms", 500, "at most", None, details)


def run_steadily(server: Server, full: bool) -> Iterator[Result]:
    """Half an hour of RATE: how fast the stream's memory grows once it is warm. What it has to know, the
    identities of the events within the lookback, grows with them.
    """
    if not full:
        return
    seconds, warm = 1800, 300
    number = RATE * seconds
    done = at_rate(server, _sent(number), number)
    details = {
        "events": number,
        "peak_gb": round(done.peak_gb, 2),
        "gb_every_five_minutes": [round(resident, 2) for _, resident in done.samples[::300]],
    }
    yield Result(
        f"growth of the stream's memory, {RATE:,} events/s for 30 minutes, the first five left out",
        slope(done.samples, after=_WARM_SECONDS + warm) * 1024 * 3600,
        "MB/h",
        100,
        "at most",
        None,
        details,
    )


def at_rate(server: Server, pairs: Iterable[tuple[bytes, bytes]], number: int) -> Done[Tally]:
    """A stream that lives while these `number` messages are sent, RATE a second."""
    bootstrap = broker()
    stop = get_context("spawn").Event()
    with (
        server.services(kafka_bootstrap=bootstrap) as services,
        _topic(bootstrap) as entity,
        ThreadPoolExecutor(1) as pool,
    ):
        living = pool.submit(in_child, services.settings, _take_in, entity, stop)
        try:
            time.sleep(_WARM_SECONDS)
            _produce(bootstrap, entity, pairs, RATE)
            time.sleep(2)
        finally:
            stop.set()
        done = living.result()
        _prove(services, entity, number)
    return done


def broker() -> str:
    """The address of a broker beside the warehouse server."""
    state = sandbox.start(CACHE / "sandbox", parts=frozenset({Part.KAFKA}))
    assert state.kafka_bootstrap is not None
    return state.kafka_bootstrap


@contextmanager
def _topic(bootstrap: str) -> Iterator[SourceEntity]:
    declared = registry.entity("raw_events__user_events")
    name = f"bench-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, _PARTITIONS, 1)])[name].result(20)
    try:
        yield replace(declared, read=Kafka(name))
    finally:
        admin.delete_topics([name])[name].result(20)


def _sent(number: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values, made while they are sent: nobody has to hold nine million of them."""
    day = datetime.now(UTC) - timedelta(days=1)
    with duckdb_session() as session:
        cursor = session.execute(f"select key, value from ({messages(f'{day:%Y-%m-%d}', number)})")
        while rows := cursor.fetchmany(_CHUNK):
            yield from rows


def _produce(
    bootstrap: str,
    entity: SourceEntity,
    pairs: Iterable[tuple[bytes, bytes]],
    rate: float | None = None,
) -> None:
    """Send all, at most `rate` a second."""
    assert isinstance(entity.read, Kafka)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 50 if rate is None else 2,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 1 << 20,
        }
    )
    begun = time.perf_counter()
    for number, (key, value) in enumerate(pairs):
        while True:
            try:
                producer.produce(entity.read.topic, value, key, partition=number % _PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 100 == 0:
            producer.poll(0)
            if rate is not None:
                time.sleep(max(0.0, number / rate - (time.perf_counter() - begun)))
    assert producer.flush(120) == 0


def _take_in(services: Services, entity: SourceEntity, stop: threading.Event | None) -> Tally:
    """Until `stop` is set, or, without one, all that is there, and the leaves indexed as sealing does it."""
    way = replace(route([entity]), group=f"bench-{secrets.token_hex(4)}")
    tally = stream.run(
        services,
        way,
        stop=stop or threading.Event(),
        until_idle=stop is None,
        seconds=_LONGEST_SECONDS,
    )
    if stop is None:
        with services.warehouse.connect() as connection:
            for table in (*way.facts, *way.windows):
                leaf_indexes.complete(connection, table, apply.leaves(connection, table))
    return tally


def _quix_seconds(python: Path, bootstrap: str, entity: SourceEntity, folder: Path) -> float:
    """Seconds that quixstreams needs for so many messages of the topic, which have then been committed."""
    assert isinstance(entity.read, Kafka)
    topic, group = entity.read.topic, f"quix-{secrets.token_hex(4)}"
    known = (bootstrap, topic, str(_PARTITIONS), group, str(_QUIX_MESSAGES), str(folder))
    seconds = seconds_of(python, "quix_counts.py", *known)
    with closing(Consumer({"bootstrap.servers": bootstrap, "group.id": group})) as consumer:
        places = [TopicPartition(topic, partition) for partition in range(_PARTITIONS)]
        committed = sum(max(place.offset, 0) for place in consumer.committed(places, timeout=20))
    assert committed == _QUIX_MESSAGES, committed
    return seconds


def _prove(services: Services, entity: SourceEntity, sent: int) -> None:
    """Each event once in PostgreSQL and in its count (or beside it: too late for it), each message once in
    the lake.
    """
    with psycopg.connect(services.settings.require("warehouse_dsn")) as connection:
        rows = connection.execute(
            "select count(*), count(distinct event_id) from analytics.fct_events"
        ).fetchone()
        counted = connection.execute(
            "select (select coalesce(sum(event_count), 0) from analytics.user_event_counts) "
            "+ (select coalesce(sum(event_count), 0) from ops.user_event_counts_late), "
            "(select count(user_id) from analytics.fct_events)"
        ).fetchone()
    assert rows == (sent - sent // _REPEATED, sent - sent // _REPEATED), rows
    assert counted is not None
    assert counted[0] == counted[1], counted
    with services.ledger() as ledger, duckdb_session() as session:
        raw = services.lake.read(session, ledger.files(entity.table))
        landed = raw.aggregate("count(*), count(distinct (kafka_partition, kafka_offset))").fetchall()
    assert landed == [(sent, sent)], landed
