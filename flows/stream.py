"""The stream: topics taken in micro-batch by micro-batch, until somebody stops it."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from flows.durations import length_of_time
from flows.extract import SourceAway
from flows.landing import land
from flows.progress import Progress
from flows.services import Services
from flows.stores.standalone import workshop
from flows.stores.warehouse import WarehouseError
from flows.streaming.consumer import GROUP, StreamConsumer
from flows.streaming.journal import Fenced, Journal
from flows.streaming.microbatch import MicroBatch, MicroBatches
from flows.streaming.route import Route, route
from flows.streaming.visible import Visible
from transforms import registry
from transforms.contract import Kafka, SourceEntity

LAND_EVERY_SECONDS = 60.0
LAND_AFTER_BATCHES = 300
"""Micro-batches whose raw files are landed as one at the latest then: small files stay few."""
_WAIT_SECONDS = 0.05
"""How long a micro-batch gathers messages when few come."""
_SHOW_EVERY_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 5.0


@dataclass
class Tally:
    """What a stream did since it began."""

    batches: int = 0
    messages: int = 0
    rows: int = 0
    copies: int = 0
    dead_letters: int = 0
    interruptions: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    """Seconds from the broker's timestamp of the oldest message of a micro-batch to its commit, of the latest
    10,000."""

    def add(self, batch: MicroBatch, latency: float) -> None:
        """Count one micro-batch."""
        self.batches += 1
        self.messages += batch.messages
        self.rows += sum(content.rows for content in batch.contents)
        self.copies += sum(content.copies for content in batch.contents)
        self.dead_letters += len(batch.letters)
        self.latencies.append(latency)

    def line(self, seconds: float, before: int) -> str:
        """One line for people; `before` is the number of messages `seconds` ago."""
        waited = sorted(islice(reversed(self.latencies), 200))
        median = waited[len(waited) // 2] if waited else 0.0
        worst = waited[int(len(waited) * 0.99)] if waited else 0.0
        return (
            f"{(self.messages - before) / max(seconds, 1e-9):,.0f} messages/s, queryable after "
            f"{median * 1000:,.0f} ms (p99 {worst * 1000:,.0f} ms); {self.messages:,} messages, "
            f"{self.rows:,} rows, {self.copies:,} copies left out, {self.dead_letters:,} dead letters"
        )


def run(
    services: Services,
    entities: Sequence[SourceEntity],
    *,
    stop: threading.Event,
    until_idle: bool = False,
    seconds: float | None = None,
    group: str = GROUP,
    progress: Progress | None = None,
) -> Tally:
    """Take topics in until `stop` is set, `seconds` are over, or (`until_idle`) all that is there is in.

    Where the warehouse or the broker is away it waits for them and goes on by itself: offsets are read back
    from the journal each time, so nothing is lost and nothing comes twice. Raises SourceError when a topic no
    longer holds what was not read yet, WarehouseError when the warehouse is away at the end.
    """
    way = route(entities)
    tally = Tally()
    deadline = time.monotonic() + seconds if seconds is not None else None
    pause = 0.5

    def is_over() -> bool:
        return stop.is_set() or (deadline is not None and time.monotonic() >= deadline)

    while not is_over():
        before = tally.batches
        try:
            _Session(services, way, group, tally, progress or Progress("stream")).run(
                lambda idle: is_over() or (until_idle and idle)
            )
            break
        except (WarehouseError, SourceAway, Fenced) as error:
            tally.interruptions += 1
            pause = 0.5 if tally.batches > before else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            if progress is not None:
                progress.say("stream", f"{error} Going on in {pause:.1f} s.")
            stop.wait(pause)
    for entity in way.entities.values():
        land(services, entity, "stream", streamed_only=True)
    return tally


class _Session:
    """The stream between two interruptions: a consumer, a session of PostgreSQL, what was seen."""

    def __init__(self, services: Services, way: Route, group: str, tally: Tally, progress: Progress) -> None:
        self._services = services
        self._route = way
        self._group = group
        self._tally = tally
        self._progress = progress
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._consumer: StreamConsumer
        self._showing: tuple[MicroBatch, Future[None]] | None = None
        self._landing: Future[Any] | None = None
        self._landed_at = time.monotonic()
        self._unlanded = 0

    def run(self, is_over: Callable[[bool], bool]) -> None:
        """Take in until `is_over(idle)`: one micro-batch is made ready while the last becomes visible."""
        settings = self._services.settings
        with ExitStack() as opened:
            connection = opened.enter_context(self._services.warehouse.connect())
            journal = Journal(connection)
            journal.join(list(self._route.entities))
            shops = [
                opened.enter_context(workshop(self._services.warehouse, connection, table))
                for table in self._route.facts
            ]
            visible = Visible(self._services.warehouse, connection, shops)
            batches = MicroBatches(self._services, self._route, visible.leaves)
            opened.enter_context(closing(batches))
            consumer = self._consumer = StreamConsumer(
                self._route,
                journal,
                settings.require("kafka_bootstrap"),
                settings.kafka_options,
                self._owner,
                self._group,
                self._settle,
            )
            opened.enter_context(closing(consumer))
            pool = opened.enter_context(ThreadPoolExecutor(max_workers=2))
            shown, messages = time.monotonic(), self._tally.messages
            while not is_over(consumer.is_idle and self._showing is None):
                if records := consumer.read(_WAIT_SECONDS):
                    batch = batches.ready(records)
                    self._settle()
                    self._showing = batch, pool.submit(visible.show, batch)
                else:
                    self._settle()
                if self._land_when_due(pool):
                    batches.tidy()
                if (since := time.monotonic() - shown) >= _SHOW_EVERY_SECONDS:
                    self._progress.say("stream", self._tally.line(since, messages))
                    shown, messages = time.monotonic(), self._tally.messages
            self._settle()
            if self._landing is not None:
                self._landing.result()

    def _settle(self) -> None:
        """Wait until the micro-batch before is visible. Raises what kept it from that."""
        if self._showing is None:
            return
        (batch, shown), self._showing = self._showing, None
        shown.result()
        self._consumer.tell_broker(batch.records)
        since_then = time.perf_counter() - batch.stepped_at
        self._tally.add(batch, self._machine_time() - since_then - batch.records.oldest)
        self._unlanded += 1

    def _land_when_due(self, pool: ThreadPoolExecutor) -> bool:
        """Land beside the micro-batches, and say whether that began; what fails in it ends the session."""
        if self._landing is not None:
            if not self._landing.done():
                return False
            self._landing.result()
            self._landing = None
        since = time.monotonic() - self._landed_at
        is_due = since >= LAND_EVERY_SECONDS or self._unlanded >= LAND_AFTER_BATCHES
        if self._unlanded == 0 or not is_due:
            return False
        self._landing = pool.submit(self._land)
        self._landed_at, self._unlanded = time.monotonic(), 0
        return True

    def _land(self) -> None:
        for entity in self._route.entities.values():
            land(self._services, entity, "stream")

    def _machine_time(self) -> float:
        """Broker timestamps are the machine's time, not the world's."""
        settings = self._services.settings
        return (settings.now() - settings.clock_offset).timestamp()


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows stream`: until SIGTERM or Ctrl-C, which end it cleanly."""
    from flows import prepare
    from flows.commands import ensure_services
    from flows.services import open_services

    ensure_services()
    services = open_services()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with services.lake, Progress("stream") as progress:
        prepare.warehouse(services, False, progress)
        entities = [entity for entity in registry.entities() if isinstance(entity.read, Kafka)]
        begun = time.monotonic()
        tally = run(
            services,
            entities,
            stop=stop,
            until_idle=arguments.until_idle,
            seconds=length_of_time(arguments.seconds) if arguments.seconds else None,
            progress=progress,
        )
        progress.say("stream", tally.line(time.monotonic() - begun, 0))
    return 0
