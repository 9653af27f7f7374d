"""What a Kafka cluster says of a partition while it settles: its topic was just made, or its leader has just
changed. Asked again it knows. Who reads or writes need not care, the client does; it does not where it asks
for offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import stamina
from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")

# Those of ListOffsets that Kafka's own client asks again for.
_SETTLING = {
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._NOENT,
}


def settled(ask: Callable[[], T], seconds: float) -> T:
    """What `ask` gives once the cluster has settled; raises what it raised last after so many seconds."""
    for attempt in stamina.retry_context(
        on=_is_settling, attempts=None, timeout=seconds, wait_initial=0.02, wait_jitter=0.02, wait_max=1.0
    ):
        with attempt:
            return ask()
    raise AssertionError("a retry ends with a result or an error")


def _is_settling(error: Exception) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in _SETTLING
