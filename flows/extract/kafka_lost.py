"""A client that has lost its brokers for good and does not say so.

A broker that is being stopped may answer, at the last moment, that there are none. librdkafka then lets go of
all that it knows and asks nobody ever again (confluentinc/librdkafka#5301); only a new client finds them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

from flows.extract import SourceAway

_log = logging.getLogger(__name__)
QUIET_SECONDS = 10.0
"""So long a client may hear nothing until it is asked whether anybody answers it."""
_ASK_SECONDS = 2.0


class Hearing:
    """Whether a client still hears of its brokers. `settings` are those that a new one would get."""

    def __init__(self, settings: Mapping[str, Any], topic: str, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._settings = {**settings, "group.id": "analytics-extract"}
        self._topic = topic
        self._quiet_seconds = quiet_seconds
        self._heard_at = time.monotonic()

    def note(self) -> None:
        """Something came."""
        self._heard_at = time.monotonic()

    def check(self, client: Consumer | Producer) -> None:
        """To be called while nothing comes. Raises SourceAway when nobody answers this client, and a new one
        is answered: while a broker is away it is neither, and the client goes on when it is back.
        """
        if time.monotonic() - self._heard_at < self._quiet_seconds:
            return
        if not self._is_answered(client) and self._is_a_new_one_answered():
            raise SourceAway(
                f"The client of topic {self._topic} has lost {self._settings['bootstrap.servers']} "
                "and does not look for it again, though it is there."
            )
        self._heard_at = time.monotonic()

    def _is_answered(self, client: Consumer | Producer) -> bool:
        try:
            client.list_topics(self._topic, timeout=_ASK_SECONDS)
        except KafkaException:
            return False
        return True

    def _is_a_new_one_answered(self) -> bool:
        with closing(Consumer(self._settings, logger=_log)) as client:
            return self._is_answered(client)
