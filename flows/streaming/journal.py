"""The stream's journal: how far each partition was taken in, by whom, and the raw files still to be landed.

Offsets live here, in the warehouse, and move in the transaction that makes their rows visible. The broker's
copy is a courtesy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile
from flows.streaming.watermark import IDLE_AFTER, Progress

_LOCK = "hashtextextended('stream:' || %s::text, 0)"
"""The advisory lock that streams of a topic share, and a batch that reads it holds alone."""


class Fenced(FlowsError):
    """Somebody else has taken a partition over: what was read of it here is theirs to take in."""


@dataclass(frozen=True)
class Claim:
    """The right to take in a partition from `next_offset` on, for as long as nobody claims it later."""

    generation: int
    next_offset: int


@dataclass(frozen=True)
class Journaled:
    """One topic's part of one micro-batch: its raw file, and the offsets [first, next) it covers."""

    batch_id: str
    entity: str
    topic_id: str
    offsets: Mapping[int, tuple[int, int]]
    windows: Mapping[str, int]
    """Its records by window; none in one that a published row was only taken out of."""
    file: LakeFile
    sequence: int = 0
    latest: Mapping[int, datetime] = field(default_factory=dict)
    """Partition → the latest event time in it; nothing for what can't be read."""


class Journal:
    """The journal of one warehouse over one psycopg connection in autocommit."""

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self._joined = set[str]()

    # --------------------------------------------------------------------------------------------- who reads

    def join(self, entities: Sequence[str]) -> str:
        """Say that a stream takes these topics in, for as long as this session lives. Returns '', or one that
        a batch reads at this moment: then ask again.
        """
        for entity in sorted({*entities} - self._joined):
            query = f"SELECT pg_try_advisory_lock_shared({_LOCK})".encode()
            row = self.connection.execute(query, (entity,)).fetchone()
            if not (row and row[0]):
                return entity
            self._joined.add(entity)
        return ""

    @contextmanager
    def alone(self, entity: str) -> Iterator[bool]:
        """Whether no stream takes this topic in; if so none begins to within the block."""
        row = self.connection.execute(f"SELECT pg_try_advisory_lock({_LOCK})".encode(), (entity,)).fetchone()
        is_alone = bool(row and row[0])
        try:
            yield is_alone
        finally:
            if is_alone and not self.connection.broken and not self.connection.closed:
                self.connection.execute(f"SELECT pg_advisory_unlock({_LOCK})".encode(), (entity,))

    def positions(self, entity: str) -> dict[str, Any]:
        """Where reading a topic goes on: what was landed, and what the stream took in since then."""
        landed = Ledger(self.connection).positions(entity).positions
        offsets = {int(partition): int(offset) for partition, offset in landed.get("offsets", {}).items()}
        rows = self.connection.execute(
            "SELECT kafka_partition, next_offset FROM ops.stream_partition WHERE entity = %s", (entity,)
        ).fetchall()
        for partition, offset in rows:
            offsets[partition] = max(offset, offsets.get(partition, 0))
        topic = landed.get("topic_id") or self._topic_id(entity)
        known = {"topic_id": topic} if topic else {}
        return {**known, "offsets": {str(partition): offset for partition, offset in offsets.items()}}

    def know(self, entity: str, starts: Mapping[int, int], owner: str) -> None:
        """Enter partitions of a topic that nobody has taken yet: event time waits for what is in them."""
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO ops.stream_partition (entity, kafka_partition, generation, next_offset, owner) "
                "VALUES (%s, %s, 0, %s, %s) ON CONFLICT DO NOTHING",
                [(entity, partition, start, owner) for partition, start in sorted(starts.items())],
            )

    def take(self, entity: str, starts: Mapping[int, int], owner: str) -> dict[int, Claim]:
        """Claim partitions, to be read from `starts`, or from where their last owner came to if further."""
        claims = {}
        with self.connection.transaction():
            for partition, start in sorted(starts.items()):
                row = self.connection.execute(
                    """
                    INSERT INTO ops.stream_partition AS there
                    (entity, kafka_partition, generation, next_offset, owner) VALUES (%s, %s, 1, %s, %s)
                    ON CONFLICT (entity, kafka_partition) DO UPDATE SET generation = there.generation + 1,
                    next_offset = greatest(there.next_offset, excluded.next_offset), owner = excluded.owner,
                    taken_at = clock_timestamp() RETURNING generation, next_offset
                    """,
                    (entity, partition, start, owner),
                ).fetchone()
                assert row is not None
                claims[partition] = Claim(*row)
        return claims

    def fence(
        self, entity: str, offsets: Mapping[str, int], windows: Collection[str], asked_at: datetime
    ) -> None:
        """A batch has read a topic itself, up to these offsets, its ends after `asked_at`: no older claim may
        commit any more. `windows` are owed a comparison: what it touched of a topic that is counted, for no
        stream counts these records.
        """
        self.connection.execute(
            "UPDATE ops.stream_partition SET generation = generation + 1, "
            "ended_at = greatest(ended_at, %s), "
            "next_offset = greatest(next_offset, coalesce((%s::jsonb ->> kafka_partition::text)::bigint, 0)) "
            "WHERE entity = %s",
            (asked_at, Jsonb(dict(offsets)), entity),
        )
        self.connection.execute(
            "INSERT INTO ops.comparison_owed (entity, partition) SELECT %s, unnest(%s::text[]) "
            "ON CONFLICT (entity, partition) DO UPDATE SET since = excluded.since",
            (entity, sorted(filter(None, windows))),
        )

    def owed(self, entity: str) -> dict[str, datetime]:
        """Windows of a topic that are owed a comparison, since when."""
        rows = self.connection.execute(
            "SELECT partition, since FROM ops.comparison_owed WHERE entity = %s", (entity,)
        ).fetchall()
        return dict(rows)

    def settle(self, entity: str, owed: Mapping[str, datetime]) -> None:
        """These were compared; one that a batch has read records of since then is still owed."""
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "DELETE FROM ops.comparison_owed WHERE (entity, partition, since) = (%s, %s, %s)",
                [(entity, partition, since) for partition, since in sorted(owed.items())],
            )

    # ------------------------------------------------------------------------------------------- event time

    def now(self) -> datetime:
        """The time by PostgreSQL's clock, which whatever is noted here goes by."""
        moment: datetime
        ((moment,),) = self.connection.execute("SELECT clock_timestamp()").fetchall()
        return moment

    def idle(self, owner: str) -> tuple[datetime, set[tuple[str, int]]]:
        """The time by PostgreSQL's clock, and an owner's partitions of which nothing came for IDLE_AFTER."""
        rows = self.connection.execute(
            "SELECT now.t, entity, kafka_partition FROM (SELECT clock_timestamp() AS t) AS now "
            "LEFT JOIN ops.stream_partition ON owner = %s AND moved_at <= now.t - %s",
            (owner, IDLE_AFTER),
        ).fetchall()
        return rows[0][0], {(entity, partition) for _, entity, partition in rows if entity is not None}

    def ended(self, asked_at: datetime, claims: Mapping[tuple[str, int], Claim]) -> None:
        """The broker was asked after `asked_at` and had nothing behind these claims. One that is not ours any
        more, or of which something is not committed yet, is left as it is.
        """
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE ops.stream_partition SET ended_at = greatest(ended_at, %s) "
                "WHERE (entity, kafka_partition, generation, next_offset) = (%s, %s, %s, %s)",
                [
                    (asked_at, entity, partition, claim.generation, claim.next_offset)
                    for (entity, partition), claim in sorted(claims.items())
                ],
            )

    def all_ended(self, entity: str, asked_at: datetime) -> None:
        """A batch found nothing new in a topic, asked after `asked_at`."""
        self.connection.execute(
            "UPDATE ops.stream_partition SET ended_at = greatest(ended_at, %s) WHERE entity = %s",
            (asked_at, entity),
        )

    def progress(self, entities: Sequence[str], world_time: Callable[[datetime], datetime]) -> list[Progress]:
        """How far each partition of these topics is. One of which nothing is known stands for a topic that no
        stream has seen.
        """
        rows = self.connection.execute(
            "SELECT entity, watermark, ended_at - %s, ended_at - moved_at >= %s "
            "FROM ops.stream_partition WHERE entity = ANY(%s)",
            (IDLE_AFTER, IDLE_AFTER, list(entities)),
        ).fetchall()
        unseen = [Progress(None, None) for _ in set(entities) - {row[0] for row in rows}]
        return unseen + [
            Progress(latest, world_time(before_end) if is_idle else None)
            for _, latest, before_end, is_idle in rows
        ]

    # ------------------------------------------------------------------------------------------ micro-batches

    def enter(self, batch: Journaled, claims: Mapping[int, Claim]) -> None:
        """Move the offsets of a topic and note its raw file, in the caller's transaction.

        Raises Fenced when a partition is no longer ours, or not where we left it.
        """
        for partition, (first, after) in sorted(batch.offsets.items()):
            moved = self.connection.execute(
                "UPDATE ops.stream_partition SET next_offset = %s, moved_at = clock_timestamp(), "
                "watermark = greatest(watermark, %s) "
                "WHERE (entity, kafka_partition, generation, next_offset) = (%s, %s, %s, %s)",
                (
                    after,
                    batch.latest.get(partition),
                    batch.entity,
                    partition,
                    claims[partition].generation,
                    first,
                ),
            ).rowcount
            if moved != 1:
                raise Fenced(
                    f"{batch.entity}, partition {partition}: another process has taken it over; "
                    "what was read of it here is left to that one."
                )
        self.connection.execute(
            "INSERT INTO ops.stream_batch (batch_id, entity, topic_id, offsets, windows, file, row_count) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (
                batch.batch_id,
                batch.entity,
                batch.topic_id,
                Jsonb({str(partition): list(span) for partition, span in batch.offsets.items()}),
                Jsonb(dict(batch.windows)),
                Jsonb(batch.file.as_json()),
                batch.file.rows,
            ),
        )
        failpoint("stream.journaled")

    def touch(self, batch_id: str, windows: Iterable[str]) -> None:
        """A micro-batch that was entered changes what stands in these windows, be there records of them in
        its file or not.
        """
        self.connection.execute(
            "UPDATE ops.stream_batch SET windows = %s || windows WHERE batch_id = %s",
            (Jsonb(dict.fromkeys(windows, 0)), batch_id),
        )

    def unlanded(self, entity: str, rows_at_once: int | None = None) -> list[Journaled]:
        """The oldest micro-batches of a topic that no landing names: about so many rows of them, or all."""
        rows = self.connection.execute(
            """
            SELECT sequence, batch_id, topic_id, offsets, windows, file FROM (
                SELECT *, sum(row_count) OVER (ORDER BY sequence) - row_count AS before
                FROM ops.stream_batch WHERE entity = %s
            ) AS waiting WHERE coalesce(before < %s, true) ORDER BY sequence
            """,
            (entity, rows_at_once),
        ).fetchall()
        return [
            Journaled(
                batch_id,
                entity,
                topic_id,
                {int(partition): (span[0], span[1]) for partition, span in offsets.items()},
                windows,
                LakeFile.from_json(file),
                sequence,
            )
            for sequence, batch_id, topic_id, offsets, windows, file in rows
        ]

    def merge(self, run: Sequence[Journaled], file: LakeFile) -> None:
        """Let the last of these micro-batches stand for all of them; `file` has their rows."""
        offsets: dict[str, list[int]] = {}
        windows: Counter[str] = Counter()
        for batch in run:
            windows.update(batch.windows)
            for partition, (first, after) in batch.offsets.items():
                offsets[str(partition)] = [offsets.get(str(partition), [first])[0], after]
        with self.connection.transaction():
            self.forget(run[:-1])
            self.connection.execute(
                "UPDATE ops.stream_batch SET offsets = %s, windows = %s, file = %s, row_count = %s "
                "WHERE sequence = %s",
                (Jsonb(offsets), Jsonb(windows), Jsonb(file.as_json()), file.rows, run[-1].sequence),
            )

    def forget(self, batches: Sequence[Journaled]) -> None:
        """Remove what a landing names now, in the transaction of that landing."""
        self.connection.execute(
            "DELETE FROM ops.stream_batch WHERE sequence = ANY(%s)", ([batch.sequence for batch in batches],)
        )

    def _topic_id(self, entity: str) -> str | None:
        row = self.connection.execute(
            "SELECT topic_id FROM ops.stream_batch WHERE entity = %s ORDER BY sequence DESC LIMIT 1",
            (entity,),
        ).fetchone()
        return str(row[0]) if row else None
