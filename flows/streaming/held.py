"""Which offsets of a topic the lake's raw layer holds, found without reading what the records say.

A landing's entry in the ledger names the spans it read. Whatever of a span is not in its files was never a
record: transaction markers, what a compacted topic has dropped. An entry that names none, or has lost a file,
is believed as far as the offsets in its files go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import duckdb

from flows.landed import BY, BY_REPLAY, OFFSETS, rows_by_window, spans_without_records
from flows.services import Services
from flows.stores.lake import DamagedFile
from flows.stores.ledger import Ledger
from flows.stores.ledger_reader import now_in
from flows.stores.manifest import Commit, LakeFile
from flows.streaming.journal import Journal
from transforms.contract import moved
from transforms.entities import SourceEntity

Span: TypeAlias = tuple[int, int]
"""Offsets [first, after)."""
Spans: TypeAlias = Mapping[int, Sequence[Span]]
"""Partition → spans in their order, apart from each other."""

_AHEAD = timedelta(days=1)


@dataclass
class Held:
    """What raw holds. `broken` are files that the ledger names and that are not what was committed."""

    spans: dict[int, list[Span]]
    files: list[tuple[LakeFile, Spans]]
    broken: list[tuple[LakeFile, Spans]]
    let_go: dict[int, list[Span]] = field(default_factory=dict)
    """Offsets of landings whose files went because their retention was over; they count as held."""

    def gaps(self, asked: Spans) -> dict[int, list[Span]]:
        """What is asked for and not held."""
        found = {part: list(without(spans, self.spans.get(part, ()))) for part, spans in asked.items()}
        return {part: spans for part, spans in found.items() if spans}

    def broken_for(self, asked: Spans) -> list[LakeFile]:
        """All broken files, when one of them has had, or may have had, records of these offsets."""
        has_gaps = bool(self.gaps(asked))
        if any(overlap(spans, asked) if spans else has_gaps for _, spans in self.broken):
            return list(dict.fromkeys(file for file, _ in self.broken))
        return []

    def reaching(self, asked: Spans) -> list[LakeFile]:
        """The whole files in which records of these offsets can be."""
        return list(dict.fromkeys(file for file, spans in self.files if overlap(spans, asked)))


@dataclass
class _Entry:
    """One landing, or one micro-batch that no landing names yet."""

    files: Sequence[LakeFile]
    spans: dict[int, list[Span]] = field(default_factory=dict)
    is_whole: bool = True
    is_one_run: bool = True
    is_let_go: bool = False


class RawTopic:
    """The raw layer of one topic. To be used under its landing lock: a landing moves what is looked at."""

    def __init__(self, services: Services, ledger: Ledger, entity: SourceEntity) -> None:
        self._services = services
        self._ledger = ledger
        self._entity = entity
        self._read: dict[str, dict[int, list[Span]]] = {}
        self._bad: set[str] = set()
        self._good: set[str] = set()

    def taken_in(self) -> dict[int, int]:
        """Partition → the offset that is read next, by a batch or by the stream."""
        offsets = Journal(self._ledger.connection).positions(self._entity.table)["offsets"]
        return {int(partition): int(offset) for partition, offset in offsets.items()}

    def held(self, asked: Spans) -> Held:
        """What is held. Every file that reaches into `asked` was read once and compared with its SHA-256."""
        entries = self._entries()
        named = [file for entry in entries for file in entry.files]
        self._bad |= {file.path for file in named if self._size(file) != file.bytes}
        while True:
            bad = len(self._bad)
            held = self._of(entries)
            if len(self._bad) > bad:
                continue
            unsure = [file for file in held.reaching(asked) if file.path not in self._good]
            if not unsure:
                return held
            for file in unsure:
                self._verify(file)

    def first_at(self, moment: datetime, files: Iterable[LakeFile]) -> dict[int, int]:
        """Partition → the first offset in these files whose record the broker got then or later.

        Not opened is what was landed a day before: no broker takes a record from so far in the future.
        """
        files = [file for file in files if file.path not in self._bad and self._may_reach(file, moment)]
        if not files:
            return {}
        try:
            with self._services.lake.duckdb(keeps_order=False) as connection:
                rows = connection.execute(
                    "select kafka_partition, min(kafka_offset) "
                    "from read_parquet(?, hive_partitioning = false) "
                    "where kafka_timestamp >= ? group by 1",
                    [self._paths(files), moment],
                ).fetchall()
        except duckdb.Error:
            bad = len(self._bad)
            for file in files:
                self._verify(file)
            if len(self._bad) == bad:
                raise
            return self.first_at(moment, files)
        return dict(rows)

    def let_go_since(self, moment: datetime) -> dict[int, int]:
        """Partition → the first offset among those let go of that were landed then or later: when the broker
        got them nobody knows any more.
        """
        found: dict[int, int] = {}
        gone = self._ledger.let_go(self._entity.table)
        joined = self._ledger.joined(self._entity.table) if gone else {}
        for landing in self._ledger.landed(self._entity.table) if gone else ():
            if any(
                now_in(file, joined).path in gone and self._may_reach(file, moment) for file in landing.add
            ):
                for part, spans in _spans(landing.control.get(OFFSETS, {})).items():
                    found[part] = min([found.get(part, spans[0][0]), *(first for first, _ in spans)])
        return found

    def windows(self, asked: Spans, held: Held) -> dict[str, int]:
        """Window → records of these offsets that raw holds for it; '' those that say no time."""
        files = held.reaching(asked)
        if not files:
            return {}
        with self._services.lake.duckdb(keeps_order=False) as connection:
            return rows_by_window(connection, self._entity, self._paths(files), condition(asked))

    # ---------------------------------------------------------------------------------------------- inside

    def _entries(self) -> list[_Entry]:
        """Landings, what else was compacted out of them, and micro-batches."""
        ledger, name = self._ledger, self._entity.table
        landings, joined, let_go = ledger.landed(name), ledger.joined(name), ledger.let_go(name)
        in_force = {file.path: file for file in ledger.files(name)}
        replaced = {path for landing in landings for path in landing.remove}
        entries = [self._entry(landing, joined, in_force, replaced, let_go) for landing in landings]
        landed = {now_in(file, joined).path for landing in landings for file in landing.add}
        if compacted := [file for path, file in in_force.items() if path not in landed]:
            entries.append(_Entry(compacted, is_whole=False, is_one_run=False))
        for batch in Journal(self._ledger.connection).unlanded(self._entity.table):
            entries.append(_Entry([batch.file], {part: [span] for part, span in batch.offsets.items()}))
        nothing = spans_without_records(self._ledger.positions(self._entity.table))
        return [*entries, _Entry([], _spans(nothing))]

    def _entry(
        self,
        landing: Commit,
        joined: Mapping[str, LakeFile],
        in_force: Mapping[str, LakeFile],
        replaced: set[str],
        let_go: set[str],
    ) -> _Entry:
        spans = _spans(landing.control.get(OFFSETS, {}))
        counts = sum(file.rows for file in landing.add) == landing.row_count
        own = {file.path for file in landing.add}
        now = {now_in(file, joined).path for file in landing.add}
        return _Entry(
            [in_force[path] for path in sorted(now) if path in in_force],
            spans,
            # Files that a compaction took stand in another one; those that a replay replaced were lost.
            counts and bool(spans) and not replaced & (own | now),
            landing.control.get(BY) != BY_REPLAY and own == now,
            bool(let_go & now),
        )

    def _of(self, entries: Sequence[_Entry]) -> Held:
        found: dict[int, list[Span]] = {}
        files: list[tuple[LakeFile, Spans]] = []
        broken: list[tuple[LakeFile, Spans]] = []
        let_go: dict[int, list[Span]] = {}
        for entry in entries:
            for part, there in entry.spans.items() if entry.is_let_go else ():
                let_go.setdefault(part, []).extend(there)
            whole = [file for file in entry.files if file.path not in self._bad]
            broken += [(file, entry.spans) for file in entry.files if file.path in self._bad]
            if entry.is_whole and len(whole) == len(entry.files):
                given = [entry.spans]
                files += [(file, entry.spans) for file in whole]
            else:
                given = [self._offsets_in(file, entry.is_one_run) for file in whole]
                files += list(zip(whole, given, strict=True))
            for spans in given:
                for part, there in spans.items():
                    found.setdefault(part, []).extend(there)
        spans_of = {part: merged(spans) for part, spans in found.items()}
        return Held(spans_of, files, broken, {part: merged(spans) for part, spans in let_go.items()})

    def _offsets_in(self, file: LakeFile, is_one_run: bool) -> dict[int, list[Span]]:
        """From its columns of places alone. One run: what lies between its first and last was read too."""
        if file.path not in self._read:
            run = "0" if is_one_run else "o - row_number() over (partition by p order by o)"
            try:
                with self._services.lake.duckdb(keeps_order=False) as connection:
                    rows = connection.execute(
                        f"select p, min(o), max(o) + 1 from (select p, o, {run} as run from "
                        "(select kafka_partition as p, kafka_offset as o "
                        "from read_parquet(?, hive_partitioning = false))) group by p, run order by 1, 2",
                        [self._paths([file])],
                    ).fetchall()
            except duckdb.Error:
                self._bad.add(file.path)
                return {}
            found: dict[int, list[Span]] = {}
            for part, first, after in rows:
                found.setdefault(part, []).append((first, after))
            self._read[file.path] = found
        return self._read[file.path]

    def _may_reach(self, file: LakeFile, moment: datetime) -> bool:
        # In the sandbox a broker may say the machine's time, and a landing has the world's.
        if file.max is None or self._services.settings.clock_offset:
            return True
        return datetime.fromisoformat(file.max) >= moved(moment, -_AHEAD)

    def _verify(self, file: LakeFile) -> None:
        try:
            self._services.lake.paths([file])
            self._good.add(file.path)
        except DamagedFile:
            self._bad.add(file.path)

    def _size(self, file: LakeFile) -> int:
        try:
            return Path(self._services.lake.root, file.path).stat().st_size
        except OSError:
            return -1

    def _paths(self, files: Iterable[LakeFile]) -> list[str]:
        return [str(Path(self._services.lake.root, file.path)) for file in files]


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same offsets in order; spans that touch are one."""
    found: list[Span] = []
    for first, after in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(after, found[-1][1]))
        elif first < after:
            found.append((first, after))
    return found


