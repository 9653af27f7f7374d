"""A source that real Debezium reads, of one test: a database, a prefix, and what came into its topics."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from confluent_kafka import Consumer, KafkaError, TopicPartition
from psycopg.conninfo import make_conninfo

from flows.cdc import registration
from flows.cdc.status import Status, look
from flows.extract import debezium
from flows.extract.connect import Connect
from flows.extract.debezium_guard import Observed, guard, observe
from flows.extract.debezium_observed import connect
from flows.sandbox import Part
from flows.settings import Settings
from tests.broker import headers_of, make_topics
from tests.flows.streaming.topics import until
from tests.house import House, Server
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity

if TYPE_CHECKING:
    from flows.extract.embedded.connector import Embedded


def entity(name: str, **columns: str) -> SourceEntity:
    """A table that is declared as cdc, its key `id`."""
    kinds = columns or {"id": "bigint", "label": "varchar"}
    made = tuple(Column(column, kind, nullable=column != "id") for column, kind in kinds.items())
    read = Postgres(name, mode="cdc")
    return SourceEntity("app", name, read, ("id",), "one row per version of a thing", columns=made)


@dataclass
class Capture:
    """An application's database, what Kafka Connect needs to read it, and what was said on the way."""

    settings: Settings
    said: list[str] = field(default_factory=list)

    @classmethod
    def build(cls, house: House, folder: Path, server: Server | None = None, **settings: Any) -> Capture:
        """A new database on `server`, or on the sandbox's own, whose password Connect knows by name."""
        is_embedded = settings.get("cdc_engine") == "embedded"
        state = house.parts(Part.APP_POSTGRES, *([] if is_embedded else [Part.CONNECT]))
        own = server or Server(18, str(state.app_dsn))
        app_dsn = own.empty()
        if server is None and not is_embedded:
            name = psycopg.conninfo.conninfo_to_dict(app_dsn)["dbname"]
            settings = {"cdc_dsn": make_conninfo(str(state.cdc_dsn), dbname=str(name)), **settings}
        given = {
            "app_dsn": app_dsn,
            "warehouse_dsn": "host=127.0.0.1 port=1 dbname=warehouse",
            "kafka_bootstrap": "127.0.0.1:1" if is_embedded else house.kafka,
            "connect_url": None if is_embedded else house.connect,
            "cdc_prefix": f"t_{os.urandom(4).hex()}",
            "stripe_url": "http://127.0.0.1:1",
            "sendgrid_url": "http://127.0.0.1:1",
            "lake": folder / "lake",
        }
        return cls(Settings(_env_file=None, **{**given, **settings}))

    @property
    def names(self) -> debezium.Names:
        """What its slot, publication and connector are called."""
        return debezium.names(self.settings)

    @property
    def environment(self) -> dict[str, str]:
        """The settings for a command line."""
        names = ("app_dsn", "warehouse_dsn", "cdc_dsn", "kafka_bootstrap", "connect_url", "cdc_prefix")
        more = ("stripe_url", "sendgrid_url", "lake", "cdc_engine")
        found = {name: getattr(self.settings, name, None) for name in (*names, *more)}
        values = {name: value for name, value in found.items() if value is not None}
        return {
            f"ANALYTICS_{name.upper()}": value.get_secret_value()
            if hasattr(value, "get_secret_value")
            else str(value)
            for name, value in values.items()
        }

    def app(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in the application's database; the last one's rows."""
        with psycopg.connect(self.settings.require("app_dsn"), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def tables(self, *names: str, rows: int = 3) -> None:
        """Tables with some rows."""
        for name in names:
            self.app(
                f"create table {name} (id bigint primary key, label text)",
                f"insert into {name} select n, 'row ' || n from generate_series(1, {rows}) n",
            )

    def register(self, *entities: SourceEntity) -> list[str]:
        """Register; what it said."""
        told: list[str] = []
        registration.register(self.settings, entities, told.append)
        return told

    def anew(self, *entities: SourceEntity) -> None:
        """Unregister and register, as the halts say."""
        registration.unregister(self.settings, self.said.append)
        self.register(*entities)

    def resnapshot(self, *entities: SourceEntity, only: tuple[str, ...] = ()) -> None:
        """Read tables again."""
        registration.resnapshot(self.settings, entities, only, self.said.append)

    def look(self, *entities: SourceEntity) -> Status:
        """How it is."""
        return look(self.settings, entities)

    def observe(self, *entities: SourceEntity) -> Observed:
        """What is seen now."""
        return observe(self.settings, entities)

    def halts(self, *entities: SourceEntity, since: Observed | None = None) -> list[str]:
        """The reasons to halt, of tables that remember what was seen once."""
        remembered = {one.table: since.facts() for one in entities} if since else {}
        return list(guard(self.settings, entities, remembered).values())

    @contextmanager
    def client(self) -> Iterator[Connect | Embedded]:
        """Kafka Connect, or the engine that stands in its place."""
        with connect(self.settings) as client:
            yield client

    def events(self, table: str) -> list[dict[str, Any]]:
        """Every change event that the table's topic holds now, tombstones left out."""
        values = [record["value"] for record in self.records(table)]
        return [json.loads(value) for value in values if value is not None]

    def records(self, table: str) -> list[dict[str, Any]]:
        """Every record that the table's topic holds now, as raw keeps one."""
        topic = debezium.topic(self.settings, Postgres(table))
        options = {
            "bootstrap.servers": self.settings.require("kafka_bootstrap"),
            "group.id": "test",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
        consumer = Consumer(options)
        found: list[dict[str, Any]] = []
        consumer.assign([TopicPartition(topic, 0, 0)])
        deadline = time.monotonic() + 30
        try:
            while True:
                assert time.monotonic() < deadline, f"no end of {topic} within 30 s"
                message = consumer.poll(1)
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    return found
                found.append(
                    {
                        "topic": topic,
                        "kafka_partition": 0,
                        "kafka_offset": message.offset(),
                        "kafka_timestamp": datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
                        "key": message.key(),
                        "headers": [{"name": name, "value": held} for name, held in headers_of(message)],
                        "value": message.value(),
                    }
                )
        finally:
            consumer.close()

    def ids(self, table: str) -> list[int]:
        """Keys of the rows that the table's events brought, in their order."""
        return [event["after"]["id"] for event in self.events(table) if event["after"]]

    def come(self, table: str, key: int, seconds: float) -> None:
        """Wait until the table's events brought the row of this key."""
        until(lambda: key in self.ids(table), seconds)

    def end(self) -> None:
        """Leave nothing behind at Connect and in PostgreSQL, whatever the test has done to it."""
        registration.unregister(self.settings, self.said.append)


def empty_topics(house: House, folder: Path, *tables: str) -> Settings:
    """Settings of a capture that has topics of these tables and of the transactions' ends, and no connector:
    the test writes into them.
    """
    settings = Settings(
        _env_file=None,
        app_dsn="host=127.0.0.1 port=1",
        kafka_bootstrap=house.kafka,
        cdc_prefix=f"t_{os.urandom(4).hex()}",
        lake=folder / "lake",
    )
    names = [f"{settings.cdc_prefix}.public.{table}" for table in tables]
    names.append(debezium.names(settings).transactions)
    make_topics(house.kafka, *names)
    return settings
