"""How long the broker keeps the records of topics, beside how long their declarations say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

_KEEPS = "retention.ms"
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Shorter:
    """A topic that keeps its records for less than declared; `kept` None: this client may not ask."""

    topic: str
    declared: timedelta
    kept: timedelta | None

    def __str__(self) -> str:
        if self.kept is None:
            return f"{self.topic}: the broker does not tell this client (no right to describe its settings)"
        days = self.kept / timedelta(days=1)
        kept = f"{days:.3g} days" if days >= 1 else f"{days * 24:.3g} hours"
        return f"{self.topic} keeps a record for {kept}, declared are {self.declared.days} days"

    def mending(self, bootstrap: str) -> str:
        """The command that makes the broker keep them as long as declared."""
        return (
            f"kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics --entity-name "
            f"{self.topic} --add-config {_KEEPS}={self.declared // _MILLISECOND}"
        )


def shorter(client: AdminClient, declared: Mapping[str, timedelta], seconds: float) -> list[Shorter]:
    """The topics among `declared`, all of which exist, that keep less. For ever (-1) is enough."""
    asked = {ConfigResource(ConfigResource.Type.TOPIC, topic): topic for topic in sorted(declared)}
    found = []
    for resource, answer in client.describe_configs(list(asked), request_timeout=seconds).items():
        topic, least = asked[resource], declared[asked[resource]]
        try:
            kept = int(answer.result(seconds + 1)[_KEEPS].value)
        except KafkaException:
            found.append(Shorter(topic, least, None))
            continue
        if 0 <= kept < least / _MILLISECOND:
            found.append(Shorter(topic, least, kept * _MILLISECOND))
    return found
