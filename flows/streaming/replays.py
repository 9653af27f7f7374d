"""What a replay asks for: records of a topic by offset or time, found again, and the days they touch due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from flows.durations import parse_bound
from flows.errors import FlowsError
from flows.extract.kafka import Topic
from flows.failpoints import failpoint
from flows.planner import REPLAYED, WHOLE
from flows.progress import Progress
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile
from flows.streaming import lost
from flows.streaming.held import Held, RawTopic, Span, merged, overlap, told
from flows.streaming.journal import Journal
from flows.streaming.lost import Lost
from flows.streaming.rollup import land_journal
from transforms import registry
from transforms.entities import Kafka, SourceEntity

Bound = int | datetime
"""An offset, or the time at which the broker got a record."""


class BadReplay(FlowsError):
    """What is to be replayed can't be read, or there is nothing of it."""


class Missing(FlowsError):
    """Records that are to be replayed are neither in the lake nor at the broker; nothing was changed."""


@dataclass(frozen=True)
class Asked:
    """What somebody wants replayed; `end` None is the end of what was taken in, no partitions are all."""

    start: Bound
    end: Bound | None = None
    partitions: tuple[int, ...] = ()

    @classmethod
    def parse(cls, start: str, end: str | None, partitions: Sequence[int] | None) -> Asked:
        """From what was typed. Raises BadReplay."""
        first, last = _bound("--from", start), None if end is None else _bound("--to", end)
        offsets = isinstance(first, int) and isinstance(last, int) and last <= first
        times = isinstance(first, datetime) and isinstance(last, datetime) and last <= first
        if offsets or times:
            raise BadReplay(
                f"--from {start} is not before --to {end}: the range ends before what --to names."
            )
        return cls(first, last, tuple(sorted(set(partitions or ()))))


@dataclass
class Replay:
    """What a replay has found, and has asked for."""

    topic: str
    spans: dict[int, list[Span]]
    windows: dict[str, int]
    lost: Lost = field(default_factory=Lost)
    broken: Sequence[LakeFile] = ()
    recovered: int = 0
    partitions: Sequence[tuple[str, str]] = ()

    def found(self) -> list[str]:
        """What it is about, for people."""
        found = [
            f"topic {self.topic}, partition {part}: offsets {told(spans)}"
            for part, spans in sorted(self.spans.items())
        ]
        days = sorted(self.windows.keys() - {WHOLE})
        found.append(f"{sum(self.windows.values()):,} records in the lake, of {_few(days) or 'no day'}")
        found += [f"{file.path} is missing or damaged: its records are read again" for file in self.broken]
        for part, spans in sorted(self.lost.spans.items()):
            found.append(f"not in the lake: partition {part}, offsets {told(spans)}; the broker is asked")
        return found

    def done(self) -> list[str]:
        """What comes of it."""
        found = []
        if self.recovered:
            found.append(f"{self.recovered:,} records that the lake had lost came back from the broker")
        tables = len({name for name, _ in self.partitions})
        found.append(f"{len(self.partitions):,} partitions of {tables:,} tables are to be made right")
        return found


def entity_of(topic: str) -> SourceEntity:
    """The entity that a topic is landed in. Raises BadReplay for a topic that nobody declared."""
    declared = {entity.read.topic: entity for entity in registry.entities() if isinstance(entity.read, Kafka)}
    if topic not in declared:
        raise BadReplay(
            f"No source is declared with topic {topic}. There are: {', '.join(sorted(declared))}."
        )
    return declared[topic]


def ask(
    services: Services, entity: SourceEntity, asked: Asked, progress: Progress, *, dry_run: bool = False
) -> Replay:
    """Find the records, bring back what raw has lost, and mark the partitions they touch as replayed.

    1. Hold the entity's landing lock: what is looked at stays as it is.
    2. Turn the bounds into offsets; ask the ledger which of them raw holds, the broker about the rest.
       Raises Missing for what neither has: nothing was changed then.
    3. Read what raw has lost into new files.
    4. In one transaction: a landing of these, positions unchanged, and the marks. Without lost records the
       marks alone.
    5. Land what the stream has journaled: the run builds from landings.

    Who builds next builds what is marked: a crash before 4 leaves orphans, one after it nothing undone.
    `dry_run` ends after 2.
    """
    with _locked(services, entity) as ledger:
        return _Replaying(services, ledger, entity, asked, progress).run(dry_run)


