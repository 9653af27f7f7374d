"""What a model reads for a batch of its partitions: the files in force of each upstream, narrowed to what
counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.planner import WHOLE, Due, overlapping, reads_raw
from flows.stores.ledger import Ledger, PartitionState
from flows.stores.manifest import Commit, LakeFile, fold
from transforms.contract import Layer, Partition, Table, Write, moved

_UNCHANGING_KINDS = {"compact"}


@dataclass(frozen=True)
class Inputs:
    """Files per upstream. `continued` upstreams give only what came since the last build."""

    files: Mapping[str, Sequence[LakeFile]]
    continued: frozenset[str] = frozenset()


class Reader:
    """Finds the files of upstreams in one ledger; what it found is asked for once."""

    def __init__(self, ledger: Ledger, catalog: Mapping[str, Table]) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._states: dict[str, dict[str, PartitionState]] = {}

    def forget(self) -> None:
        """Look again: something was committed."""
        self._states.clear()

    def states(self, name: str) -> dict[str, PartitionState]:
        """Partition → state of a built table."""
        if name not in self._states:
            self._states[name] = {key[1]: state for key, state in self._ledger.states([name]).items()}
        return self._states[name]

    def in_force(self, name: str, windows: Sequence[str] | None = None) -> list[LakeFile]:
        """The files that are a built table's content, or that of some of its partitions."""
        return [
            file
            for window, state in self.states(name).items()
            if windows is None or window in windows
            for file in state.files
        ]

    def everything(self, name: str) -> list[LakeFile]:
        """The whole content of any table, raw ones too."""
        if self._catalog[name].layer is Layer.RAW:
            return self._ledger.files(name)
        return self.in_force(name)

    def landings_since(self, name: str, token: str) -> list[Commit]:
        """The landings of a raw table behind a token, oldest first."""
        return self._ledger.landed(name, after=token)

    def for_partitions(self, table: Table, due: Sequence[Due], *, whole: bool) -> Inputs:
        """What a replaced or merged table reads to rebuild these partitions (`whole`: all it can have)."""
        files: dict[str, list[LakeFile]] = {}
        continued: set[str] = set()
        standing = self.states(table.name).get(WHOLE)
        for name in table.upstreams:
            upstream = self._catalog[name]
            if whole or table.partition is None or upstream.partition is None:
                since = standing.based_on.get(name, "") if standing is not None else ""
                if name in table.changed and since and due[0].mode == "append":
                    continued.add(name)
                    files[name] = self._news(name, since)
                else:
                    files[name] = self.everything(name)
                continue
            wanted = {
                window
                for item in due
                for window in overlapping(
                    table.partition, item.partition, table, self._windows(name), upstream.partition
                )
            }
            files[name] = self._in_windows(name, wanted)
        return Inputs(files, frozenset(continued))

    def within_lookback(self, table: Table, touched: Sequence[str]) -> dict[str, list[LakeFile]]:
        """Partition → files of what stands where a key of the touched partitions can be known already."""
        partition = table.partition
        if partition is None:
            return {}
        reached = [
            (moved(start, -table.lookback), moved(end, table.lookback))
            for start, end in map(partition.bounds, touched)
        ]
        near: dict[str, list[LakeFile]] = {}
        for window, state in self.states(table.name).items():
            if window != WHOLE:
                first, last = partition.bounds(window)
                if any(first < end and last > start for start, end in reached):
                    near[window] = list(state.files)
        return near

    def can_continue(self, table: Table, item: Due) -> bool:
        """Whether upstream only added to a partition since it was built; otherwise it is built anew."""
        return item.mode == "append" and all(
            self._added(table, name, item.partition) is not None for name in table.upstreams
        )

    def appended(self, table: Table, due: Sequence[Due]) -> Inputs:
        """What came upstream since each of these partitions was built; each of them `can_continue`."""
        files = {
            name: [file for item in due for file in self._added(table, name, item.partition) or ()]
            for name in table.upstreams
        }
        return Inputs(files, frozenset(table.upstreams))

    def _added(self, table: Table, name: str, partition: str) -> list[LakeFile] | None:
        """The files that joined a partition of an upstream since it was read; None when it also lost some."""
        standing = self.states(table.name).get(partition)
        since = str(standing.based_on.get(name, "")) if standing is not None else ""
        commits = [
            commit
            for commit in self._ledger.history(name, partition, after=since)
            if commit.kind not in _UNCHANGING_KINDS
        ]
        if any(commit.remove for commit in commits):
            return None
        in_force = {file.path for file in self.in_force(name, [partition])}
        added = fold(commits)
        return added if all(file.path in in_force for file in added) else None

    def _windows(self, name: str) -> list[str]:
        if self._catalog[name].layer is Layer.RAW:
            return sorted({window for commit in self._ledger.landed(name) for window in commit.windows})
        return sorted(self.states(name))

    def _in_windows(self, name: str, windows: set[str]) -> list[LakeFile]:
        if self._catalog[name].layer is not Layer.RAW:
            return self.in_force(name, sorted(windows))
        touched = [commit for commit in self._ledger.landed(name) if windows & commit.windows.keys()]
        in_force = {file.path for file in self._ledger.files(name)}
        return [file for commit in touched for file in commit.add if file.path in in_force]

    def _news(self, name: str, since: str) -> list[LakeFile]:
        """Files of the windows that changed behind a token; a window is read whole, so replaced rows are
        seen.
        """
        sequence = self._ledger.sequence_of(since)
        if sequence is None:
            return self.everything(name)
        return [
            file for state in self.states(name).values() if state.sequence > sequence for file in state.files
        ]


def is_fed_by_landings(table: Table, catalog: Mapping[str, Table]) -> bool:
    """Whether a table is continued landing by landing and not window by window."""
    return table.write is Write.APPEND and reads_raw(table, catalog)


def partition_expression(partition: Partition) -> str:
    """DuckDB SQL that gives a row's partition key; the connection's time zone is UTC."""
    form = "%Y-%m-%d" if partition.every == "day" else "%Y-%m"
    return f"strftime(\"{partition.by}\", '{form}')"
