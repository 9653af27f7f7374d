"""What a stream says of itself: a line for people, the same numbers in `ops.stream_progress`."""

from __future__ import annotations

import os
import secrets
import socket
import time
from bisect import bisect_left
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any

from psycopg import Connection, sql

from flows.extract import kafka_unread
from flows.metrics.names import LATENCY_BUCKETS
from flows.progress import Progress
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from flows.streaming import windows
from flows.streaming.consumer import StreamConsumer
from flows.streaming.microbatch import MicroBatch
from flows.streaming.route import Route

CHANGES = "changes-"
"""What the names of sessions begin with that follow changes."""
KIND = f"case when starts_with(owner, '{CHANGES}') then 'changes' else 'events' end"
"""SQL: the kind of stream that a row of ops.stream_progress is of."""
REPORTED_WITHIN = timedelta(minutes=1)
"""A stream tells of itself every few seconds; of one that has not for as long, nothing is known."""
_SHOW_EVERY_SECONDS = 5.0
_LATEST_SECONDS = 300.0


@dataclass
class Count:
    """What a stream did since it began."""

    batches: int = 0
    """Micro-batches, each one transaction."""
    messages: int = 0
    rows: int = 0
    dead_letters: int = 0
    bytes: int = 0
    """Of the messages, as they are held in memory."""
    copies: int = 0
    """Messages that were left out, each the copy of another."""
    unread: Counter[str] = field(default_factory=Counter)
    """Column of raw → messages that are landed with all but that: see `kafka_unread`."""
    interruptions: int = 0
    lag: int = 0
    """Messages that wait, as last seen."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    """Seconds from the broker's timestamp of the oldest message of a micro-batch to its commit, of the latest
    10,000."""
    _noted: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    """When each of them was noted, in seconds by the monotonic clock."""
    waited: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    """All of them, counted by LATENCY_BUCKETS; the last are above."""
    waited_seconds: float = 0.0

    def took(self, latency: float | None, at: float | None = None) -> None:
        """Note the latency of one micro-batch, seconds; None where no message says when it was sent.

        `at`: the moment, in seconds by the monotonic clock (None: now).
        """
        if latency is None:
            return
        self.latencies.append(latency)
        self._noted.append(time.monotonic() if at is None else at)
        self.waited[bisect_left(LATENCY_BUCKETS, latency)] += 1
        self.waited_seconds += latency

    def latency(self, at: float | None = None) -> tuple[float, float]:
        """Median and 99th percentile of the micro-batches of the last five minutes, the latest 200 at most;
        seconds. Those of the last one where the time had none, zeros where there never was one. `at` as for
        `took`.
        """
        if not self.latencies:
            return 0.0, 0.0
        # Where little comes, 200 of them are hours: what was made up for this morning is not how it is now.
        since = (time.monotonic() if at is None else at) - _LATEST_SECONDS
        latest = islice(zip(reversed(self.latencies), reversed(self._noted), strict=False), 200)
        waited = sorted(latency for latency, noted in latest if noted >= since) or [self.latencies[-1]]
        return waited[len(waited) // 2], waited[int(len(waited) * 0.99)]


@dataclass
class Tally(Count):
    """The same of the stream of events."""

    def add(self, batch: MicroBatch, latency: float | None) -> None:
        """Count one micro-batch."""
        self.batches += 1
        self.messages += batch.messages
        self.rows += sum(content.rows for content in batch.contents)
        self.copies += batch.copies
        self.dead_letters += len(batch.letters)
        came = batch.records.batches.values()
        self.bytes += sum(rows.nbytes for rows in came)
        self.unread += sum(map(kafka_unread.counted, came), Counter())
        self.took(latency)

    def line(self, rate: float) -> str:
        """One line for people; `rate` is in messages per second."""
        median, worst = self.latency()
        kinds = ((kafka_unread.KINDS[name], count) for name, count in self.unread.items())
        unread = "".join(f", {count:,} without their {kind.what} ({kind.why})" for kind, count in kinds)
        return (
            f"{rate:,.0f} messages/s, queryable after {median * 1000:,.0f} ms (p99 {worst * 1000:,.0f} ms); "
            f"{self.messages:,} messages, {self.rows:,} rows, {self.copies:,} copies left out, "
            f"{self.dead_letters:,} dead letters{unread}"
        )


class Report:
    """Tells every few seconds how a stream is doing."""

    def __init__(
        self, connection: Connection[Any], route: Route, owner: str, tally: Tally, progress: Progress
    ) -> None:
        self._connection = connection
        self._route = route
        self._owner = owner
        self._tally = tally
        self._progress = progress
        self._told = time.monotonic()
        self._messages = tally.messages

    def when_due(self, consumer: StreamConsumer) -> None:
        """Tell, if it is time; uses the session of PostgreSQL."""
        since = time.monotonic() - self._told
        if since < _SHOW_EVERY_SECONDS:
            return
        rate, lag = (self._tally.messages - self._messages) / since, consumer.lag
        still_open = sum(windows.open_windows(self._connection, table) for table in self._route.windows)
        self._told, self._messages, self._tally.lag = time.monotonic(), self._tally.messages, lag
        self._progress.say(
            "stream", f"{self._tally.line(rate)}; {lag:,} messages wait, {still_open:,} windows are open"
        )
        self._write(rate, lag, still_open)

    def _write(self, rate: float, lag: int, still_open: int) -> None:
        tally, (median, worst) = self._tally, self._tally.latency()
        note_progress(
            self._connection,
            self._owner,
            messages_per_second=rate,
            lag=lag,
            median_seconds=median,
            worst_seconds=worst,
            messages=tally.messages,
            row_count=tally.rows,
            copies=tally.copies,
            dead_letters=tally.dead_letters,
            open_windows=still_open,
        )


def note_progress(connection: Connection[Any], owner: str, **said: float) -> None:
    """Write what a stream process says of itself in the place of what it said before. Others of its kind that
    have not said anything for REPORTED_WITHIN are over: this one does their work. (One that lives says so
    again.)
    """
    names = sql.SQL(", ").join(map(sql.Identifier, said))
    values = sql.SQL(", ").join(map(sql.Literal, said.values()))
    # Of another kind the last word stays: that it died is told until somebody mends it.
    same_kind = f"starts_with(owner, '{CHANGES}') = starts_with(%(owner)s, '{CHANGES}')"
    with connection.transaction():
        connection.execute(
            "DELETE FROM ops.stream_progress WHERE owner = %(owner)s "
            f"OR (reported_at < now() - interval '7 days' AND {same_kind})".encode(),
            {"owner": owner},
        )
        connection.execute(
            "UPDATE ops.stream_progress SET ended_at = now() WHERE ended_at IS NULL "
            f"AND reported_at < now() - %(within)s AND {same_kind}".encode(),
            {"owner": owner, "within": REPORTED_WITHIN},
        )
        connection.execute(
            sql.SQL(
                "INSERT INTO ops.stream_progress (owner, reported_at, {names}) "
                "VALUES ({owner}, now(), {values})"
            ).format(names=names, owner=sql.Literal(owner), values=values)
        )


def owner(kind: str = "") -> str:
    """A name for one session of this process; `kind` is CHANGES for those that follow changes."""
    return f"{kind}{_process()}{secrets.token_hex(4)}"


def _process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-"


def note_end(warehouse: Warehouse) -> None:
    """Write that the sessions of this process ended because they were to: nobody waits for another word.
    Where the warehouse is away it is not known, and the stream counts as one that died.
    """
    with suppress(WarehouseError), warehouse.connect() as connection:
        connection.execute(
            "UPDATE ops.stream_progress SET ended_at = now() "
            "WHERE starts_with(owner, %(process)s) OR starts_with(owner, %(changes)s || %(process)s)",
            {"process": _process(), "changes": CHANGES},
        )