def hold_something(services: Services, entity: SourceEntity, asked: Asked, progress: Progress) -> None:
    """Raise BadReplay or Missing where there is nothing to replay, or not all of it any more: to be told to
    who typed it, before a run begins.
    """
    with _locked(services, entity) as ledger:
        _Replaying(services, ledger, entity, asked, progress).look()


@contextmanager
def _locked(services: Services, entity: SourceEntity) -> Iterator[Ledger]:
    """The ledger, with the entity's landing lock. Raises BadReplay where no run ever was, and TwoStories:
    what another lake lacks is not lost.
    """
    with services.ledger() as ledger:
        if not ledger.is_there():
            raise BadReplay(
                "This warehouse was never filled, so there is nothing to replay. Prepare it with a run: "
                "python -m flows"
            )
        refuse_two_stories(ledger, services.lake)
        with ledger.locked("land", entity.table):
            yield ledger


@dataclass(frozen=True)
class _Found:
    """Where the records of a range are."""

    spans: dict[int, list[Span]]
    held: Held
    missing: Lost
    broken: Sequence[LakeFile]


class _Replaying:
    def __init__(
        self, services: Services, ledger: Ledger, entity: SourceEntity, asked: Asked, progress: Progress
    ) -> None:
        self._services = services
        self._ledger = ledger
        self._entity = entity
        self._asked = asked
        self._progress = progress
        self._raw = RawTopic(services, ledger, entity)
        self._topic: Topic = lost.broker_topic(services, entity)
        self._taken = self._raw.taken_in()

    def run(self, dry_run: bool) -> Replay:
        found = self.look()
        windows = self._raw.windows(found.spans, found.held)
        replay = Replay(self._topic.name, found.spans, windows, found.missing, found.broken)
        replay.partitions = self._partitions(windows)
        if dry_run:
            return replay
        for line in replay.found():
            self._progress.say("replay", line)
        self._recover(replay)
        for line in replay.done():
            self._progress.say("replay", line)
        return replay

    def look(self) -> _Found:
        """Step 2."""
        spans = self._spans()
        held = self._raw.held(spans)
        if overlap(held.let_go, spans):
            raise Missing(self._told_let_go(held, spans))
        gaps = held.gaps(spans)
        broken = held.broken_for(spans)
        if broken:
            # How far a file reached that can't be read nobody knows: all that is not held is looked for.
            everything = {part: [(0, end)] for part, end in self._taken.items() if end}
            gaps = held.gaps(everything)
        missing = lost.look_for(self._topic, gaps, self._topic_id())
        if missing.gone and not broken:
            raise Missing(self._told_missing(missing, held))
        return _Found(spans, held, missing, broken)

    # --------------------------------------------------------------------------------------------- the range

    def _spans(self) -> dict[int, list[Span]]:
        """Partition → the offsets that are asked for, as far as they were taken in."""
        unknown = set(self._asked.partitions) - self._taken.keys()
        if unknown:
            there = ", ".join(map(str, sorted(self._taken))) or "none"
            raise BadReplay(
                f"Topic {self._topic.name} has no partition {min(unknown)} that was ever read; "
                f"those that were: {there}."
            )
        starts = self._offsets(self._asked.start)
        ends = self._taken if self._asked.end is None else self._offsets(self._asked.end)
        spans = {
            part: [(starts[part], min(ends[part], taken))]
            for part, taken in sorted(self._taken.items())
            if (not self._asked.partitions or part in self._asked.partitions)
            and starts[part] < min(ends[part], taken)
        }
        if not spans:
            ends_at = ", ".join(f"{part}: {taken}" for part, taken in sorted(self._taken.items()))
            raise BadReplay(
                f"Nothing of topic {self._topic.name} that was taken in lies in this range, so there is "
                f"nothing to replay. It was taken in up to these offsets, by partition: {ends_at or 'none'}."
            )
        return spans

    def _offsets(self, bound: Bound) -> dict[int, int]:
        """Partition → the first offset from a bound on.

        The broker is asked about a time only where raw could have lost the record that it would name.
        """
        if isinstance(bound, int):
            return dict.fromkeys(self._taken, bound)
        held = self._raw.held({})
        found = self._raw.first_at(bound, [file for file, _ in held.files])
        before = {part: [(0, found.get(part, end))] for part, end in self._taken.items()}
        if held.gaps(before):
            for part, offset in self._topic.first_at(bound).items():
                found[part] = min(offset, found.get(part, offset))
        for part, offset in self._raw.let_go_since(bound).items():
            found[part] = min(offset, found.get(part, offset))
        return {part: found.get(part, end) for part, end in self._taken.items()}

    def _topic_id(self) -> str:
        known = Journal(self._ledger.connection).positions(self._entity.table)
        return str(known.get("topic_id", ""))

    def _told_missing(self, missing: Lost, held: Held) -> str:
        parts, rest = [], []
        for part, spans in sorted(missing.gone.items()):
            there = told(held.spans.get(part, ())) or "none"
            parts.append(
                f"offsets {told(merged(spans))} of partition {part} (the lake has {there} of it; the broker "
                f"begins at {missing.begins.get(part, 0)})"
            )
            rest.append(f"partition {part} from {max(after for _, after in spans)}")
        folder = self._services.lake.root / "raw" / self._entity.table
        return (
            f"Topic {self._topic.name} can't be replayed from there: neither the lake ({folder}) nor the "
            f"broker ({self._topic.bootstrap}) has {'; '.join(parts)}. Nothing was changed. Restore the raw "
            "files and their ledger rows from a copy, or produce the records again; or replay what is there: "
            f"{', '.join(rest)} on."
        )

    def _told_let_go(self, held: Held, asked: Mapping[int, Sequence[Span]]) -> str:
        parts = [
            f"{told(gone)} of partition {part}"
            for part, gone in sorted(held.let_go.items())
            if overlap({part: gone}, asked)
        ]
        return (
            f"Topic {self._topic.name} can't be replayed from there: raw of {self._entity.place} is past its "
            f"retention for offsets {'; '.join(parts)}, and what was made of it stays as it is. Nothing was "
            "changed. Begin behind them."
        )

    # ------------------------------------------------------------------------------------------ what is done

    def _recover(self, replay: Replay) -> None:
        """Steps 3 to 5."""
        services, ledger = self._services, self._ledger
        found = lost.Found()
        if replay.lost.spans or replay.broken:
            spans = replay.lost.spans
            found = lost.fetch(services, ledger, self._entity, self._topic, spans, replay.broken)
            wanted = sum(file.rows for file in replay.broken)
            if found.rows < wanted:
                lost.give_up(services, found)
                raise Missing(
                    f"{replay.broken[0].path} is missing or damaged in the lake, and of the {wanted:,} "
                    f"records that were in such files topic {self._topic.name} has {found.rows:,} left. "
                    "Nothing was changed. Restore the file from a copy."
                )
        replay.windows = _added(replay.windows, found.windows)
        replay.partitions = self._partitions(replay.windows)
        replay.recovered = found.rows
        if found.rows:
            lost.land(services, ledger, found, lambda: self._mark(replay))
        else:
            self._mark(replay)
        failpoint("replay.marked")
        land_journal(services.lake, ledger, self._entity, services.settings.now(), "replay")

    def _mark(self, replay: Replay) -> None:
        self._ledger.mark(replay.partitions, REPLAYED)

    def _partitions(self, windows: Mapping[str, int]) -> list[tuple[str, str]]:
        """The standing partitions of everything made of the topic that overlap these windows."""
        partition = self._entity.partition
        if partition is None:
            return []
        bounds = [partition.span(window) for window in windows if window != WHOLE]
        names = registry.select([f"{self._entity.table}+"])
        wanted, now = [], self._services.settings.now()
        for name, key in self._ledger.states(names, with_files=False):
            theirs = registry.table(name).partition
            if theirs is None or key == WHOLE or registry.table(name).is_past_retention(key, now):
                continue
            low, high = theirs.span(key)
            if any(low < end and high > start for start, end in bounds):
                wanted.append((name, key))
        return wanted


def _added(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    return {key: ours.get(key, 0) + theirs.get(key, 0) for key in (*ours, *theirs)}


def _few(days: Sequence[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]} … {days[-1]} ({len(days)} days)" if days else ""


def _bound(name: str, text: str) -> Bound:
    if text.isdecimal():
        return int(text)
    try:
        return parse_bound(text)
    except ValueError:
        raise BadReplay(
            f"{name} {text} is neither an offset nor a time; write it like 1500 or 2025-10-07T12:00."
        ) from None
