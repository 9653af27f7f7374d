"""Topics by the id that a broker gave them: a name can be another topic's than it was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

_log = logging.getLogger(__name__)


class Named(Protocol):
    """A declared topic; `id` is the one that it has now, `cure` the command that goes on."""

    name: str
    id: str
    bootstrap: str
    settings: dict[str, Any]
    seconds: float
    cure: str


def another(topic: Named, known: str) -> str:
    """Why a topic is not the one whose id is `known`, and what to do. Raises KafkaException when the broker
    does not answer.
    """
    where = f"Topic {topic.name} at {topic.bootstrap}"
    if other := topic_of(known, topic.settings, topic.seconds):
        return (
            f"{where}: what was read before under its declaration is {other}, which is there still. Nothing "
            f"was landed. Declare {other} again, or give the declaration another name: all of the topic "
            "lands under that."
        )
    return (
        f"{where} was deleted and made anew (its id is {topic.id}, {known} was read before): offsets of the "
        f"old one say nothing about it. Nothing was landed. What is lost, and the way on: {topic.cure}"
    )


def topic_of(topic_id: str, settings: Mapping[str, Any], seconds: float) -> str:
    """The name of the topic that has this id; '' where the broker shows none. Raises KafkaException when it
    does not answer.
    """
    admin = AdminClient(dict(settings), logger=_log)
    names = list(admin.list_topics(timeout=seconds).topics)
    for name, found in admin.describe_topics(TopicCollection(names), request_timeout=seconds).items():
        with suppress(KafkaException, TimeoutError):  # of one that may not be looked at
            if str(found.result(timeout=seconds + 5).topic_id) == topic_id:
                return name
    return ""
