"""What a delivered world really holds: database, broker and APIs, recounted without the product's code."""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
from confluent_kafka import Consumer, TopicPartition

from flows import sandbox
from flows.sandbox.world import World, clickstream
from tests.broker import headers_of
from tests.flows.sandbox import truth


@dataclass(frozen=True)
class Message:
    """A record as a topic gives it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    headers: list[tuple[str, str | bytes | None]]
    value: bytes | None


@dataclass
class Company:
    """A world and where it was delivered."""

    state: sandbox.State
    world: World
    _read: list[Message] = field(default_factory=list, repr=False)

    @property
    def arguments(self) -> tuple[Path, str, str, Path]:
        return arguments(self.state)

    @property
    def truth(self) -> Path:
        return self.state.folder / "truth"

    def query(self, sql: str) -> list[Any]:
        with psycopg.connect(self.state.app_dsn or "") as connection:
            connection.execute("set timezone to 'UTC'")
            return connection.execute(sql.encode()).fetchall()

    def messages(self) -> list[Message]:
        """Every message of the three topics, in order of partition and offset; read once."""
        if not self._read:
            self._read = self._consume()
        return self._read

    def _consume(self) -> list[Message]:
        consumer = Consumer(
            {
                "bootstrap.servers": self.state.kafka_bootstrap,
                "group.id": "recount",
                "enable.auto.commit": False,
            }
        )
        found = []
        for topic in clickstream.TOPICS:
            for partition in range(clickstream.PARTITIONS):
                place = TopicPartition(topic, partition, 0)
                consumer.assign([place])
                wanted = consumer.get_watermark_offsets(place)[1]
                read = 0
                for _ in range(1000):
                    if read == wanted:
                        break
                    for m in consumer.consume(min(5000, wanted - read), timeout=2):
                        offset = m.offset()
                        assert m.error() is None
                        assert offset is not None
                        found.append(
                            Message(
                                topic,
                                partition,
                                offset,
                                m.timestamp()[1],
                                m.key(),
                                headers_of(m),
                                m.value(),
                            )
                        )
                        read += 1
                assert read == wanted
        consumer.close()
        return found


def arguments(state: sandbox.State) -> tuple[Path, str, str, Path]:
    assert state.app_dsn
    assert state.kafka_bootstrap
    return state.folder, state.app_dsn, state.kafka_bootstrap, state.apis_database


def event(message: Message) -> dict[str, Any] | None:
    """What a strict reader makes of a message: event_time as an instant; None for one that is no event."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        fields: dict[str, Any] = json.loads((message.value or b"").decode(), parse_constant=refuse)
        json.dumps(fields, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
        uuid.UUID(fields["event_id"])
        at = datetime.fromisoformat(fields["event_time"])
        if at.tzinfo is None or at.year > 2100 or not isinstance(fields["user_id"], int | None):
            return None
    except (ValueError, KeyError, TypeError):
        return None
    return fields | {"event_time": at.astimezone(UTC)}


def winners(messages: list[Message]) -> dict[tuple[str, str], dict[str, Any]]:
    """Of the copies of each event the one with the lowest partition, then offset."""
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    for message in sorted(messages, key=lambda m: (m.partition, m.offset)):
        fields = event(message)
        if fields is not None:
            kept.setdefault((message.topic, fields["event_id"]), fields)
    return kept


def hold_to_the_truth(company: Company) -> None:
    """Recount database and topics and compare with the truth."""
    messages = company.messages()
    days: Counter[tuple[date, str]] = Counter()
    users: defaultdict[date, set[int]] = defaultdict(set)
    names = {"page_views": "page_view", "clicks": "click"}
    for (topic, _), fields in winners(messages).items():
        day = fields["event_time"].date()
        days[day, fields.get("event_type") or names[topic]] += 1
        if fields["user_id"] is not None:
            users[day].add(fields["user_id"])
    expected = truth.expected(company.truth, "fct_events")
    assert days == {(day, group): int(n) for (day, group, name), n in expected.items() if name == "rows"}
    active = truth.expected(company.truth, "fct_daily_active_users")
    assert {d: len(ids) for d, ids in users.items()} == {
        day: int(n) for (day, _, name), n in active.items() if name == "daily_active_users" and n
    }
    bad = {(m.topic, m.partition, m.offset) for m in messages if event(m) is None}
    letters = pl.read_parquet(company.truth / "rows" / "dead_letters.parquet")
    assert bad == set(letters.drop("reason").iter_rows())

    tables = [row[0] for row in company.query("select tablename from pg_tables where schemaname = 'public'")]
    assert len(tables) == 15
    for table in tables:
        day = "occurred_at" if table == "order_events" else "updated_at"
        amount = {
            "orders": "total_amount",
            "payments": "amount",
            "refunds": "amount",
            "product_prices": "amount",
        }.get(table)
        measured = truth.expected(company.truth, f"app.{table}")
        sums = f", coalesce(sum({amount}), 0)" if amount else ""
        for at, count, *total in company.query(f"select {day}::date, count(*){sums} from {table} group by 1"):
            assert measured.pop((at, None, "rows")) == count, f"{table} {at}"
            if amount:
                assert measured.pop((at, None, amount)) == total[0], f"{table} {at}"
        assert not measured, f"the truth of {table} has days that the table has not"
    revenue = {
        (at, group): (Decimal(count), total)
        for at, group, count, total in company.query(
            "select created_at::date, currency || '/' || status, count(*), sum(total_amount)"
            " from orders group by 1, 2"
        )
    }
    told = truth.expected(company.truth, "fct_orders")
    assert revenue == {
        (day, group): (n, told[day, group, "revenue"])
        for (day, group, name), n in told.items()
        if name == "rows"
    }
