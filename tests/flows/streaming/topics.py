"""What the stream's tests stand on: topics of their own on the real broker, a warehouse with every table."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from flows import deadletters
from flows.build.job import build
from flows.build.outcome import Built
from flows.build.states import planner_states
from flows.landing import land
from flows.planner import batches, plan
from flows.progress import Progress
from flows.redelivery import Outcome, redeliver
from flows.services import Services
from flows.stores.standalone import sweep
from flows.streaming import taking_in
from flows.streaming.keeper import keep_once
from flows.streaming.reconcile import reconcile
from flows.streaming.replays import Asked, Replay, ask
from flows.streaming.rollup import roll_up
from flows.streaming.route import Route, route
from flows.streaming.tally import Tally
from quality import CheckResult
from tests import children
from tests.broker import make_topics
from tests.flows.extract.parts import World
from tests.flows.warehouses import with_tables
from tests.house import House, Server
from transforms import catalog, registry
from transforms.entities import Kafka, SourceEntity

PARTITIONS = 3
MODELS = (
    *("stg_events__user_events", "stg_events__page_views", "stg_events__clicks", "dim_users"),
    *("fct_events", "user_event_counts"),
)
"""Every table that is made of the topics alone, and the users that they speak of; in build order."""


@dataclass
class Topics:
    """A warehouse, a lake and topics of one test."""

    world: World
    entities: tuple[SourceEntity, ...]
    group: str
    began: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @classmethod
    def build(
        cls,
        house: House,
        folder: Path,
        bootstrap: str | None = None,
        server: Server | None = None,
        **settings: Any,
    ) -> Topics:
        """Empty topics; the warehouse has every table of the models. `bootstrap`: on another broker;
        `server`: on another PostgreSQL.
        """
        nowhere = "host=127.0.0.1 port=1"
        world = World(nowhere, with_tables(server or house.server()), folder / "lake", settings=settings)
        world.kafka_bootstrap = bootstrap or house.kafka
        suffix = os.urandom(4).hex()
        entities = tuple(
            replace(entity, read=Kafka(f"{entity.name}-{suffix}"))
            for entity in registry.entities()
            if isinstance(entity.read, Kafka)
        )
        names = [f"{entity.name}-{suffix}" for entity in entities]
        make_topics(world.kafka_bootstrap, *names, partitions=PARTITIONS)
        return cls(world, entities, f"group-{suffix}")

    def event(self, number: int, *, minutes: float = 0.0, **changes: Any) -> dict[str, Any]:
        """A user event; `minutes` before the test began."""
        return {
            "event_id": str(uuid.UUID(int=number)),
            "event_type": "login",
            "event_time": (self.began - timedelta(minutes=minutes)).isoformat(),
            "session_id": f"s{number % 7}",
            "anonymous_id": f"a{number % 11}",
            "page": "/",
            "properties": {"n": number},
            **changes,
        }

    @property
    def way(self) -> Route:
        """What these topics flow through; the counts' own topic is this test's too."""
        way = route(self.entities)
        windows = tuple(
            replace(table, windowed=replace(table.windowed, topic=f"{table.windowed.topic}-{self.group}"))
            for table in way.windows
            if table.windowed is not None
        )
        return replace(way, windows=windows, group=self.group)

    def delete_before(self, offset: int) -> None:
        """Let the broker delete what is before an offset of partition 0."""
        admin = AdminClient({"bootstrap.servers": self.world.kafka_bootstrap})
        gone = TopicPartition(self.topic(), 0, offset)
        admin.delete_records([gone])[gone].result(20)

    def entity(self, name: str = "user_events") -> SourceEntity:
        """The declaration of one topic."""
        return next(entity for entity in self.entities if entity.name == name)

    def topic(self, name: str = "user_events") -> str:
        """What this test's topic is called at the broker."""
        read = self.entity(name).read
        assert isinstance(read, Kafka)
        return read.topic

    def send(
        self,
        messages: Iterable[Mapping[str, Any] | bytes],
        partition: int = 0,
        topic: str = "user_events",
        at: datetime | None = None,
    ) -> None:
        """Produce messages to one partition, in their order; `at` is the timestamp they get (None: now)."""
        stamp = int(at.timestamp() * 1000) if at is not None else 0
        producer = Producer({"bootstrap.servers": self.world.kafka_bootstrap, "linger.ms": 5})
        name = self.topic(topic)
        for message in messages:
            value = message if isinstance(message, bytes) else json.dumps(message).encode()
            producer.produce(name, value, partition=partition, timestamp=stamp)
            producer.poll(0)
        assert producer.flush(30) == 0

    def stream(self, services: Services | None = None, *, way: Route | None = None, **options: Any) -> Tally:
        """Take in all that is there."""
        services = services or self.world.services()
        with services.lake:
            return taking_in.take_in(
                services,
                way or self.way,
                stop=threading.Event(),
                until_idle=True,
                seconds=60,
                **options,
            )

    @contextmanager
    def living(self, **options: Any) -> Iterator[Future[Tally]]:
        """A stream that lives while the block lasts, and has ended after it."""
        stop = threading.Event()
        services = self.world.services()
        with services.lake, ThreadPoolExecutor(1) as pool:
            living = pool.submit(taking_in.take_in, services, self.way, stop=stop, seconds=240, **options)
            try:
                yield living
            finally:
                stop.set()
            living.result(60)

    def replay(self, letters: Sequence[str] = (), **options: Any) -> list[Outcome]:
        """Replay these dead letters, or all that wait."""
        services = self.world.services()
        with services.lake, services.warehouse.connect() as connection:
            return redeliver(services, letters or deadletters.waiting(connection), "replay", **options)

    def ask(
        self, start: str = "0", end: str | None = None, *partitions: int, dry_run: bool = False
    ) -> Replay:
        """What `replay` does with the user events before it runs the batch."""
        services = self.world.services()
        asked = Asked.parse(start, end, partitions)
        progress = Progress("test", io.StringIO())
        with services.lake:
            return ask(services, self.entity(), asked, progress, dry_run=dry_run)

    def dies(
        self,
        doing: Literal["stream", "reconcile", "replay", "ask", "roll_up"],
        failpoint: str,
        **options: Any,
    ) -> bool:
        """Do this in a process of its own; whether it is killed at a failpoint."""
        return children.dies(failpoint, _do, self, doing, options)

    def roll_up(self) -> int:
        """Make one raw file of the small ones of the user events; the rows that wait to be landed."""
        services, entity = self.world.services(), self.entity()
        with services.lake, services.ledger() as ledger, ledger.locked("land", entity.table):
            return roll_up(services.lake, ledger, entity)

    def batch(self) -> dict[str, list[Built]]:
        """Land, and build and publish what that touches of the events, as a batch does."""
        self.land()
        return self.build_due()

    def land(self) -> None:
        """The first half of a batch."""
        services = self.world.services()
        with services.lake:
            for entity in self.entities:
                land(services, entity, "batch")

    def build_due(self, names: Sequence[str] = MODELS) -> dict[str, list[Built]]:
        """The second half of a batch, or as far as it came: these tables."""
        services = self.world.services()
        done: dict[str, list[Built]] = {}
        with services.lake:
            for name in names:
                table = registry.table(name)
                with services.ledger() as ledger:
                    states = planner_states(ledger, [name, *table.upstreams])
                work = plan(
                    table, registry.tables(), states, catalog.fingerprint(table), services.settings.now()
                )
                done[name] = [build(services, work, due, "batch") for due in batches(work)]
        return done

    def days_go_by(self) -> None:
        """As if nothing came for two days: every partition read to its end, and the windows kept."""
        self.rows(
            "update ops.stream_partition set moved_at = clock_timestamp() - interval '6 minutes', "
            "ended_at = clock_timestamp() + interval '2 days' returning true"
        )
        assert keep_once(self.world.services(), self.way) == ""

    def reconcile(self, *, sealed_too: bool = False) -> list[CheckResult]:
        """Compare what the stream wrote with what the batch computed."""
        services = self.world.services()
        with services.lake:
            results = reconcile(services, self.way, sealed_too=sealed_too)
            assert keep_once(services, self.way) == ""
        return results

    def rows(
        self, query: str = "select * from analytics.fct_events order by event_id"
    ) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        return self.world.warehouse(query)

    def counts(self) -> dict[tuple[int, datetime], tuple[int, int, bool | None]]:
        """(user, window) → count, revision, is_final, as published."""
        rows = self.rows(
            "select user_id, window_start, event_count, revision, is_final from analytics.user_event_counts"
        )
        return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}

    def told(self) -> dict[tuple[int, datetime], list[tuple[int, int, bool]]]:
        """(user, window) → each count, revision, is_final that a read-committed reader of the topic sees."""
        (counts,) = self.way.windows
        assert counts.windowed is not None
        found: dict[tuple[int, datetime], list[tuple[int, int, bool]]] = {}
        for message in self._messages(counts.windowed.topic):
            value = json.loads(message.value() or b"")
            start = datetime.fromisoformat(value["window_start"])
            assert datetime.fromisoformat(value["window_end"]) == start + timedelta(minutes=5)
            assert (message.key() or b"").decode() == str(value["user_id"])
            found.setdefault((value["user_id"], start), []).append(
                (value["count"], value["revision"], value["is_final"])
            )
        return found

    def _messages(self, topic: str) -> Iterator[Message]:
        """What a read-committed reader of a topic sees, from the beginning to its present end."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.world.kafka_bootstrap,
                "group.id": f"reader-{os.urandom(4).hex()}",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        partitions = consumer.list_topics(topic, 20).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        ends = set(partitions)
        until = time.monotonic() + 30
        try:
            while ends:
                assert time.monotonic() < until, f"no end of {topic} within 30 s"
                message = consumer.poll(1.0)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    yield message
                else:
                    assert error.code() == KafkaError._PARTITION_EOF
                    ends.discard(message.partition() or 0)
        finally:
            consumer.close()

    def numbers(self) -> list[tuple[int, int, int]]:
        """(number of the event, partition, offset) of each published row, in order."""
        rows = self.rows("select event_id, kafka_partition, kafka_offset from analytics.fct_events")
        return sorted((row[0].int, row[1], row[2]) for row in rows)

    def raw_places(self) -> list[tuple[str, int, int]]:
        """(topic, partition, offset) of each raw record that the ledger names, in order."""
        found: list[tuple[str, int, int]] = []
        for entity in self.entities:
            found += self.world.raw(entity, "select topic, kafka_partition, kafka_offset from raw")
        return sorted(found)

    def left_over(self) -> list[str]:
        """Unpublished tables and raw files that nobody names, after the sweep every run begins with."""
        services = self.world.services()
        with services.lake, services.ledger() as ledger:
            services.lake.sweep(ledger.named_paths)
            sweep(ledger.connection)
            rows = ledger.connection.execute(
                "select relname from pg_class "
                "where relnamespace = to_regnamespace('unpublished') and relkind = 'r'"
            ).fetchall()
            named = set(ledger.named_paths(datetime.now(UTC)))
        files = {path.relative_to(self.world.lake).as_posix() for path in self.world.lake.rglob("*.parquet")}
        return sorted({row[0] for row in rows} | (files - named))


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something has come about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def _do(topics: Topics, doing: str, options: Mapping[str, Any]) -> None:
    getattr(topics, doing)(**options)
