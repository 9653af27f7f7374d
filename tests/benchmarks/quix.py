"""quixstreams beside the stream: counting alone, and doing the same with the events and their counts in
PostgreSQL.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, TopicPartition

from flows.services import Services
from tests.benchmarks.environments import interpreter, seconds_of
from tests.benchmarks.server import settle
from transforms import registry
from transforms.entities import Kafka, SourceEntity
from warehouse_ddl.statements import index_ddl

QUIX = "3.28"
MESSAGES = 60_000
_SCHEMA = "quix"
_KEYS = {"fct_events": "event_id", "user_event_counts": "user_id, window_start"}


def environment() -> Path:
    """The Python that has it and its PostgreSQL sink; made when it is not there."""
    return interpreter("quixstreams", QUIX, (f"quixstreams[postgresql]=={QUIX}.*",))


def counting(bootstrap: str, entity: SourceEntity, partitions: int, folder: Path) -> float:
    """Seconds for the counts of the first MESSAGES of the topic, which have then been committed."""
    return _seconds(bootstrap, entity, partitions, folder)


def doing_the_same(
    services: Services, bootstrap: str, entity: SourceEntity, partitions: int, events: int
) -> float:
    """Seconds until all MESSAGES of the topic, so many different `events`, are rows and counts in tables with
    our columns and indexes. The topic's partitions have to go by key, as state is kept for each of them.
    """
    dsn = services.settings.require("warehouse_dsn")
    windowed = registry.table("user_event_counts").windowed
    assert windowed is not None
    late = round(windowed.lateness.total_seconds() * 1000)
    _make_tables(dsn)
    settle(dsn)
    folder = services.lake.root / "quix"
    seconds = _seconds(bootstrap, entity, partitions, folder, str(late), dsn, _SCHEMA)
    _prove(dsn, events)
    return seconds


def _seconds(bootstrap: str, entity: SourceEntity, partitions: int, folder: Path, *tables: str) -> float:
    assert isinstance(entity.read, Kafka)
    topic, group = entity.read.topic, f"quix-{secrets.token_hex(4)}"
    known = (bootstrap, topic, str(partitions), group, str(MESSAGES), str(folder))
    seconds = seconds_of(environment(), "quix_app.py", *known, *tables)
    with closing(Consumer({"bootstrap.servers": bootstrap, "group.id": group})) as consumer:
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        committed = sum(max(place.offset, 0) for place in consumer.committed(places, timeout=20))
    assert committed == MESSAGES, committed
    return seconds


def _make_tables(dsn: str) -> None:
    """Not partitioned, which spares finding the leaf; so the events' key is the identity alone."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"create schema {_SCHEMA}".encode())
        for name, key in _KEYS.items():
            definition = f"{_SCHEMA}.{name} (like analytics.{name}, primary key ({key}))"
            connection.execute(f"create table {definition}".encode())
            for statement in index_ddl(registry.table(name), _SCHEMA):
                connection.execute(statement.encode())


def _prove(dsn: str, events: int) -> None:
    """Each event once, and exactly the counts that these events have."""
    with psycopg.connect(dsn, options=f"-c search_path={_SCHEMA}") as connection:
        rows = connection.execute("select count(*), count(distinct event_id) from fct_events").fetchone()
        connection.execute(
            "create temp view counted as select user_id, "
            "date_bin('5 minutes', event_time, timestamptz 'epoch') as window_start, count(*) as event_count "
            "from fct_events where user_id is not null group by 1, 2"
        )
        counts = "select user_id, window_start, event_count from"
        wrong = connection.execute(
            f"({counts} user_event_counts except all {counts} counted) union all "
            f"({counts} counted except all {counts} user_event_counts) limit 5".encode()
        ).fetchall()
    assert rows == (events, events), rows
    assert wrong == [], wrong
