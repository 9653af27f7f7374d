"""Streams that run for themselves, as `python -m flows stream` does, and producers that send meanwhile."""

from __future__ import annotations

import json
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from flows.extract import SourceAway
from flows.extract.kafka_lost import Hearing
from flows.streaming import taking_in
from tests import children
from tests.flows.streaming.counting import assert_agreed
from tests.flows.streaming.topics import PARTITIONS, Topics

KEYS = 97


class Worker:
    """A stream in a process of its own: SIGTERM ends it cleanly, SIGKILL at once. Killed with its block."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._process: BaseProcess

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join(10)

    def start(self) -> None:
        """Begin to take in."""
        self._process = children.begun(_take_in, self._topics)

    def end(self, number: signal.Signals) -> None:
        """End it by SIGTERM or SIGKILL; asserts that it ended of that, not by itself before."""
        assert self._process.is_alive(), f"the stream ended by itself: {self._process.exitcode}"
        assert self._process.pid is not None
        if number is signal.SIGKILL:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.join(60)
        assert self._process.exitcode == (-signal.SIGKILL if number is signal.SIGKILL else 0)

    def bounce(self, number: signal.Signals) -> None:
        """End it, and start another."""
        self.end(number)
        self.start()

    def resident(self, name: str = "VmRSS") -> float:
        """MB of memory that it uses (or, by VmHWM, used at most); Linux alone tells."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) / 1024


class Sender:
    """Sends events 0, 1, … to user_events, so many a second, while its block runs, and then what is missing
    to `at_least`. Each key keeps to its partition. What the broker was not there for is sent again, once.

    A producer that has lost its broker for good (see `kafka_lost`) is replaced: what waits in it was never
    sent. It is taken for that once the broker has been back for longer than finding it again may take.
    """

    def __init__(self, topics: Topics, rate: float, at_least: int = 0) -> None:
        self.count = 0
        self._topics = topics
        self._rate = rate
        self._at_least = at_least
        self._is_over = threading.Event()
        self._failed: list[object] = []
        self._unsent: list[Message] = []
        self._settings: dict[str, Any] = {
            "bootstrap.servers": topics.world.kafka_bootstrap,
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
            "linger.ms": 5,
        }
        self._hearing = Hearing(self._settings, topics.topic(), quiet_seconds=40.0)
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._is_over.set()
        if kind is None:
            self._thread.join()
            assert self._failed == []

    def _send(self) -> None:
        producer, begun = Producer(self._settings), time.monotonic()
        while not self._is_over.is_set() or self.count < self._at_least:
            key = self.count % KEYS
            value = json.dumps(sent(self._topics, self.count)).encode()
            self._produce(producer, value, str(key).encode(), key % PARTITIONS)
            self.count += 1
            if self.count % 50 == 0:
                producer.poll(0)
                producer = self._heard(producer)
                self._is_over.wait(max(0.0, self.count / self._rate - (time.monotonic() - begun)))
        deadline = time.monotonic() + 120
        while producer.flush(5):
            if time.monotonic() > deadline:
                self._failed.append("not everything was delivered")
                return
            producer = self._heard(producer)

    def _produce(self, producer: Producer, value: bytes, key: bytes, partition: int) -> None:
        producer.produce(self._topics.topic(), value, key, partition, on_delivery=self._told)

    def _heard(self, producer: Producer) -> Producer:
        """The producer, or another one that goes on where it can't."""
        try:
            self._hearing.check(producer)
        except SourceAway:
            producer.purge(in_queue=True, in_flight=False)
            producer.flush(5)
            unsent, self._unsent = self._unsent, []
            producer = Producer(self._settings)
            for message in unsent:
                value, key, partition = message.value(), message.key(), message.partition()
                assert isinstance(value, bytes)
                assert isinstance(key, bytes)
                assert partition is not None
                self._produce(producer, value, key, partition)
        return producer

    def _told(self, error: KafkaError | None, message: Message) -> None:
        self._hearing.note()
        if error is not None and error.code() == KafkaError._PURGE_QUEUE:
            self._unsent.append(message)
        elif error is not None:
            self._failed.append(error)


def taken_in(topics: Topics) -> int:
    """Rows that are published."""
    ((count,),) = topics.rows("select count(*) from analytics.fct_events")
    return int(count)


def sent(topics: Topics, number: int) -> dict[str, Any]:
    """The event of this number as a Sender sends it."""
    return topics.event(number, minutes=number % 50, user_id=1 + number % KEYS)


def prove(topics: Topics, count: int) -> None:
    """Of the events 0, 1, … each once in the warehouse and once in the lake, in the order in which each key
    was sent, counted in its window, told once; and a batch that computes them from the lake finds nothing to
    change.
    """
    assert [number for number, _, _ in topics.numbers()] == list(range(count))
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == count
    swapped = topics.world.raw(
        topics.entity(),
        "select count(*) from (select n, lag(n) over (partition by key order by kafka_offset) as before "
        "from (select key, kafka_offset, (decode(value) ->> '$.properties.n')::bigint as n from raw)) "
        "where n <= before",
    )
    assert swapped == [(0,)]
    assert_agreed(topics, (sent(topics, number) for number in range(count)))


def _take_in(topics: Topics) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    services = topics.world.services()
    with services.lake:
        taking_in.take_in(services, topics.way, stop=stop)
