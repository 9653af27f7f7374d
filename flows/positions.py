"""Where a topic is read on, and the one way past what the broker has lost: `python -m flows positions`.

Nothing jumps over a gap by itself. A person looks at what is lost, and says so with `--yes`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.errors import FlowsError
from flows.extract.kafka import PositionGone, Topic
from flows.extract.kafka_names import declared_in_place
from flows.landed import NOTHING_IN
from flows.progress import Progress
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.streaming.held import RawTopic, Span, told
from flows.streaming.journal import Journal
from flows.streaming.lost import broker_topic
from flows.streaming.rollup import land_journal
from transforms.entities import SourceEntity

_PATIENCE_SECONDS = 30.0
"""How long a stream that is just ending, or just starting in vain, is waited for."""


class StreamLives(FlowsError):
    """A stream reads the topic: its position is not to be moved under it."""


@dataclass(frozen=True)
class Gap:
    """A partition that can't be read on from where it was read to."""

    partition: int
    offset: int
    """What was to be read next."""
    next_offset: int | None
    """Where it can be read on; None: the broker has this partition no more."""
    reason: str
    lost_to: int | None = None
    """Records from `offset` on up to this one were deleted unread; None: how many there were nobody knows."""

    def line(self, lake: Sequence[Span]) -> str:
        """For people, with what the lake has of the partition."""
        if self.lost_to is not None:
            lost = f"lost are the records at offsets {told([(self.offset, self.lost_to)])}"
        else:
            lost = f"lost is what came from offset {self.offset} on and was not read"
        there = f"the lake has offsets {told(lake)}" if lake else "the lake has nothing of it"
        goes_on = (
            "nothing is read of it any more"
            if self.next_offset is None
            else "it is read on from " + str(self.next_offset)
        )
        return f"partition {self.partition}: {self.reason}; {lost}; {there}; {goes_on}"


@dataclass
class Standing:
    """How one topic stands: what was read, and what the broker has."""

    topic: str
    topic_id: str
    known: Mapping[str, Any]
    held: Mapping[int, Span]
    gaps: Sequence[Gap]
    lake: Mapping[int, Sequence[Span]] = field(default_factory=dict)

    @property
    def offsets(self) -> dict[str, int]:
        """Partition → the offset to be read next once the gaps are accepted."""
        found = {int(part): int(offset) for part, offset in self.known.get("offsets", {}).items()}
        for gap in self.gaps:
            del found[gap.partition]
            if gap.next_offset is not None:
                found[gap.partition] = gap.next_offset
        return {str(part): offset for part, offset in sorted(found.items())}

    def lines(self) -> Iterator[str]:
        """For people."""
        gaps = {gap.partition: gap for gap in self.gaps}
        offsets = {int(part): int(offset) for part, offset in self.known.get("offsets", {}).items()}
        for part in sorted(self.held.keys() | offsets.keys()):
            if part in gaps:
                yield f"topic {self.topic}, {gaps[part].line(self.lake.get(part, ()))}"
                continue
            first, end = self.held[part]
            start = offsets.get(part, first)
            yield f"topic {self.topic}, partition {part}: read up to offset {start}, {end - start} wait"


def gaps(known: Mapping[str, Any], topic_id: str, held: Mapping[int, Span]) -> list[Gap]:
    """What keeps a topic from being read on from its known positions; `held` is what the broker has of each
    partition, [first, end).

    A partition that ends before its position is read from its beginning: which of its records are those that
    were read nobody can tell, and a copy is known by its identity.
    """
    offsets = {int(part): int(offset) for part, offset in known.get("offsets", {}).items()}
    is_anew = bool(known.get("topic_id")) and known["topic_id"] != topic_id
    found = []
    for part, offset in sorted(offsets.items()):
        first, end = held.get(part, (0, 0))
        if part not in held:
            found.append(Gap(part, offset, None, "the broker has it no more"))
        elif is_anew:
            found.append(Gap(part, offset, first, f"the topic was made anew (id {topic_id})"))
        elif offset < first:
            found.append(Gap(part, offset, first, "the broker deleted what was not read yet", first))
        elif offset > end:
            found.append(Gap(part, offset, first, f"the broker has lost records: it ends at {end}"))
    return found


def look(services: Services, entity: SourceEntity) -> Standing:
    """How its topic stands. Raises SourceError when the broker does not answer or has no such topic, or when
    another topic was read under the declaration, which is there still.
    """
    with services.ledger() as ledger, ledger.locked("land", entity.table):
        return _standing(services, ledger, entity)


