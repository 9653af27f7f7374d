"""A first snapshot by real Debezium, from nothing to rows in the warehouse, beside what Debezium alone needs
to put it into Kafka: in turn, PostgreSQL, broker, Connect and ours on the same machine.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from pydantic import SecretStr

import flows.sandbox as sandbox
from flows import first_read
from flows.cdc import registration
from flows.extract import debezium, kafka
from flows.progress import Progress
from flows.sandbox import Part
from flows.sandbox.world import app
from flows.services import Services
from flows.settings import Settings
from tests.benchmarks.measure import Result, Rounds
from tests.benchmarks.pipeline import rebuild
from tests.benchmarks.server import CACHE, Server, settle
from transforms import registry
from transforms.entities import Postgres

ROWS = 100_000
_MODELS = ["stg_app__users", "dim_users"]
_SIDES = _KAFKA, _LANDED, _QUERYABLE = "in Kafka", "landed", "queryable"
_SECONDS = 300.0
_ROW = """
insert into users select n, 'user' || n || '@example.com', 'User ' || n, 'de', 'de-DE', 'free', true,
    '10.0.0.1', timestamptz '2025-01-01' + n * interval '1 minute', timestamptz '2025-10-01', null
from generate_series(1, %s) n
"""


def run(server: Server, full: bool) -> Iterator[Result]:
    """The same snapshot twice in a round: by Debezium alone, until its last record is in the topic, and
    landed while it reads, until the last row is in analytics.dim_users. Each with a new connector, slot,
    topic and warehouse.
    """
    folder = CACHE / "cdc"
    if sandbox.read(folder) is not None:
        sandbox.reset(folder)
    state = sandbox.start(folder, parts=frozenset({Part.APP_POSTGRES, Part.CONNECT}))
    try:
        assert state.app_dsn is not None
        with psycopg.connect(state.app_dsn, autocommit=True) as connection:
            connection.execute((Path(app.__file__).parent / "app_schema.sql").read_bytes())
            connection.execute(_ROW, (ROWS,))
        seconds: dict[str, list[float]] = {side: [] for side in _SIDES}
        # The first warms Connect up, as one is that has been running, and our own code too.
        for number in range(6 if full else 4):
            took: dict[str, float] = {}
            for snapshot in (_by_debezium_alone, _by_all)[:: 1 if number % 2 == 0 else -1]:
                with server.services(str(state.kafka_bootstrap)) as made:
                    given = {
                        "app_dsn": SecretStr(state.app_dsn),
                        "cdc_dsn": SecretStr(str(state.cdc_dsn)),
                        "connect_url": state.connect_url,
                        "cdc_prefix": f"b_{secrets.token_hex(4)}",
                    }
                    settle(made.settings.require("warehouse_dsn"))
                    took |= snapshot(Services(made.settings.model_copy(update=given)))
            for side in _SIDES:
                seconds[side] += [took[side]] if number > 0 else []
        rounds = Rounds(seconds)
        rates = {f"rows_a_second_{side}": round(ROWS / rounds.median(side)) for side in seconds}
    finally:
        sandbox.reset(folder)
    yield Result(
        f"a first snapshot of {ROWS:,} rows until it can be queried ÷ until Debezium has put it into Kafka",
        rounds.ratio(_QUERYABLE, _KAFKA),
        "×",
        1.5,
        "at most",
        None,
        rounds.details(rows=ROWS, **rates),
    )


def _by_debezium_alone(services: Services) -> dict[str, float]:
    """Seconds from the order to the last record in Kafka."""
    entity, settings = registry.entity("raw_app__users"), services.settings
    assert isinstance(entity.read, Postgres)
    begun = time.perf_counter()
    try:
        registration.register(settings, [entity], lambda _: None)
        _await_records(settings, debezium.topic(settings, entity.read))
        return {_KAFKA: time.perf_counter() - begun}
    finally:
        registration.unregister(settings, lambda _: None)


def _by_all(services: Services) -> dict[str, float]:
    """Seconds from the same order to raw, and to the last row in the warehouse."""
    entity, settings = registry.entity("raw_app__users"), services.settings
    begun = time.perf_counter()
    try:
        registration.register(settings, [entity], lambda _: None)
        with services.lake, Progress("benchmark") as progress:
            first_read.land(services, [entity], "snapshot", progress).of(entity)
            landed = time.perf_counter() - begun
            rebuild(services, _MODELS, "snapshot")
        shown = time.perf_counter() - begun
        with services.warehouse.connect() as connection:
            counted = connection.execute("select count(*) from analytics.dim_users").fetchone()
        assert counted == (ROWS,), counted
        return {_LANDED: landed, _QUERYABLE: shown}
    finally:
        registration.unregister(settings, lambda _: None)


def _await_records(settings: Settings, name: str) -> None:
    topic = kafka.Topic(name, settings.require("kafka_bootstrap"), settings.kafka_options, 15.0)
    deadline = time.monotonic() + _SECONDS
    while sum(end - start for start, end in topic.spans({}).values()) < ROWS:
        assert time.monotonic() < deadline, f"{ROWS:,} records were not in {name} within {_SECONDS:.0f} s"
        time.sleep(0.05)
