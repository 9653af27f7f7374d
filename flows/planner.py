"""Which partitions are to be rebuilt, and why. Pure: states in, work out.

Every partition of every table carries the token of the commit that last changed its content, and remembers
the tokens of the upstream partitions it was built from. A partition is due when one of them is another now,
when its model changed, or when it does not exist yet. Cost follows the number of partitions compared, never
the rows in them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flows.spans import windows_of
from transforms.contract import Layer, Partition, Table, Write, moved

ROWS_AT_ONCE = 4_000_000
"""Rows that the partitions of one build read together: bounds its memory."""

WHOLE = ""
"""Partition key of what has no windows, or of rows whose window can't be told."""

UNKNOWN = "unknown"
"""In what is told before a run: windows of rows whose day only reading them tells."""

ASKED_FOR = "backfill"
"""Fingerprint of a partition that somebody wants rebuilt: no model has it, so it is due until it was."""

REPLAYED = "replay"
"""The same for one of which nothing that stands is believed: neither its files nor PostgreSQL's rows."""

_ASKED = {ASKED_FOR: "asked for by a backfill", REPLAYED: "asked for by a replay or a rebuild"}


@dataclass(frozen=True)
class PartitionState:
    """What stands at one partition of one table: the commit that changed its content last, what it read."""

    token: str
    sequence: int = 0
    """The ledger's order of that commit."""
    fingerprint: str = ""
    based_on: Mapping[str, str] = field(default_factory=dict)
    """Upstream → digest of the tokens that were read; where only news are read: the token consumed last."""
    rows: int = 0


States = Mapping[str, Mapping[str, PartitionState]]
"""Table name → partition key → state. Raw tables have one state per window a landing ever touched."""


@dataclass(frozen=True)
class Due:
    """One partition that has to be rebuilt (`replace`) or only continued with what is new upstream
    (`append`).
    """

    partition: str
    mode: str
    reason: str
    based_on: Mapping[str, str]
    rows: int
    """Rows upstream that will be read: an estimate of the work."""


@dataclass(frozen=True)
class Work:
    """What is due of one table. `discover`: the windows are known only from the output, so all of them are
    compared.
    """

    table: Table
    fingerprint: str
    due: tuple[Due, ...]
    discover: bool = False

    @property
    def partitions(self) -> list[str]:
        """Keys of the due partitions, sorted."""
        return sorted(item.partition for item in self.due)


class Windows:
    """The windows of one upstream, in order: which of them another table's window reads, bisection finds.

    A year of days, each compared with a year of days, would be what a run spends its time with. What is no
    window, WHOLE or a year before Christ that a ledger holds, is read by all.
    """

    def __init__(self, keys: Iterable[str], partition: Partition | None) -> None:
        everything = sorted(keys)
        windows = list(filter(partition.is_window, everything)) if partition is not None else []
        self._always = sorted({*everything}.difference(windows))
        known = sorted((partition.span(key), key) for key in windows) if partition is not None else []
        self._starts = [start for (start, _), _ in known]
        self._ends = [end for (_, end), _ in known]
        self._keys = [key for _, key in known]

    def read_by(self, table: Table, key: str) -> list[str]:
        """Those that the window `key` of `table` reads: the ones it overlaps, widened by its lookback."""
        assert table.partition is not None
        start, end = table.partition.bounds(key)
        first = bisect_right(self._ends, moved(start, -table.lookback))
        last = bisect_left(self._starts, moved(end, table.lookback))
        return [*self._always, *self._keys[first:last]]


