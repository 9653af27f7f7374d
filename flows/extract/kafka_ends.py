"""How far a partition goes at this moment, asked through the consumer that reads it."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, TopicPartition

_SECONDS = 1.0


def end_now(consumer: Consumer, topic: str, partition: int) -> int | None:
    """Its end as this consumer may read it: where it reads what is committed alone, the last stable offset.

    The broker is asked, because what it told earlier is no longer true when messages have come that it has
    not delivered yet. None when it does not answer within a second.
    """
    place = TopicPartition(topic, partition)
    try:
        _, end = consumer.get_watermark_offsets(place, timeout=_SECONDS, cached=False)
    except KafkaException:
        return None
    return end
