"""The stream on a real broker: how much it takes in when it is behind, how soon an event can be queried when
it is not. Broker, database and stream share the machine."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

import flows.sandbox as sandbox
from flows import stream
from flows.sandbox import Part
from flows.services import Services
from flows.stores.difference import duckdb_session
from flows.streaming.route import route
from flows.streaming.tally import Tally
from tests.benchmarks.events import messages
from tests.benchmarks.measure import Result, stopwatch
from tests.benchmarks.server import CACHE, Server, settle
from transforms import registry
from transforms.contract import Kafka, SourceEntity

WAITING, WAITING_FULL = 1_500_000, 3_000_000
RATE = 5_000
_PARTITIONS = 4
_REPEATED = 40
_WARM_SECONDS = 10


def run(server: Server, full: bool) -> Iterator[Result]:
    """user_events alone, 2.5 % of them sent twice. What is taken in is counted in PostgreSQL and in the lake:
    each event once. No 5-minute counts and no sealing of leaves yet: the numbers are without them.
    """
    state = sandbox.start(CACHE / "sandbox", parts=frozenset({Part.KAFKA}))
    assert state.kafka_bootstrap is not None
    number = WAITING_FULL if full else WAITING
    with server.services(kafka_bootstrap=state.kafka_bootstrap) as services:
        with _topic(state.kafka_bootstrap) as entity:
            _produce(state.kafka_bootstrap, entity, _values(number))
            settle(services.settings.require("warehouse_dsn"))
            with stopwatch() as elapsed:
                tally = _take_in(services, entity, threading.Event(), until_idle=True)
            _prove(services, entity, number)
        yield Result(
            f"events taken in a second, {number:,} waiting, exactly once into lake and PostgreSQL",
            number / elapsed(),
            "/s",
            80_000,
            "at least",
            None,
            {"seconds": round(elapsed(), 1), "micro_batches": tally.batches, "copies": tally.copies},
        )
    with (
        server.services(kafka_bootstrap=state.kafka_bootstrap) as services,
        _topic(state.kafka_bootstrap) as entity,
        ThreadPoolExecutor(1) as pool,
    ):
        number = RATE * (300 if full else 60)
        stop = threading.Event()
        living = pool.submit(_take_in, services, entity, stop)
        time.sleep(_WARM_SECONDS)
        _produce(state.kafka_bootstrap, entity, _values(number), RATE)
        time.sleep(2)
        stop.set()
        waited = sorted(living.result().latencies)
        _prove(services, entity, number)
    details = {"events": number, "micro_batches": len(waited), "worst": round(waited[-1] * 1000)}
    claim = f"ms from the broker to queryable, oldest of a micro-batch, at {RATE:,} events/s"
    yield Result(f"{claim}: p50", waited[len(waited) // 2] * 1000, "ms", 200, "at most", None, details)
    yield Result(f"{claim}: p99", waited[int(len(waited) * 0.99)] * 1000, "ms", 500, "at most", None, details)


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


def _values(number: int) -> Sequence[bytes]:
    day = datetime.now(UTC) - timedelta(days=1)
    with duckdb_session() as session:
        rows = session.execute(f"select value from ({messages(f'{day:%Y-%m-%d}', number)})").fetchall()
    return [value for (value,) in rows]


def _produce(
    bootstrap: str, entity: SourceEntity, values: Sequence[bytes], rate: float | None = None
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
    for number, value in enumerate(values):
        while True:
            try:
                producer.produce(entity.read.topic, value, partition=number % _PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 100 == 0:
            producer.poll(0)
            if rate is not None:
                time.sleep(max(0.0, number / rate - (time.perf_counter() - begun)))
    assert producer.flush(120) == 0


def _take_in(
    services: Services, entity: SourceEntity, stop: threading.Event, *, until_idle: bool = False
) -> Tally:
    group = f"bench-{secrets.token_hex(4)}"
    return stream.run(
        services, replace(route([entity]), group=group), stop=stop, until_idle=until_idle, seconds=900
    )


def _prove(services: Services, entity: SourceEntity, sent: int) -> None:
    """Each event once in PostgreSQL, each message once in the lake."""
    with psycopg.connect(services.settings.require("warehouse_dsn")) as connection:
        rows = connection.execute(
            "select count(*), count(distinct event_id) from analytics.fct_events"
        ).fetchone()
    assert rows == (sent - sent // _REPEATED, sent - sent // _REPEATED), rows
    with services.ledger() as ledger, duckdb_session() as session:
        raw = services.lake.read(session, ledger.files(entity.table))
        landed = raw.aggregate("count(*), count(distinct (kafka_partition, kafka_offset))").fetchall()
    assert landed == [(sent, sent)], landed