def without(spans: Iterable[Span], gone: Iterable[Span]) -> Iterator[Span]:
    """What is left of spans; both are in order."""
    taken = list(gone)
    for first, after in spans:
        for low, high in taken:
            if first >= after or low >= after:
                break
            if low > first:
                yield first, low
            first = max(first, high)
        if first < after:
            yield first, after


def overlap(ours: Spans, theirs: Spans) -> bool:
    """Whether two have an offset in common."""
    return any(
        first < high and low < after
        for part in ours.keys() & theirs.keys()
        for first, after in ours[part]
        for low, high in theirs[part]
    )


def condition(asked: Spans) -> str:
    """SQL that holds for the raw rows of these offsets; Parquet's statistics can answer it."""
    places = [
        f"(kafka_partition = {part} and kafka_offset >= {first} and kafka_offset < {after})"
        for part, spans in sorted(asked.items())
        for first, after in spans
    ]
    return " or ".join(places) or "false"


def told(spans: Iterable[Span], most: int = 5) -> str:
    """Offsets for people, both ends included."""
    parts = [str(first) if after == first + 1 else f"{first} to {after - 1}" for first, after in spans]
    if len(parts) > most:
        parts = [*parts[:most], f"{len(parts) - most} more"]
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def _spans(value: Mapping[str, Sequence[Sequence[int]]]) -> dict[int, list[Span]]:
    """As a ledger entry has them."""
    return {int(part): [(span[0], span[1]) for span in spans] for part, spans in value.items()}
