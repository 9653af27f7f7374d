"""Records that raw has lost: read from the broker again, and landed as any landing is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from psycopg import Connection

from flows.erasure.listed import arriving
from flows.extract import Extract
from flows.extract.kafka import REQUEST_SECONDS, Topic, reread
from flows.extract.kafka_records import SCHEMA
from flows.failpoints import failpoint
from flows.landed import (
    BY,
    BY_REPLAY,
    CLOCK,
    LANDED_ON,
    OFFSETS,
    ROWS_PER_FILE,
    landing_time,
    portions_of,
    rows_by_window,
)
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, LakeFile
from flows.streaming.held import Spans
from transforms.contract import Layer
from transforms.entities import Kafka, SourceEntity


@dataclass
class Lost:
    """What raw does not hold: `spans` are still to be had from the broker, `gone` are not there either."""

    spans: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    gone: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    begins: Mapping[int, int] = field(default_factory=dict)
    """Partition → the first offset the broker still has."""

    @property
    def offsets(self) -> int:
        """How many offsets the broker is asked for: at most so many records come."""
        return sum(after - first for spans in self.spans.values() for first, after in spans)


def broker_topic(services: Services, entity: SourceEntity) -> Topic:
    """The topic of an entity at the broker; nothing is connected before the first question."""
    assert isinstance(entity.read, Kafka)
    settings = services.settings
    bootstrap = settings.require("kafka_bootstrap")
    return Topic(entity.read.topic, bootstrap, settings.kafka_options, REQUEST_SECONDS)


def look_for(topic: Topic, gaps: Spans, topic_id: str) -> Lost:
    """Part what raw does not hold into what the broker has and what it has deleted.

    Raises SourceError when the broker does not answer, or has another topic under that name.
    """
    lost = Lost()
    if not gaps:
        return lost
    ends = topic.spans({"topic_id": topic_id})
    lost.begins = {part: first for part, (first, _) in ends.items()}
    for part, spans in gaps.items():
        low, high = ends.get(part, (0, 0))
        for first, after in spans:
            for where, span in (
                (lost.gone, (first, min(after, low))),
                (lost.spans, (max(first, low), min(after, high))),
                (lost.gone, (max(first, low, high), after)),
            ):
                if span[0] < span[1]:
                    where.setdefault(part, []).append(span)
    return lost


@dataclass(frozen=True)
class Found:
    """The records the broker gave for what was lost, in files that nobody trusts yet."""

    files: tuple[LakeFile, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)
    commit: Commit | None = None
    version: int = 0

    @property
    def rows(self) -> int:
        """Records."""
        return sum(file.rows for file in self.files)


def fetch(
    services: Services,
    ledger: Ledger,
    entity: SourceEntity,
    topic: Topic,
    spans: Spans,
    broken: Sequence[LakeFile],
) -> Found:
    """Read what was lost into new raw files; `land` makes them true, or nobody ever does.

    The landing leaves the entity's offsets where they are, and takes the place of `broken` files. Its token
    comes from them, from what was read and from the state it was read on. Under the entity's landing lock.
    """
    position = ledger.positions(entity.table)
    landed_at = landing_time(services.settings.now(), position)
    read = {str(part): [list(span) for span in there] for part, there in sorted(spans.items())}
    gone = sorted(file.path for file in broken)
    text = json.dumps([entity.table, position.version, dict(position.positions), read, gone], sort_keys=True)
    token = f"replay-{entity.table}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    extract = Extract(SCHEMA, map(arriving(ledger.connection, entity), reread(topic, spans)))
    files = [
        services.lake.write(
            Layer.RAW.value,
            entity.table,
            LANDED_ON,
            f"{landed_at:%Y-%m-%d}",
            token if number == 0 else f"{token}-{number:05d}",
            reader,
            measured="_landed_at",
        )
        for number, reader in enumerate(portions_of(extract, token, landed_at, ROWS_PER_FILE))
    ]
    failpoint("replay.written")
    with services.lake.duckdb(keeps_order=False) as connection:
        paths = [str(Path(services.lake.root, file.path)) for file in files]
        windows = rows_by_window(connection, entity, paths)
    commit = Commit(
        token=token,
        kind="land",
        layer=Layer.RAW.value,
        table=entity.table,
        run_id="replay",
        add=tuple(files),
        remove=tuple(gone),
        positions={**position.positions, CLOCK: landed_at.isoformat()},
        windows=windows,
        control={BY: BY_REPLAY, OFFSETS: read},
        row_count=sum(file.rows for file in files),
        landed_at=landed_at,
    )
    return Found(tuple(files), windows, commit, position.version)


def give_up(services: Services, found: Found) -> None:
    """Remove the files of what is not landed."""
    for file in found.files:
        services.lake.discard(file)


def land(services: Services, ledger: Ledger, found: Found, beside: Callable[[], None]) -> None:
    """Make what was found true; `beside` writes what belongs to the same transaction."""
    assert found.commit is not None
    within = partial(_call, beside)
    ledger.record(services.lake, found.commit, version=found.version, within=within)
    failpoint("replay.landed")


def _call(beside: Callable[[], None], _: Connection[Any]) -> None:
    beside()
