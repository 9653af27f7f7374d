"""Whether topics that are being read are still those that reading began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from flows.extract.kafka import PositionGone

_SECONDS = 5.0
_log = logging.getLogger(__name__)


class SameTopics:
    """Asks for the ids of topics. A client goes by their names: where one is made anew under it, it reads on
    from the old one's offset as soon as there is such an offset, and says nothing.
    """

    def __init__(self, bootstrap: str, options: Mapping[str, str], owner: str) -> None:
        self._settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "client.id": owner,
            **options,
        }
        self._admin = AdminClient(self._settings, logger=_log)
        self._bootstrap = bootstrap

    def look(self, known: Mapping[str, str]) -> None:
        """Raises PositionGone when a topic has another id than the known one. What the broker does not know
        is left to the client, which tells.
        """
        if not known:
            return
        is_answered = True
        asked = self._admin.describe_topics(TopicCollection(list(known)), request_timeout=_SECONDS)
        for name, found in asked.items():
            try:
                there = str(found.result(_SECONDS + 1).topic_id)
            except (KafkaException, TimeoutError):
                is_answered = False
                continue
            if there != known[name]:
                raise PositionGone(
                    f"Topic {name} at {self._bootstrap} was deleted and made anew while it was being read "
                    f"(its id is {there}, {known[name]} was read before). What came of the new one since "
                    "may have been taken in as if it were of the old one; it counts once. What is lost, "
                    f"and the way on: python -m flows positions {name}"
                )
        if not is_answered:  # this client may have lost the broker for good: see kafka_lost
            self._admin = AdminClient(self._settings, logger=_log)
