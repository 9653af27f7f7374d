"""What Debezium's objects are called: a table's change topic, the connector, the slot, the publication.

Everything is named by `ANALYTICS_CDC_PREFIX`, so that two installations can read one database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from flows.settings import Settings
from transforms import registry
from transforms.entities import Postgres, SourceEntity

SCHEMA = "analytics_cdc"
"""Schema of the application's database that holds our heartbeat and signal tables."""


def entities(declared: Iterable[SourceEntity] | None = None) -> tuple[SourceEntity, ...]:
    """The entities that are declared as cdc; `declared` is everything there is unless given."""
    every = registry.entities() if declared is None else declared
    return tuple(e for e in every if isinstance(e.read, Postgres) and e.read.mode == "cdc")


def topic(settings: Settings, read: Postgres) -> str:
    """The topic of a table's change events: `<prefix>.<schema>.<table>`."""
    return topic_of(settings.cdc_prefix, read.schema, read.table)


def topic_of(prefix: str, schema: str, table: str) -> str:
    """The topic's name with every character that Kafka refuses replaced by `_`, as Debezium does it."""
    return re.sub(r"[^a-zA-Z0-9._-]", "_", f"{prefix}.{schema}.{table}")


def collection(read: Postgres) -> str:
    """What a table is called where a transaction's end counts its changes."""
    return f"{read.schema}.{read.table}"


@dataclass(frozen=True)
class Names:
    """What the connector and its objects in PostgreSQL and Kafka are called."""

    prefix: str

    @property
    def connector(self) -> str:
        return f"analytics-{self.prefix}"

    @property
    def slot(self) -> str:
        return f"analytics_{self.prefix}"

    @property
    def publication(self) -> str:
        return f"analytics_{self.prefix}"

    @property
    def heartbeat(self) -> str:
        """Table that the connector writes to, so that a quiet database does not keep its WAL."""
        return f"{SCHEMA}.{self.prefix}_heartbeat"

    @property
    def signal(self) -> str:
        """Table that the connector takes orders from."""
        return f"{SCHEMA}.{self.prefix}_signal"

    @property
    def transactions(self) -> str:
        """Topic in which Debezium says which transactions ended, and how many changes of what they made."""
        return f"{self.prefix}.transaction"

    @property
    def notifications(self) -> str:
        """Topic in which Debezium says how a snapshot goes on."""
        return f"{self.prefix}.notifications"

    @property
    def own_topics(self) -> tuple[str, ...]:
        """Topics of no declared table: transactions, logical messages, heartbeats, notices, signals."""
        tables = (f"{self.prefix}.{table}" for table in (self.heartbeat, self.signal))
        beats = f"__debezium-heartbeat.{self.prefix}"
        return (self.transactions, f"{self.prefix}.message", beats, self.notifications, *tables)


def names(settings: Settings) -> Names:
    """The names that follow from the settings."""
    return Names(settings.cdc_prefix)
