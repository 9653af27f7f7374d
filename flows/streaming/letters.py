"""Dead letters of what one topic's part of a micro-batch could not take in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from flows.extract import DeadLetter
from transforms.entities import SourceEntity


def by_seq(entity: SourceEntity, landed: pa.Table, reasons: Mapping[int, str]) -> Iterator[DeadLetter]:
    """One for each of these raw records, by `_seq`, which is its place in `landed`."""
    for seq, reason in reasons.items():
        (row,) = landed.slice(seq, 1).to_pylist()
        yield DeadLetter(
            source=entity.source,
            entity=entity.name,
            reason=reason,
            payload=row["value"] or b"",
            received_at=row["_landed_at"],
            topic=row["topic"],
            kafka_partition=row["kafka_partition"],
            kafka_offset=row["kafka_offset"],
            kafka_timestamp=row["kafka_timestamp"],
            batch_id=row["_batch_id"],
            seq=row["_seq"],
        )


def by_offset(
    entity: SourceEntity, landed: pa.Table, reasons: Mapping[tuple[int, int], str]
) -> Iterator[DeadLetter]:
    """The same by Kafka partition and offset."""
    places = zip(*(landed[name].to_pylist() for name in ("kafka_partition", "kafka_offset")), strict=True)
    found = {seq: reasons[place] for seq, place in enumerate(places) if place in reasons}
    return by_seq(entity, landed, found)
