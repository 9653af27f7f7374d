"""Real Debezium in front of a test's own database: its topics, its connector, and landings of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg.conninfo import conninfo_to_dict

from tests.flows.extract.parts import World
from transforms.entities import SourceEntity

SETTINGS = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "plugin.name": "pgoutput",
    "decimal.handling.mode": "string",
    "interval.handling.mode": "string",
    "binary.handling.mode": "base64",
    "hstore.handling.mode": "json",
    "time.precision.mode": "isostring",
    "include.unknown.datatypes": "true",
    "provide.transaction.metadata": "true",
    "skipped.operations": "none",
    "poll.interval.ms": "50",
}


@dataclass
class Capture:
    """A connector of one test. Its objects are named by a prefix of its own."""

    world: World
    connect: str
    prefix: str
    entities: Sequence[SourceEntity]

    def wait(self) -> None:
        """Until everything that is committed by now stands in the topics.

        A marker row is the last change; its event is behind all others, since one connector writes in order.
        """
        mark = secrets.token_hex(8)
        self.world.app(f"insert into captured_marker values ('{mark}')")
        consumer = Consumer(
            {"bootstrap.servers": self.world.kafka_bootstrap, "group.id": mark, "enable.partition.eof": True}
        )
        try:
            consumer.assign([TopicPartition(f"{self.prefix}.public.captured_marker", 0, 0)])
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline:
                message = consumer.poll(0.5)
                if message is not None and not message.error() and mark.encode() in (message.value() or b""):
                    return
        finally:
            consumer.close()
        state = httpx.get(f"{self.connect}/connectors/{self.prefix}/status", trust_env=False).text
        raise AssertionError(f"Debezium did not send the marker: {state}")

    def land(self) -> None:
        """Land what every topic holds now."""
        for entity in self.entities:
            self.world.land(entity, is_watched=False)


@contextmanager
def captured(world: World, connect: str, entities: Sequence[SourceEntity]) -> Iterator[Capture]:
    """Capture these tables, which exist, of the world's database."""
    prefix = f"t{secrets.token_hex(4)}"
    world.settings["cdc_prefix"] = prefix
    world.app("create table captured_marker (mark text primary key)")
    tables = [f"public.{entity.read.table}" for entity in entities]  # type: ignore[union-attr]
    tables.append("public.captured_marker")
    admin = AdminClient({"bootstrap.servers": world.kafka_bootstrap})
    topics = [f"{prefix}.{table}" for table in tables] + [f"{prefix}.transaction", f"{prefix}.message"]
    for made in admin.create_topics([NewTopic(topic, 1, 1) for topic in topics]).values():
        made.result(20)
    given: dict[str, Any] = conninfo_to_dict(world.app_dsn)
    settings = SETTINGS | {
        "database.hostname": given["host"],
        "database.port": str(given["port"]),
        "database.user": given["user"],
        "database.password": given.get("password", "none"),
        "database.dbname": given["dbname"],
        "topic.prefix": prefix,
        "slot.name": prefix,
        "publication.name": prefix,
        "publication.autocreate.mode": "filtered",
        "table.include.list": ",".join(tables),
    }
    client = httpx.Client(base_url=connect, trust_env=False, timeout=60)
    try:
        client.put(f"/connectors/{prefix}/config", json=settings).raise_for_status()
        yield Capture(world, connect, prefix, entities)
    finally:
        client.delete(f"/connectors/{prefix}")
        client.close()
        _drop_slot(world.app_dsn, prefix)


def _drop_slot(dsn: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(100):
            found = connection.execute(
                "select active from pg_replication_slots where slot_name = %s", (name,)
            ).fetchone()
            if found is None:
                return
            if not found[0]:
                connection.execute("select pg_drop_replication_slot(%s)", (name,))
                return
            time.sleep(0.1)
