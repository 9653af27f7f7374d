"""What the stream's tests stand on: topics of their own on the real broker, a warehouse with every table."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from flows import failpoints, prepare, stream
from flows.build.job import Built, build
from flows.build.states import planner_states
from flows.landing import land
from flows.planner import batches, plan
from flows.progress import Progress
from flows.services import Services
from flows.stores.standalone import sweep
from flows.stream import Tally
from flows.streaming.reconcile import reconcile
from quality import CheckResult
from tests.flows.extract.parts import World
from tests.house import House, Server
from transforms import catalog, registry
from transforms.contract import Kafka, SourceEntity

PARTITIONS = 3
FACTS = ("stg_events__user_events", "stg_events__page_views", "stg_events__clicks", "dim_users", "fct_events")


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
        world = World.build(server or house.server(), folder, **settings)
        world.kafka_bootstrap = bootstrap or house.kafka
        suffix = os.urandom(4).hex()
        entities = tuple(
            replace(entity, read=Kafka(f"{entity.name}-{suffix}"))
            for entity in registry.entities()
            if isinstance(entity.read, Kafka)
        )
        admin = AdminClient({"bootstrap.servers": world.kafka_bootstrap})
        names = [f"{entity.name}-{suffix}" for entity in entities]
        made = admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
        for name in names:
            made[name].result(20)
        services = world.services()
        with services.lake:
            prepare.warehouse(services, False, Progress("test", io.StringIO()))
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

    def entity(self, name: str = "user_events") -> SourceEntity:
        """The declaration of one topic."""
        return next(entity for entity in self.entities if entity.name == name)

    def topic(self, name: str = "user_events") -> str:
        """What this test's topic is called at the broker."""
        read = self.entity(name).read
        assert isinstance(read, Kafka)
        return read.topic

    def send(
        self, messages: Iterable[Mapping[str, Any] | bytes], partition: int = 0, topic: str = "user_events"
    ) -> None:
        """Produce messages to one partition, in their order."""
        producer = Producer({"bootstrap.servers": self.world.kafka_bootstrap, "linger.ms": 5})
        name = self.topic(topic)
        for message in messages:
            value = message if isinstance(message, bytes) else json.dumps(message).encode()
            producer.produce(name, value, partition=partition)
            producer.poll(0)
        assert producer.flush(30) == 0

    def stream(self, services: Services | None = None, **options: Any) -> Tally:
        """Take in all that is there."""
        services = services or self.world.services()
        with services.lake:
            return stream.run(
                services,
                self.entities,
                stop=threading.Event(),
                until_idle=True,
                seconds=60,
                group=self.group,
                **options,
            )

    @contextmanager
    def living(self) -> Iterator[Future[Tally]]:
        """A stream that lives while the block lasts, and has ended after it."""
        stop = threading.Event()
        services = self.world.services()
        with services.lake, ThreadPoolExecutor(1) as pool:
            living = pool.submit(
                stream.run, services, self.entities, stop=stop, seconds=240, group=self.group
            )
            try:
                yield living
            finally:
                stop.set()
            living.result(60)

    def die(self, doing: Literal["stream", "reconcile"], failpoint: str) -> int | None:
        """Take in, or compare, in a process of its own that is killed at a failpoint; its exit code."""
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=_do_and_die, args=(self, doing, failpoint))
        child.start()
        child.join(90)
        assert not child.is_alive(), f"still running, {failpoint} was not reached"
        return child.exitcode

    def batch(self) -> dict[str, list[Built]]:
        """Land, and build and publish what that touches of the events, as a batch does."""
        services = self.world.services()
        done: dict[str, list[Built]] = {}
        with services.lake:
            for entity in self.entities:
                land(services, entity, "batch")
            for name in FACTS:
                table = registry.table(name)
                with services.ledger() as ledger:
                    states = planner_states(ledger, [name, *table.upstreams])
                work = plan(
                    table, registry.tables(), states, catalog.fingerprint(table), services.settings.now()
                )
                done[name] = [build(services, work, due, "batch") for due in batches(work, 4_000_000)]
        return done

    def reconcile(self) -> list[CheckResult]:
        """Compare what the stream wrote with what the batch computed."""
        services = self.world.services()
        with services.lake:
            return reconcile(services, self.entities)

    def rows(
        self, query: str = "select * from analytics.fct_events order by event_id"
    ) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        return self.world.warehouse(query)

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


def without_copies(
    sent: Sequence[tuple[int, int, int]],
) -> Iterator[tuple[int, int, int]]:
    """Of (number, partition, offset) what counts: of each number the lowest partition, then offset."""
    best: dict[int, tuple[int, int]] = {}
    for number, partition, offset in sent:
        best[number] = min(best.get(number, (partition, offset)), (partition, offset))
    for number in sorted(best):
        yield number, *best[number]


def _do_and_die(topics: Topics, doing: str, failpoint: str) -> None:
    failpoints.arm(failpoint)
    getattr(topics, doing)()