def digest(states: Mapping[str, PartitionState], windows: Iterable[str]) -> str:
    """Short name of exactly these versions of these windows.

    An entry at '' without rows only notes what its table has consumed: it moves with every landing, and were
    it counted, a new day would make every day due.
    """
    text = ",".join(
        f"{window}={states[window].token}"
        for window in sorted(windows)
        if window in states and (window != WHOLE or states[window].rows)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan(
    table: Table,
    catalog: Mapping[str, Table],
    states: States,
    fingerprint: str,
    today: datetime | None = None,
) -> Work:
    """What is due of `table`, given what stands upstream.

    An append table whose upstreams are raw continues as a whole (partition ''), because one landing touches
    many windows. With `today`, no window is built anew that is past its retention: what it was made of may be
    gone. What comes for one is still added where the table is added to.
    """
    if table.write is Write.APPEND:
        due = (
            _append_from_raw(table, states, fingerprint, today)
            if reads_raw(table, catalog)
            else _append_by_window(table, states, fingerprint, today)
        )
        return Work(table, fingerprint, tuple(due))
    aligned = [name for name in table.upstreams if catalog[name].partition is not None]
    if table.by_key:
        keyed = list(_by_key(table, states, fingerprint))
        if table.partition is not None:
            # The entry that says what was consumed comes first: a window must not be older than it.
            windows = _by_window(table, catalog, states, fingerprint, aligned, today)
            keyed += [item for item in windows if _is_to_be_built(table, states, fingerprint, keyed, item)]
        return Work(table, fingerprint, tuple(keyed))
    if table.partition is None:
        return Work(table, fingerprint, tuple(_whole(table, states, fingerprint)))
    if not aligned:
        return Work(table, fingerprint, tuple(_whole(table, states, fingerprint)), discover=True)
    return Work(table, fingerprint, tuple(_by_window(table, catalog, states, fingerprint, aligned, today)))


def reads_raw(table: Table, catalog: Mapping[str, Table]) -> bool:
    """Whether an append table is fed by landings and not by other models."""
    return any(catalog[name].layer is Layer.RAW for name in table.upstreams)


def _whole(table: Table, states: States, fingerprint: str) -> Iterator[Due]:
    """The one unit of an unpartitioned table, or of a partitioned one whose windows only its output tells."""
    based_on = {name: digest(there, there) for name in table.upstreams for there in [states.get(name, {})]}
    reason = _reason(table, states, WHOLE, based_on, fingerprint)
    if reason:
        rows = sum(_rows(states, name) for name in table.upstreams)
        yield Due(WHOLE, "replace", reason, based_on, rows)


def _by_window(
    table: Table,
    catalog: Mapping[str, Table],
    states: States,
    fingerprint: str,
    aligned: Sequence[str],
    today: datetime | None,
) -> Iterator[Due]:
    assert table.partition is not None
    standing = states.get(table.name, {})
    keys = windows_of(
        table.partition, (key for name in (table.name, *aligned) for key in states.get(name, {}))
    )
    upstreams = {name: Windows(states.get(name, {}), catalog[name].partition) for name in table.upstreams}
    for key in sorted(filter(table.partition.is_window, keys)):
        if today is not None and table.is_past_retention(key, today):
            continue
        based_on, rows = {}, 0
        for name in table.upstreams:
            there = states.get(name, {})
            windows = upstreams[name].read_by(table, key)
            based_on[name] = (
                _as_of_token(states, name, table.partition.bounds(key)[1])
                if name in table.as_of
                else digest(there, windows)
            )
            if catalog[name].partition is not None:
                rows += sum(there[window].rows for window in windows)
        state = standing.get(key)
        if state is None and rows == 0:
            continue
        reason = _reason(table, states, key, based_on, fingerprint)
        if reason:
            yield Due(key, "replace", reason, based_on, rows)


def differing(name: str) -> str:
    """Where states keep, by UTC day, the last commit of a history that differs from that day on."""
    return f"{name}@"


def _as_of_token(states: States, name: str, end: datetime) -> str:
    """The last commit of a history that says something else of the time before `end`.

    What differs from a later time on is no news for a window that ends before: a new version costs the
    window that it begins in, a late correction those behind it.
    """
    there = states.get(differing(name), {})
    concerning = [state for day, state in there.items() if day < end.date().isoformat()]
    return max(concerning, key=lambda state: state.sequence).token if concerning else ""


def _by_key(table: Table, states: States, fingerprint: str) -> Iterator[Due]:
    """What came upstream since it was asked last, of all windows at once: a key's rows can stand in any.

    Where other tables mention its keys it is never begun anew for what came: who stands was mentioned.
    """
    standing = states.get(table.name, {}).get(WHOLE)
    based_on = {name: latest_token(states, name) for name in table.upstreams if states.get(name)}
    if standing is None and not based_on and table.partition is not None:
        return
    reason = _reason(table, states, WHOLE, based_on, fingerprint)
    if not reason:
        return
    is_continued = standing is not None and standing.fingerprint == fingerprint
    since = standing.sequence if standing is not None and is_continued else -1
    if standing is not None:
        changed = {name for name in based_on if standing.based_on.get(name) != based_on[name]}
        is_continued = is_continued and (changed <= table.followed or bool(table.mentioned_by))
    rows = sum(state.rows for name in based_on for state in states[name].values() if state.sequence > since)
    yield Due(WHOLE, "append" if is_continued else "replace", reason, based_on, rows)


def _is_to_be_built(
    table: Table, states: States, fingerprint: str, keyed: Sequence[Due], window: Due
) -> bool:
    """Whether a window of a table that follows keys has to be built from all it reads: the table is built
    anew, or this window was never built with this model.
    """
    if any(item.mode == "replace" for item in keyed):
        return True
    state = states.get(table.name, {}).get(window.partition)
    return state is None or state.fingerprint != fingerprint


def _append_from_raw(table: Table, states: States, fingerprint: str, today: datetime | None) -> Iterator[Due]:
    """Landings that were not consumed yet, of all windows at once: one landing touches many."""
    standing = states.get(table.name, {}).get(WHOLE)
    based_on = {name: latest_token(states, name) for name in table.upstreams if states.get(name)}
    if standing is None and not based_on:
        return
    continues = standing is not None and standing.fingerprint == fingerprint
    if continues:
        for key, state in sorted(states.get(table.name, {}).items()):
            if today is not None and table.is_past_retention(key, today):
                continue
            if key != WHOLE and state.fingerprint in _ASKED:
                yield Due(key, "replace", _ASKED[state.fingerprint], {}, state.rows)
    reason = _reason(table, states, WHOLE, based_on, fingerprint)
    if reason:
        since = standing.sequence if standing is not None and continues else -1
        rows = sum(
            state.rows
            for name in table.upstreams
            for state in states.get(name, {}).values()
            if state.sequence > since
        )
        yield Due(WHOLE, "append" if continues else "replace", reason, based_on, rows)


def _append_by_window(
    table: Table, states: States, fingerprint: str, today: datetime | None
) -> Iterator[Due]:
    standing = states.get(table.name, {})
    keys = windows_of(
        table.partition, (key for name in (table.name, *table.upstreams) for key in states.get(name, {}))
    )
    for key in sorted(keys - {WHOLE}):
        current = {name: there[key] for name in table.upstreams if key in (there := states.get(name, {}))}
        based_on = {name: state.token for name, state in current.items()}
        state = standing.get(key)
        mode = "append" if state is not None and state.fingerprint == fingerprint else "replace"
        is_past = today is not None and table.is_past_retention(key, today)
        if is_past and state is not None and mode == "replace":
            continue
        if reason := _reason(table, states, key, based_on, fingerprint):
            yield Due(key, mode, reason, based_on, sum(item.rows for item in current.values()))


def latest_token(states: States, name: str) -> str:
    """The commit that changed any window of a table last; empty when nothing stands there."""
    latest = max(states.get(name, {}).values(), key=lambda state: state.sequence, default=None)
    return latest.token if latest is not None else ""


def _reason(
    table: Table, states: States, key: str, based_on: Mapping[str, str], fingerprint: str
) -> str | None:
    standing = states.get(table.name, {})
    state = standing.get(key)
    if state is None:
        return "its partitions become others" if _is_arranged_otherwise(table, standing) else "new"
    if state.fingerprint in _ASKED:
        return _ASKED[state.fingerprint]
    if state.fingerprint != fingerprint:
        return "its model changed"
    changed = sorted(name for name in based_on if state.based_on.get(name) != based_on[name])
    gone = sorted(set(state.based_on) - set(based_on))
    return f"new data in {', '.join(changed + gone)}" if changed or gone else None


def _is_arranged_otherwise(table: Table, standing: Mapping[str, PartitionState]) -> bool:
    """Whether what stands is in other windows than the table has now: a run moves it there, then builds."""
    if table.partition is None:
        return any(key != WHOLE for key in standing)
    own = table.partition
    windows = [key for key in standing if own.is_window(key)]
    whole = standing.get(WHOLE)
    if not windows:
        return bool(whole and whole.rows)
    return any(own.key(own.span(key)[0]) != key for key in windows)


def _rows(states: States, name: str) -> int:
    return sum(state.rows for state in states.get(name, {}).values())


def batches(work: Work, rows_at_once: int = ROWS_AT_ONCE) -> list[tuple[Due, ...]]:
    """Split the due partitions so that no batch reads many more than `rows_at_once` rows; at least one
    each.
    """
    found: list[tuple[Due, ...]] = []
    current: list[Due] = []
    rows = 0
    for item in work.due:
        if current and rows + item.rows > rows_at_once:
            found.append(tuple(current))
            current, rows = [], 0
        current.append(item)
        rows += item.rows
    return [*found, tuple(current)] if current else found
