"""Topics by the id that a broker gave them: a name can be another topic's than it was."""

from __future__ import annotations

import logging
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
    return declared_in_place(topic, known) or (
        f"Topic {topic.name} at {topic.bootstrap} was deleted and made anew (its id is {topic.id}, {known} "
        "was read before): offsets of the old one say nothing about it. Nothing was landed. What is lost, "
        f"and the way on: {topic.cure}"
    )


def declared_in_place(topic: Named, known: str) -> str:
    """That the topic whose id is `known` is there still, under its own name, and what to do; '' where the
    broker shows none. Raises KafkaException when it does not answer.
    """
    admin = AdminClient(topic.settings, logger=_log)
    names = list(admin.list_topics(timeout=topic.seconds).topics)
    for name, found in admin.describe_topics(TopicCollection(names), request_timeout=topic.seconds).items():
        with suppress(KafkaException, TimeoutError):  # of one that may not be looked at
            if str(found.result(timeout=topic.seconds + 5).topic_id) == known:
                return (
                    f"Topic {topic.name} at {topic.bootstrap}: what was read before under its declaration is "
                    f"{name}, which is there still. Nothing was landed. Declare {name} again, or give the "
                    "declaration another name: all of the topic lands under that."
                )
    return ""
