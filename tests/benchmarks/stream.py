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
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from multiprocessing import get_context

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

import flows.sandbox as sandbox
from flows.sandbox import Part
from flows.services import Services
from flows.stores import apply, leaf_indexes
from flows.streaming import taking_in
from flows.streaming.route import route
from flows.streaming.tally import Tally
from tests.benchmarks import quix
from tests.benchmarks.events import messages
from tests.benchmarks.measure import Result, slope
from tests.benchmarks.processes import Done, in_child
from tests.benchmarks.server import CACHE, Server, settle
from tests.broker import make_topics
from transforms import engine, registry
from transforms.entities import Kafka, SourceEntity

WAITING = 3_000_000
RATE = 5_000
_PARTITIONS = 4
_BY_KEY = -1
_REPEATED = 40
_WARM_SECONDS = 10
_CHUNK = 10_000
_LONGEST_SECONDS = 3 * 3600.0


def run(server: Server, full: bool) -> Iterator[Result]:
    """user_events alone, 2.5 % of them sent twice. What is taken in is counted in PostgreSQL and in the lake:
    each event once. quixstreams reads the beginning of the same topic afterwards, alone on the machine too.
    To do the same as ours it reads that beginning from a topic whose partitions go by key, and has a database
    of its own.
    """
    bootstrap = broker()
    number = WAITING
    quix.environment()
    with server.services(kafka_bootstrap=bootstrap) as services, _topic(bootstrap) as entity:
        _produce(bootstrap, entity, _sent(number))
        settle(services.settings.require("warehouse_dsn"))
        done = in_child(services.settings, _take_in, entity, None)
        _prove(services, entity, number)
        counting = quix.counting(bootstrap, entity, _PARTITIONS, services.lake.root / "quix")
    with server.services(kafka_bootstrap=bootstrap) as services, _topic(bootstrap) as entity:
        _produce(bootstrap, entity, islice(_sent(number), quix.MESSAGES), by_key=True)
        same = quix.doing_the_same(services, bootstrap, entity, _PARTITIONS, _distinct(quix.MESSAGES))
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
    for what, seconds in (
        ("counting them by key and 5 minutes, exactly once", counting),
        ("putting events and counts into PostgreSQL too, each once, same indexes", same),
    ):
        yield Result(
            f"quixstreams {what} ÷ taking them in, time an event",
            (seconds / quix.MESSAGES) / (done.seconds / number),
            "×",
            20,
            "at least",
            None,
            {
                "quixstreams": quix.QUIX,
                "seconds": {"quixstreams": round(seconds, 1)},
                "messages": quix.MESSAGES,
            },
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
    make_topics(bootstrap, name, partitions=_PARTITIONS)
    try:
        yield replace(declared, read=Kafka(name))
    finally:
        admin.delete_topics([name])[name].result(20)


def _sent(number: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values, made while they are sent: nobody has to hold nine million of them."""
    day = datetime.now(UTC) - timedelta(days=1)
    with engine.connect(keeps_order=True) as session:
        cursor = session.execute(f"select key, value from ({messages(f'{day:%Y-%m-%d}', number)})")
        while rows := cursor.fetchmany(_CHUNK):
            yield from rows


def _produce(
    bootstrap: str,
    entity: SourceEntity,
    pairs: Iterable[tuple[bytes, bytes]],
    rate: float | None = None,
    by_key: bool = False,
) -> None:
    """Send all, at most `rate` a second, to all partitions in turn or (`by_key`) each key to one of them."""
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
                producer.produce(
                    entity.read.topic, value, key, partition=_BY_KEY if by_key else number % _PARTITIONS
                )
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
    tally = taking_in.take_in(
        services,
        way,
        stop=stop or threading.Event(),
        until_idle=stop is None,
        seconds=_LONGEST_SECONDS,
    )
    if stop is None:
        with services.warehouse.connect() as connection:
            for table in (*way.facts, *way.windows):
                leaves = apply.leaves(connection, table)
                leaf_indexes.complete(services.warehouse, connection, table, leaves)
    return tally


def _distinct(sent: int) -> int:
    """Events in so many messages."""
    return sent - sent // _REPEATED


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
    assert rows == (_distinct(sent), _distinct(sent)), rows
    assert counted is not None
    assert counted[0] == counted[1], counted
    with services.ledger() as ledger, engine.connect(keeps_order=True) as session:
        raw = services.lake.read(session, ledger.files(entity.table))
        landed = raw.aggregate("count(*), count(distinct (kafka_partition, kafka_offset))").fetchall()
    assert landed == [(sent, sent)], landed