def accept(services: Services, entity: SourceEntity, run_id: str) -> Standing:
    """Have a topic read on from what the broker has, whatever was lost before; returns how it stood.

    1. Hold the entity's landing lock, and wait until no stream reads the topic. Raises StreamLives, and
       TwoStories where the lake is not the warehouse's.
    2. Land what a stream has taken in: it is of the old positions.
    3. In one transaction: the positions, by compare-and-swap; older claims of streams can commit nothing any
       more; a row in `ops.position_reset` for each gap.

    A crash before the commit of 3 changes nothing. Twice is once: then there is no gap.
    """
    with (
        services.ledger() as ledger,
        ledger.locked("land", entity.table),
        _alone(Journal(ledger.connection), entity),
    ):
        refuse_two_stories(ledger, services.lake)
        land_journal(services.lake, ledger, entity, services.settings.now(), run_id)
        standing = _standing(services, ledger, entity)
        if standing.gaps:
            _move(ledger, entity, standing)
        return standing


def _standing(services: Services, ledger: Ledger, entity: SourceEntity) -> Standing:
    topic: Topic = broker_topic(services, entity)
    held = topic.held()
    known = Journal(ledger.connection).positions(entity.table)
    _refuse_another(topic, str(known.get("topic_id") or topic.id))
    found = gaps(known, topic.id, held)
    there = {gap.partition: [(0, gap.offset)] for gap in found}
    lake = RawTopic(services, ledger, entity).held(there).spans if there else {}
    return Standing(topic.name, topic.id, known, held, found, lake)


def _refuse_another(topic: Topic, before: str) -> None:
    """Nothing is lost of a topic that is there under its own name: another one is declared in its place."""
    if before != topic.id:
        with topic.errors_told():
            if told := declared_in_place(topic, before):
                raise PositionGone(told)


@contextmanager
def _alone(journal: Journal, entity: SourceEntity) -> Iterator[None]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with journal.alone(entity.table) as is_alone:
            if is_alone:
                yield
                return
        if time.monotonic() >= deadline:
            raise StreamLives(
                f"A stream reads the topic of {entity.place}, so nothing was changed. End it (pause the "
                "deployment stream), then repeat this."
            )
        time.sleep(0.2)


def _move(ledger: Ledger, entity: SourceEntity, standing: Standing) -> None:
    """Step 3 of `accept`."""
    connection: Connection[Any] = ledger.connection
    position = ledger.positions(entity.table)
    is_same = standing.known.get("topic_id", standing.topic_id) == standing.topic_id
    # What was read without a record is told by offsets of the old topic.
    kept = {name: at for name, at in position.positions.items() if is_same or name != NOTHING_IN}
    moved = {**kept, "topic_id": standing.topic_id, "offsets": standing.offsets}
    with connection.transaction():
        ledger.move_on(entity.table, moved, position.version)
        connection.execute(
            "UPDATE ops.stream_partition SET generation = generation + 1 WHERE entity = %s", (entity.table,)
        )
        for gap in standing.gaps:
            place = (entity.table, gap.partition)
            if gap.next_offset is None:
                connection.execute(
                    "DELETE FROM ops.stream_partition WHERE (entity, kafka_partition) = (%s, %s)", place
                )
            else:
                connection.execute(
                    "UPDATE ops.stream_partition SET next_offset = %s "
                    "WHERE (entity, kafka_partition) = (%s, %s)",
                    (gap.next_offset, *place),
                )
            connection.execute(
                "INSERT INTO ops.position_reset (entity, topic, kafka_partition, reason, topic_id_before, "
                "topic_id, offset_before, lost_to, next_offset, in_lake) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    entity.table,
                    standing.topic,
                    gap.partition,
                    gap.reason,
                    standing.known.get("topic_id"),
                    standing.topic_id,
                    gap.offset,
                    gap.lost_to,
                    gap.next_offset,
                    Jsonb([list(span) for span in standing.lake.get(gap.partition, ())]),
                ),
            )


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows positions TOPIC [--yes]`: 1 when something is lost and nobody has agreed yet."""
    from flows import prepare
    from flows.commands import ensure_services
    from flows.services import open_services
    from flows.streaming.replays import entity_of

    entity = entity_of(arguments.topic)
    ensure_services()
    services = open_services()
    with services.lake, Progress("positions"):
        with services.ledger() as ledger:
            prepare.schemas(ledger)
        standing = accept(services, entity, "positions") if arguments.yes else look(services, entity)
    print("\n".join(standing.lines()))
    if not standing.gaps:
        return 0
    if arguments.yes:
        print("Accepted, and kept in ops.position_reset. The next stream or batch reads on from there.")
        return 0
    print(
        "Nothing was changed. Produce the missing records again if somebody has them; to accept the loss: "
        f"python -m flows positions {standing.topic} --yes"
    )
    return 1
