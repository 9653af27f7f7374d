"""How long the broker keeps the records of topics, beside how long their declarations say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

_KEEPS, _POLICY, _COMPACTED_AFTER = "retention.ms", "cleanup.policy", "min.compaction.lag.ms"
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Shorter:
    """A topic that keeps its records for less than declared; `kept` None: this client may not ask.
    `is_compacted`: then it lets go of those that have a newer one of the same key.
    """

    topic: str
    declared: timedelta
    kept: timedelta | None
    is_compacted: bool = False

    def __str__(self) -> str:
        if self.kept is None:
            return f"{self.topic}: the broker does not tell this client (no right to describe its settings)"
        days = self.kept / timedelta(days=1)
        kept = f"{days:.3g} days" if days >= 1 else f"{days * 24:.3g} hours"
        which = " once a newer one has its key" if self.is_compacted else ""
        return f"{self.topic} keeps a record for {kept}{which}, declared are {self.declared.days} days"

    def mending(self, bootstrap: str) -> str:
        """The command that makes the broker keep them as long as declared."""
        keeps = f"{_KEEPS}={self.declared // _MILLISECOND}"
        return (
            f"kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics --entity-name "
            f"{self.topic} --add-config {f'{_POLICY}=delete' if self.is_compacted else keeps}"
        )


def shorter(client: AdminClient, declared: Mapping[str, timedelta], seconds: float) -> list[Shorter]:
    """The topics among `declared`, all of which exist, that keep less. For ever (-1) is enough."""
    asked = {ConfigResource(ConfigResource.Type.TOPIC, topic): topic for topic in sorted(declared)}
    found = []
    for resource, answer in client.describe_configs(list(asked), request_timeout=seconds).items():
        topic, least = asked[resource], declared[asked[resource]]
        try:
            settings = answer.result(seconds + 1)
        except KafkaException:
            found.append(Shorter(topic, least, None))
            continue
        is_compacted = "compact" in settings[_POLICY].value
        for name, applies in (
            (_COMPACTED_AFTER, is_compacted),
            (_KEEPS, "delete" in settings[_POLICY].value),
        ):
            kept = int(settings[name].value)
            if applies and 0 <= kept < least / _MILLISECOND:
                found.append(Shorter(topic, least, kept * _MILLISECOND, name == _COMPACTED_AFTER))
    return found
