"""The past of a table, told in fewer entries: what came, was joined and went since is one entry.

Where changes are followed, each second makes an entry of the ledger and a line of a manifest for every table
that it touches. What a run does with a table would cost more with each of them, for ever.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from psycopg.rows import dict_row

from flows.failpoints import failpoint
from flows.landed import OFFSETS, add_span
from flows.stores.lake import Lake
from flows.stores.ledger import READERS_GRACE, Ledger
from flows.stores.ledger_rows import commit_of, ledger_values, lets_go
from flows.stores.manifest import Commit, LakeFile

_JOINED = "compact"


@dataclass(frozen=True)
class Folded:
    """One entry that takes the place of several. It keeps the name of the last that changed the content.

    `passing` are the files that came and went among them: no entry names them any more.
    """

    commit: Commit
    dropped: tuple[str, ...]
    passing: tuple[str, ...]


def fold_past(
    ledger: Ledger, lake: Lake, layer: str, table: str, until: int | None, kept: Collection[str]
) -> int:
    """Fold the entries of a table up to the place `until`, or all; returns how many there are fewer.

    Left alone are entries younger than the grace of readers and the last one of each partition. An entry that
    a table read up to (`based_on`) stays, and nothing is told together across it: what comes behind it is
    news for that table. `kept` stay, too.

    1. The manifest is written anew: the same files, by fewer lines.
    2. In one transaction the ledger's rows follow.

    A crash in between leaves a ledger that tells the same at greater length, and the next fold repeats both.
    """
    with ledger.locked("fold", table):
        entries = _entries(ledger, table, until)
        groups = list(folds(entries, _read_up_to(ledger, table), {*kept, *_standing(ledger, table)}))
        if not groups:
            return 0
        for group in groups:
            for path in group.passing:
                # Who began before this moment may have planned to read it: the sweep goes by this time.
                with suppress(FileNotFoundError):
                    os.utime(lake.root / path)
        changed = {group.commit.token: group.commit for group in groups}
        dropped = {token for group in groups for token in group.dropped}
        lake.rewrite_manifest(layer, table, changed, dropped)
        failpoint("fold.manifest_written")
        with ledger.connection.transaction():
            _enter(ledger, groups)
            failpoint("fold.before_commit")
        return len(dropped)


def folds(entries: Sequence[Commit], read: Collection[str], kept: Collection[str]) -> Iterator[Folded]:
    """Which entries of one table, given in their order, become one.

    `read` and `kept` are tokens that stay: no group goes on behind one that was `read`, whatever its
    partition; one that is `kept` ends the group of its own. One that lets go of raw is in none: what it says
    would be lost among others.
    """
    referred = {*read, *kept}
    groups: dict[str, list[Commit]] = {}
    in_force: dict[str, set[str]] = {}

    def close(key: str) -> Iterator[Folded]:
        group = groups.pop(key, [])
        there = in_force.setdefault(key, set())
        if len(group) > 1:
            yield _as_one(group, there, is_referred=group[-1].token in referred)
        for commit in group:
            there.difference_update(commit.remove)
            there.update(file.path for file in commit.add)

    for commit in entries:
        # Files of raw that were joined are of one day, their landings of many: it is one content.
        key = "" if commit.layer == "raw" else commit.partition
        if lets_go(commit):
            yield from close(key)
            in_force.setdefault(key, set()).difference_update(commit.remove)
            continue
        groups.setdefault(key, []).append(commit)
        if commit.token in read:
            for open_key in list(groups):
                yield from close(open_key)
        elif commit.token in kept:
            yield from close(key)
    for key in list(groups):
        yield from close(key)


def _as_one(group: Sequence[Commit], in_force: Collection[str], *, is_referred: bool) -> Folded:
    """`in_force`: paths of the files that were there before; `is_referred`: the last one's name stays."""
    files: dict[str, LakeFile] = {}
    removed: list[str] = []
    passing: list[str] = []
    for commit in group:
        for path in commit.remove:
            files.pop(path, None)
            (removed if path in in_force else passing).append(path)
        files.update({file.path: file for file in commit.add})
    own = [commit for commit in group if commit.kind != _JOINED] or group
    changing = (commit for commit in reversed(own) if commit.add or commit.remove)
    named = group[-1] if is_referred else next(changing, own[-1])
    windows: Counter[str] = Counter()
    for commit in group:
        windows.update(commit.windows)
    landings = [commit for commit in group if commit.kind == "land"]
    one = replace(
        named,
        kind=own[-1].kind,
        add=tuple(files.values()),
        remove=tuple(removed),
        windows=dict(windows),
        control=_control(named, landings),
        row_count=sum(commit.row_count for commit in landings) if landings else named.row_count,
    )
    dropped = tuple(commit.token for commit in group if commit is not named)
    return Folded(one, dropped, tuple(passing))


def _control(named: Commit, landings: Sequence[Commit]) -> dict[str, Any]:
    """What the last entry says, and of all landings which offsets were read."""
    if OFFSETS not in named.control:
        return dict(named.control)
    spans: dict[str, list[list[int]]] = {}
    for landing in landings:
        for partition, read in landing.control.get(OFFSETS, {}).items():
            for first, after in read:
                add_span(spans, partition, (first, after))
    return {**named.control, OFFSETS: spans}


def _entries(ledger: Ledger, table: str, until: int | None) -> list[Commit]:
    with ledger.connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT * FROM ops.ledger WHERE table_name = %s AND sequence <= coalesce(%s, sequence) "
            "AND in_manifest AND committed_at < clock_timestamp() - %s ORDER BY sequence",
            (table, until, READERS_GRACE),
        ).fetchall()
    return [commit_of(row) for row in rows]


def _read_up_to(ledger: Ledger, table: str) -> set[str]:
    """Tokens of this table that a partition of another one is based on."""
    rows = ledger.connection.execute(
        "SELECT DISTINCT read.value FROM ops.partition_state, jsonb_each_text(based_on) AS read "
        "WHERE read.key = %s",
        (table,),
    ).fetchall()
    return {token for (token,) in rows}


def _standing(ledger: Ledger, table: str) -> set[str]:
    """Tokens of the entries that changed last what stands: whoever reads it next notes one of them."""
    rows = ledger.connection.execute(
        "SELECT token FROM ops.partition_state WHERE table_name = %(table)s "
        "UNION SELECT token FROM ops.position WHERE entity = %(table)s "
        "UNION (SELECT token FROM ops.landed_window WHERE table_name = %(table)s "
        "ORDER BY sequence DESC LIMIT 1)",
        {"table": table},
    ).fetchall()
    return {token for (token,) in rows}


def _enter(ledger: Ledger, groups: Sequence[Folded]) -> None:
    tokens = [token for group in groups for token in group.dropped]
    with ledger.connection.cursor() as cursor:
        cursor.execute("DELETE FROM ops.ledger WHERE token = ANY(%s)", (tokens,))
        cursor.executemany(
            """
            UPDATE ops.ledger SET (token, kind, layer, table_name, partition, run_id, positions, based_on,
            windows, control, files, removed, fingerprint, manifest_hash, row_count, landed_at)
            = (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) WHERE token = %s
            """,
            [(*ledger_values(group.commit), group.commit.token) for group in groups],
        )
