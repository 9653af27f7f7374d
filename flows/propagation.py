"""The work of a whole run, told before it begins: what arrives is passed on from table to table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from flows.planner import UNKNOWN, WHOLE, Due, PartitionState, States, Work, differing, plan
from flows.spans import keys_between
from transforms.contract import Table

_SOME_DAY = datetime(9000, 1, 1, tzinfo=UTC)
"""Stands for a day that nobody can tell yet: no row is of it, and it is passed on as any other is."""
_SOME = f"{_SOME_DAY:%Y}-"


def propagate(
    tables: Sequence[Table],
    catalog: Mapping[str, Table],
    states: States,
    fingerprints: Mapping[str, str],
    arriving: Mapping[str, Mapping[str, int]] | None = None,
    today: datetime | None = None,
) -> list[Work]:
    """The work of a whole run, told beforehand, in build order.

    `arriving` is what waits at the sources: raw table → window (or UNKNOWN) → rows; what comes of rows of an
    unknown day is due under UNKNOWN, once a table, with the rows that are known to be read. A rebuilt
    partition counts as changed, so the plan is the most that can happen: a rebuild that changes nothing stops
    there.
    """
    imagined: dict[str, dict[str, PartitionState]] = {name: dict(there) for name, there in states.items()}
    for name, windows in (arriving or {}).items():
        partition = catalog[name].partition
        some = WHOLE if partition is None else partition.key(_SOME_DAY)
        for window, rows in windows.items():
            _bump(imagined, name, some if window == UNKNOWN else window, rows)
    found = []
    for table in tables:
        work = plan(table, catalog, imagined, fingerprints[table.name], today)
        if not work.due:
            continue
        found.append(work)
        for item in work.due:
            if table.is_history and differing(table.name) in imagined:
                # From when on it will differ is known once it is built; mostly from now on.
                day = today.date().isoformat() if today is not None else WHOLE
                _bump(imagined, differing(table.name), day, 0)
            if item.partition != WHOLE or table.partition is None:
                _bump(imagined, table.name, item.partition, 0, if_new=item.rows)
                continue
            touched = _windows_touched(table, catalog, imagined, states)
            for window in touched:
                read = [
                    imagined[name][window] for name in table.upstreams if window in imagined.get(name, {})
                ]
                _bump(imagined, table.name, window, 0, if_new=sum(state.rows for state in read))
    return [_named(work, imagined) for work in found]


def _named(work: Work, imagined: States) -> Work:
    """The same work, with everything that stands for an unknown day in one entry under its name."""
    some = [item for item in work.due if _is_some(item.partition)]
    if not some:
        return work
    risen = [name for name in work.table.upstreams if any(map(_is_some, imagined.get(name, {})))]
    reason = f"new data in {', '.join(sorted(risen))}"
    unknown = Due(UNKNOWN, some[0].mode, reason, {}, max(item.rows for item in some))
    return replace(work, due=(*(item for item in work.due if not _is_some(item.partition)), unknown))


def _is_some(window: str) -> bool:
    return window.startswith(_SOME)


def _windows_touched(
    table: Table, catalog: Mapping[str, Table], imagined: States, states: States
) -> set[str]:
    """Windows a continued or discovered table is likely to touch: those that rose upstream, or all that
    stand.
    """
    if table.partition is None:
        return {WHOLE}
    touched: set[str] = set()
    for name in table.upstreams:
        upstream = catalog[name].partition
        before = states.get(name, {})
        for window, state in imagined.get(name, {}).items():
            if upstream and upstream.is_window(window) and before.get(window) != state:
                touched.update(keys_between(table.partition, *upstream.span(window)))
    return touched or set(states.get(table.name, {})) - {WHOLE}


def _bump(
    imagined: dict[str, dict[str, PartitionState]], name: str, window: str, rows: int, if_new: int = 0
) -> None:
    """Let a window have changed by `rows`; a new one has `if_new`, at least one: empty ones feed nobody."""
    there = imagined.setdefault(name, {})
    if window not in there:
        rows = max(rows, if_new, 1)
    state = there.get(window, PartitionState(token=""))
    highest = max((other.sequence for other in there.values()), default=0)
    there[window] = replace(state, token=state.token + "'", sequence=highest + 1, rows=state.rows + rows)
