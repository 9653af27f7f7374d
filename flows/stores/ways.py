"""The way of every partition into PostgreSQL: the cheapest that is right, found before anything is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from duckdb import DuckDBPyConnection

from flows.stores import additions, apply
from flows.stores.dependents import others
from flows.stores.difference import adapted, content, continuation, difference
from flows.stores.lake import Lake
from flows.stores.ledger import PartitionState
from flows.stores.manifest import Commit, LakeFile
from flows.stores.overtaken import Coming
from flows.stores.publication import BuiltPartition, Way
from flows.stores.standalone import Workshop
from warehouse_ddl.statements import home

SWAP_SHARE = 0.5
"""From this share of differing rows on, building a leaf anew is cheaper than changing it…"""
SWAP_ROWS = 100_000
"""…and worth a lock on it, from this number of rows on."""


@dataclass
class Step:
    """One partition on its way: its ledger entry and what has to be done in PostgreSQL for it."""

    built: BuiltPartition
    state: PartitionState
    commit: Commit
    way: Way = "none"
    is_counted: bool = False
    """Whether the stream counts in it: nobody else writes, what differs is corrected by `reconcile`."""
    load: str = ""
    changes: apply.Changes = field(default_factory=apply.Changes)

    @property
    def coming(self) -> Coming:
        """What is about to be shown."""
        return Coming([name for name in (self.load, self.changes.new) if name], self.changes.changed)


def choose(
    shop: Workshop, steps: list[Step], session: DuckDBPyConnection, lake: Lake, wanted: Way | None
) -> None:
    """Step 2 of `publish`: find the way of every partition, and load what differs where only that is
    written.
    """
    table = shop.table
    if not table.is_partitioned_in_postgres:
        known = [step for step in steps if step.state.published_at is not None and not step.built.in_full]
        for step in steps:
            step.way = "merge" if step in known else "load"
        load_difference(shop, known, session, lake, table.name)
        return
    leaves = apply.leaves(shop.connection, table)
    hot = apply.hot_partitions(shop.connection, table.name)
    counted = apply.counted_partitions(shop.connection, table)
    for step in steps:
        if step.built.partition == "":
            continue  # a marker of the planner: what was consumed so far; it has no rows
        leaf = table.leaf(step.built.partition)
        if step.built.partition in counted and leaf in leaves:
            step.is_counted = True
            continue
        is_hot = step.built.partition in hot and leaf in leaves
        if step.built.in_full and leaf in leaves and wanted != "swap":
            step.way = "equal"
        elif is_hot and wanted != "swap":
            step.way = "diff"
            load_difference(shop, [step], session, lake, leaf, is_forced=True)
        elif leaf not in leaves:
            step.way = "attach" if step.built.files else "none"
        elif wanted == "swap" or step.state.published_at is None:
            step.way = "equal" if wanted != "swap" and _has_others(shop, leaf) else "swap"
        elif step.commit.add or step.commit.remove:
            step.way = "diff"
            if not load_difference(shop, [step], session, lake, leaf):
                if _has_others(shop, leaf):
                    load_difference(shop, [step], session, lake, leaf, is_forced=True)
                else:
                    step.way = "swap"


def _has_others(shop: Workshop, leaf: str) -> bool:
    """Whether others have made something on a leaf itself: a view that reads it would go on showing the leaf
    of before, an index be gone.
    """
    schema = home(shop.table)
    added = additions.held(shop.connection, schema, shop.table.name)
    return any(one.relation == leaf for one in added) or bool(others(shop.connection, schema, leaf))


def load_difference(
    shop: Workshop,
    steps: list[Step],
    session: DuckDBPyConnection,
    lake: Lake,
    stem: str,
    *,
    is_forced: bool = False,
) -> bool:
    """Load the differing rows of these partitions into tables of their own; False when a swap is cheaper."""
    steps = [step for step in steps if step.commit.add or step.commit.remove]
    if not steps:
        return True
    table = shop.table
    first = steps[0]
    is_continued = all(_is_continued(step) for step in steps)
    if is_continued:
        added = [step.built.added for step in steps if step.built.added is not None]
        keys = next((step.built.lost for step in steps if step.built.lost is not None), None)
        found = continuation(session, lake, table, added, _lost(steps) if keys is None else keys)
    else:
        pairs = [
            (
                adapted(session, lake, table, _published_files(step)),
                content(session, lake, table, step.built.files),
            )
            for step in steps
        ]
        found = difference(session, table, pairs)
    rows = sum(step.commit.row_count for step in steps)
    is_large = found.rows > max(SWAP_ROWS, SWAP_SHARE * rows)
    if table.is_partitioned_in_postgres and is_large and not is_forced and not is_continued:
        return False
    first.changes = changes = apply.Changes(found.new_rows, found.changed_rows, found.gone_rows)
    if found.new_rows:
        changes.new = shop.load_exactly(stem, "new", found.new)
    if found.changed_rows:
        changes.changed = shop.load_exactly(stem, "changed", found.changed)
    if found.gone_rows:
        changes.gone = shop.load_exactly(stem, "gone", found.gone)
    return True


def _published_files(step: Step) -> tuple[LakeFile, ...]:
    return step.state.files if step.state.published_at is not None else ()


def _is_continued(step: Step) -> bool:
    """Whether all that stood stays, but for rows that no longer count."""
    is_appended = step.built.mode == "append" and step.state.published_at is not None
    return is_appended and not step.commit.remove


def _lost(steps: Sequence[Step]) -> dict[LakeFile, list[int]]:
    """The rows that counted in what is published and no longer do, by their positions in their files."""
    before = {file.path: file for step in steps for file in step.state.files}
    return {
        file: sorted({*file.gone}.difference(before[file.path].gone))
        for step in steps
        for file in step.commit.add
        if file.path in before
    }
