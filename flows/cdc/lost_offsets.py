"""Whether Kafka Connect has lost how far the connector had read, as the records tell that are to be landed.

A landing halts by the same (`cdc.read`); whoever asks how it is need not wait for one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from flows.cdc import told
from flows.cdc.consuming import change_topic
from flows.extract import SourceError, cdc, debezium, kafka
from flows.extract.debezium_guard import OFFSETS_LOST, REMEMBERED, Observed
from flows.extract.kafka import Topic
from flows.settings import Settings
from transforms import engine
from transforms.entities import Postgres, SourceEntity

SECONDS = 5.0
"""How long is read at most, of the tables with the fewest records first: offsets are one for all of them."""


def halts(
    settings: Settings,
    seen: Observed,
    entities: Iterable[SourceEntity],
    positions: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """Raw table → why the next landing halts it; `positions` are those of the ledger, by raw table.

    What no topic or broker tells is no answer: that is told elsewhere. An engine in Connect's place keeps its
    offsets beside the records, so it loses none by itself.
    """
    if settings.cdc_engine == "embedded":
        return {}
    until = time.monotonic() + SECONDS
    found: dict[str, str] = {}
    with closing(engine.connect(threads=1)) as connection:
        for _, table, topic, span, place in sorted(_unread(settings, seen, entities, positions), key=_size):
            try:
                if _is_read_anew(connection, topic, span, place, until):
                    found[table] = OFFSETS_LOST
            except SourceError:
                continue
    return found


_Unread = tuple[int, str, Topic, tuple[int, int], int]
"""Records, raw table, topic, the offsets [first, end) of what was not landed, and the place in the source's
log of the first read that was."""


def _unread(
    settings: Settings,
    seen: Observed,
    entities: Iterable[SourceEntity],
    positions: Mapping[str, Mapping[str, Any]],
) -> Iterator[_Unread]:
    """What there is to read of the tables of which the connector had noted that they were read."""
    for entity in entities:
        position = cdc.continued("cdc", positions.get(entity.table, {}))
        remembered = position.get(REMEMBERED, {})
        place = position.get(cdc.READING)
        is_of_now = remembered.get("registration") == seen.registration
        if place is None or not is_of_now or int(remembered.get("confirmed", 0)) <= place:
            continue
        assert isinstance(entity.read, Postgres)
        topic = change_topic(settings, debezium.topic(settings, entity.read))
        try:
            span = topic.spans(position).get(0, (0, 0))
        except SourceError:
            continue
        if span[0] < span[1]:
            yield span[1] - span[0], entity.table, topic, span, int(place)


def _size(one: _Unread) -> int:
    return one[0]


def _is_read_anew(
    connection: DuckDBPyConnection, topic: Topic, span: tuple[int, int], place: int, until: float
) -> bool:
    with closing(kafka.reread(topic, {0: [span]}, SECONDS)) as batches:
        for batch in batches:
            if (newest := _newest(connection, batch)) is not None and newest > place:
                return True
            if time.monotonic() > until:
                break
    return False


def _newest(connection: DuckDBPyConnection, batch: pa.RecordBatch) -> int | None:
    """The place of the newest first read that records are of."""
    connection.register("fresh", pa.Table.from_batches([batch]))
    query = f"select max(lsn) from ({told.of_records(0)}) where mark not in ('false', 'incremental')"
    ((newest,),) = connection.execute(query).fetchall()
    return None if newest is None else int(newest)
