"""What a model reads for a batch of its partitions: the files in force of each upstream, narrowed to what
counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from flows.planner import WHOLE, Due, Windows, reads_raw
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.ledger_reader import now_in
from flows.stores.manifest import Commit, LakeFile, fold
from transforms.contract import Layer, Table, Write, moved

_UNCHANGING_KINDS = {"compact"}
CAME = "came"
"""Key under which a commit names the file that came, where it took rows away from others ('' for none)."""


@dataclass(frozen=True)
class Inputs:
    """Files per upstream. `continued` upstreams give only what came since the last build."""

    files: Mapping[str, Sequence[LakeFile]]
    continued: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Since:
    """What happened to a partition since somebody read it: files that came, rows that no longer count."""

    added: list[LakeFile]
    withdrawn: dict[LakeFile, frozenset[int]]


@dataclass(frozen=True)
class News:
    """What came to one upstream since somebody read it.

    `files` stand in their order and are as they were when they came: the rows that do not count in them say
    which keys went. `windows` are those in which something changed; the content of those in `replaced` was
    built anew, and no file says how it differs.
    """

    files: Sequence[LakeFile]
    windows: frozenset[str]
    replaced: frozenset[str] = frozenset()


class Reader:
    """Finds the files of upstreams in one ledger; what it found is asked for once."""

    def __init__(self, ledger: Ledger, catalog: Mapping[str, Table]) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._overviews: dict[str, dict[str, PartitionState]] = {}
        self._states: dict[str, dict[str, PartitionState]] = {}

    def forget(self) -> None:
        """Look again: something was committed."""
        self._overviews.clear()
        self._states.clear()

    def overview(self, name: str) -> dict[str, PartitionState]:
        """Partition → state of every partition of a built table, without its files."""
        if name not in self._overviews:
            found = self._ledger.states([name], with_files=False)
            self._overviews[name] = {window: state for (_, window), state in found.items()}
        return self._overviews[name]

    def states(self, name: str, windows: Iterable[str]) -> dict[str, PartitionState]:
        """Partition → state with its files, of those of these partitions that there are or ever were."""
        known = self._states.setdefault(name, {})
        wanted = set(windows)
        if missing := wanted - known.keys():
            found = self._ledger.states([name], sorted(missing))
            known.update({window: state for (_, window), state in found.items()})
        return {window: known[window] for window in sorted(wanted & known.keys())}

    def in_force(self, name: str, windows: Iterable[str] | None = None) -> list[LakeFile]:
        """The files that are a built table's content, or that of some of its partitions."""
        states = self.states(name, self.overview(name) if windows is None else windows)
        return [file for state in states.values() for file in state.files]

    def everything(self, name: str) -> list[LakeFile]:
        """The whole content of any table, raw ones too."""
        if self._catalog[name].layer is Layer.RAW:
            return self._ledger.files(name)
        return self.in_force(name)

    def landings_since(self, name: str, token: str) -> list[Commit]:
        """The landings of a raw table behind a token, oldest first, with those of their files that count.

        A file that was lost is replaced by the landing that brings its records again. What was let go of
        (flows.maintenance.letting_go) was read before, so it is behind no token. A file in which others were
        joined is of the first landing whose rows stand in it: behind a token it is read whole, or was.
        """
        landings = self._ledger.landed(name, after=token)
        gone = {path for landing in landings for path in landing.remove}
        if not token:
            gone |= self._ledger.let_go(name)
        joined = self._ledger.joined(name)
        came = {file.path for landing in landings for file in landing.add}
        before = joined.keys() - came - {file.path for file in joined.values()}
        known = gone | {now_in(joined[path], joined).path for path in before}
        found = []
        for landing in landings:
            own = {}
            for file in landing.add:
                now = now_in(file, joined)
                if file.path not in gone and now.path not in known:
                    own[now.path] = now
            known |= own.keys()
            found.append(replace(landing, add=tuple(own.values())))
        return found

    def table(self, name: str) -> Table:
        """The table of that name."""
        return self._catalog[name]

    def is_raw(self, name: str) -> bool:
        """Whether landings make a table."""
        return self._catalog[name].layer is Layer.RAW

    def all_news(self, name: str) -> News:
        """The whole content of a table of which nothing was read yet."""
        return News(self.everything(name), frozenset(self._windows(name)))

    def news(self, name: str, since: str) -> News | None:
        """What came to a table behind a token; None for a token that the ledger does not hold."""
        if self._ledger.sequence_of(since) is None:
            return None
        if self.is_raw(name):
            landings = self.landings_since(name, since)
            files = [file for landing in landings for file in landing.add]
            return News(files, frozenset(window for landing in landings for window in landing.windows))
        came: list[LakeFile] = []
        windows, replaced = set(), set()
        for commit in self._ledger.history(name, after=since):
            if commit.kind in _UNCHANGING_KINDS or not (commit.add or commit.remove):
                continue
            windows.add(commit.partition)
            if CAME in commit.control:
                came += [file for file in commit.add if file.path == commit.control[CAME]]
            elif commit.remove or any(file.gone for file in commit.add):
                replaced.add(commit.partition)
            else:
                came += commit.add
        return News(came, frozenset(windows), frozenset(replaced))

    def overlapping(self, table: Table, spans: Iterable[tuple[datetime, datetime]]) -> set[str]:
        """The standing partitions of a table that half-open spans of time touch."""
        partition = table.partition
        assert partition is not None
        given = list(spans)
        found = set()
        for window in self.overview(table.name).keys() - {WHOLE}:
            first, last = partition.span(window)
            if any(first < end and last > start for start, end in given):
                found.add(window)
        return found

    def for_partitions(self, table: Table, due: Sequence[Due], *, whole: bool) -> Inputs:
        """What a replaced or merged table reads to rebuild these partitions (`whole`: all it can have)."""
        files: dict[str, list[LakeFile]] = {}
        continued: set[str] = set()
        standing = self.overview(table.name).get(WHOLE)
        for name in table.upstreams:
            upstream = self._catalog[name]
            if whole or table.partition is None or upstream.partition is None:
                since = standing.based_on.get(name, "") if standing is not None else ""
                if name in table.mentioned_by and since and due[0].mode == "append":
                    continued.add(name)
                    files[name] = self._news(name, since)
                else:
                    files[name] = self.everything(name)
                continue
            files[name] = self._in_windows(
                name,
                self._read_by(table, name, [item.partition for item in due]),
                self._consumed(table, name),
            )
        return Inputs(files, frozenset(continued))

    def for_windows(self, table: Table, name: str, windows: Iterable[str] | None) -> list[LakeFile]:
        """The files of an upstream that these windows of a table read (None: any)."""
        if windows is None or self._catalog[name].partition is None:
            return self.everything(name)
        return self._in_windows(name, self._read_by(table, name, windows), None)

    def within_lookback(self, table: Table, touched: Sequence[str]) -> dict[str, list[LakeFile]]:
        """Partition → files of what stands where a key of the touched partitions can be known already."""
        partition = table.partition
        if partition is None:
            return {}
        near = self.overlapping(
            table,
            [
                (moved(start, -table.lookback), moved(end, table.lookback))
                for start, end in map(partition.bounds, touched)
            ],
        )
        return {window: list(state.files) for window, state in self.states(table.name, near).items()}

    def can_continue(self, table: Table, item: Due) -> bool:
        """Whether upstream only added rows to a partition, or withdrew some, since it was built; otherwise it
        is built anew.
        """
        return item.mode == "append" and all(
            self._since(table, name, item.partition) is not None for name in table.upstreams
        )

    def appended(self, table: Table, due: Sequence[Due]) -> Inputs:
        """What came upstream since each of these partitions was built; each of them `can_continue`."""
        files = {
            name: [
                file
                for item in due
                if (since := self._since(table, name, item.partition))
                for file in since.added
            ]
            for name in table.upstreams
        }
        return Inputs(files, frozenset(table.upstreams))

    def withdrawn(self, table: Table, due: Sequence[Due]) -> dict[str, dict[LakeFile, frozenset[int]]]:
        """Upstream → the rows that no longer count since each of these partitions was built from them."""
        found: dict[str, dict[LakeFile, frozenset[int]]] = {name: {} for name in table.upstreams}
        for item in due:
            for name in table.upstreams:
                since = self._since(table, name, item.partition)
                found[name].update(since.withdrawn if since else {})
        return found

    def _since(self, table: Table, name: str, partition: str) -> _Since | None:
        """What came to a partition of an upstream since it was read, and what no longer counts; None when
        files of it went.
        """
        standing = self.overview(table.name).get(partition)
        since = str(standing.based_on.get(name, "")) if standing is not None else ""
        commits = [
            commit
            for commit in self._ledger.history(name, partition, after=since)
            if commit.kind not in _UNCHANGING_KINDS
        ]
        if any(commit.remove for commit in commits):
            return None
        in_force = {file.path for file in self.in_force(name, [partition])}
        newest = fold(commits)
        if not all(file.path in in_force for file in newest):
            return None
        if not any(file.gone for file in newest):
            return _Since(newest, {})
        later = {commit.token for commit in commits}
        earlier = [commit for commit in self._ledger.history(name, partition) if commit.token not in later]
        read = {file.path: file for file in fold(earlier)}
        return _Since(
            [file for file in newest if file.path not in read],
            {
                file: frozenset(file.gone).difference(read[file.path].gone)
                for file in newest
                if file.path in read
            },
        )

    def _read_by(self, table: Table, name: str, keys: Iterable[str]) -> set[str]:
        """The windows of an upstream that these partitions read.

        A table that is continued window by window reads the same windows alone: its lookback says where a
        key was looked for upstream, and what it would read beside would be computed and left out.
        """
        if table.write is Write.APPEND and not reads_raw(table, self._catalog):
            return set(keys)
        windows = Windows(self._windows(name), self._catalog[name].partition)
        return {window for key in keys for window in windows.read_by(table, key)}

    def _windows(self, name: str) -> list[str]:
        if self._catalog[name].layer is Layer.RAW:
            return sorted({window for commit in self._ledger.landed(name) for window in commit.windows})
        return sorted(self.overview(name))

    def _consumed(self, table: Table, name: str) -> str | None:
        """The landing up to which a table that is fed by landings has read an upstream; None for others."""
        if not is_fed_by_landings(table, self._catalog):
            return None
        marker = self.overview(table.name).get(WHOLE)
        return str(marker.based_on.get(name, "")) if marker is not None else ""

    def _in_windows(self, name: str, windows: set[str], until: str | None) -> list[LakeFile]:
        """`until`: only landings up to this token. A later one is consumed in its turn: there its copies in
        other windows are looked for, which a window that had it already would hide. Of raw files that were
        joined no landing tells: they may be of any window.
        """
        if self._catalog[name].layer is not Layer.RAW:
            return self.in_force(name, sorted(windows))
        landed = self._ledger.landed(name)
        elsewhere = {file.path for commit in landed for file in commit.add}
        tokens = [commit.token for commit in landed]
        if until is not None and until in tokens:
            landed = landed[: tokens.index(until) + 1]
            elsewhere.update(file.path for later in self.landings_since(name, until) for file in later.add)
        touched = [commit for commit in landed if windows & commit.windows.keys()]
        in_force = {file.path: file for file in self._ledger.files(name)}
        joined = [file for path, file in in_force.items() if path not in elsewhere]
        return [*joined, *(file for commit in touched for file in commit.add if file.path in in_force)]

    def _news(self, name: str, since: str) -> list[LakeFile]:
        """Files of the windows that changed behind a token; a window is read whole, so replaced rows are
        seen. Of a raw table, what landed since.
        """
        sequence = self._ledger.sequence_of(since)
        if sequence is None:
            return self.everything(name)
        if self.is_raw(name):
            return [file for landing in self.landings_since(name, since) for file in landing.add]
        overview = self.overview(name)
        return self.in_force(name, [key for key, state in overview.items() if state.sequence > sequence])


def is_fed_by_landings(table: Table, catalog: Mapping[str, Table]) -> bool:
    """Whether a table is continued landing by landing and not window by window."""
    return table.write is Write.APPEND and reads_raw(table, catalog)


def chunks(landings: Sequence[Commit], rows_at_once: int) -> Iterator[list[Commit]]:
    """Landings in order, cut so that one chunk has about so many rows; at least one landing each."""
    chunk: list[Commit] = []
    rows = 0
    for landing in landings:
        count = sum(file.rows for file in landing.add)
        if rows and rows + count > rows_at_once:
            yield chunk
            chunk, rows = [], 0
        chunk.append(landing)
        rows += count
    if chunk:
        yield chunk
