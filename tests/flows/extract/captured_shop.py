"""A table of an application whose changes are produced by the test, and landed in any mode."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from flows.landing import Landing
from tests.broker import make_topics
from tests.flows.extract.change_events import PRODUCTS, Topic
from tests.flows.extract.parts import World
from tests.flows.streaming.topics import until
from transforms.entities import Postgres, SourceEntity

DDL = """
create table products (
    id bigint primary key, name text, price numeric(12, 2), tags text[], image bytea, attributes jsonb,
    created_at timestamptz, updated_at timestamptz default now()
)
"""


@dataclasses.dataclass
class Shop:
    """A table of the application, its change topic, and landings of it in any mode."""

    world: World
    topic: Topic
    sent: int = 0

    @property
    def name(self) -> str:
        return f"{self.world.settings['cdc_prefix']}.public.products"

    def make_topic(self, partitions: int = 1) -> None:
        make_topics(self.world.kafka_bootstrap, self.name, partitions=partitions)

    def send(self, *events: Any) -> None:
        self.topic.send(*events)
        producer = Producer({"bootstrap.servers": self.world.kafka_bootstrap})
        for record in self.topic.records[self.sent :]:
            headers = [(header["name"], header["value"]) for header in record["headers"]]
            producer.produce(self.name, record["value"], record["key"], partition=0, headers=headers)
        assert producer.flush(20) == 0
        self.sent = len(self.topic.records)

    @property
    def transactions(self) -> str:
        return f"{self.world.settings['cdc_prefix']}.transaction"

    def end_transactions(self, *numbers: int, records: int = 1) -> None:
        """Say that these ended, each with so many records of the table; makes the topic if it is missing."""
        producer = Producer({"bootstrap.servers": self.world.kafka_bootstrap})
        admin = AdminClient({"bootstrap.servers": self.world.kafka_bootstrap})
        if self.transactions not in admin.list_topics(timeout=20).topics:
            make_topics(self.world.kafka_bootstrap, self.transactions)
        for number in numbers:
            counted = [{"data_collection": "public.products", "event_count": records}] if records else []
            end = {"status": "END", "id": f"{number}:{number}", "data_collections": counted}
            producer.produce(self.transactions, json.dumps(end), partition=0)
        assert producer.flush(20) == 0

    def forget_transactions(self) -> None:
        """Delete their topic."""
        admin = AdminClient({"bootstrap.servers": self.world.kafka_bootstrap})
        admin.delete_topics([self.transactions])[self.transactions].result(20)
        until(lambda: self.transactions not in admin.list_topics(timeout=20).topics)

    def entity(self, mode: str = "cdc", **read: Any) -> SourceEntity:
        cursor = {"cursor": "updated_at"} if mode == "incremental" else {}
        how = Postgres("products", mode=mode, lookback=timedelta(0), **cursor, **read)  # type: ignore[arg-type]
        return dataclasses.replace(PRODUCTS, read=how)

    def land(self, mode: str = "cdc", **read: Any) -> Landing | None:
        return self.world.land(self.entity(mode, **read))

    def live(self, columns: str = "id, name") -> list[tuple[Any, ...]]:
        """What staging sees."""
        return self.world.seen(
            PRODUCTS,
            f"select {columns} from (select * from raw qualify row_number() over (partition by id "
            "order by _landed_at desc, _seq desc) = 1) where _op <> 'd' order by all",
        )

    def positions(self) -> Mapping[str, Any]:
        ((found,),) = self.world.warehouse("select positions from ops.position")
        return dict(found)
