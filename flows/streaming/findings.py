"""What the comparison of stream and batch found, as a check's result: rows and counts by their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from flows.streaming.agreement import Place, Rows, compared
from quality import CheckResult
from transforms.contract import RuleKind, Table

RULE = "stream_agrees"
SHOWN = 1000
"""Rows, or counts, that a result names at most; it says how many there are."""


def of_rows(table: Table, window: str, found: Rows, topics: Mapping[Place, str]) -> CheckResult:
    """The result for a fact's window: of each row that it names its key, topic, place there, and what is
    wrong with it.
    """
    surplus, missing, changed = len(found.surplus), len(found.missing), len(found.changed)
    columns = sorted({name for one in found.changed for name in one.columns})
    named = f" ({', '.join(columns)})" if columns else ""
    return _result(
        table,
        window,
        failing_rows=found.count,
        observed={
            "only_published": surplus,
            "only_in_the_batch": missing,
            "with_other_values": changed,
            "named": list(islice(_rows(table, found, topics), SHOWN)),
        },
        message=(
            f"{table.name} {window}: {surplus:,} rows were published that the batch did not compute, "
            f"{missing:,} that it did were missing, {changed:,} had other values{named}. They are corrected; "
            f"their keys, topics and offsets{_are_in(found.count)}."
        ),
    )


def of_counts(table: Table, window: str, added: pa.Table, *, by_batch: bool) -> CheckResult:
    """The result for a windowed table's partition. What the batch landed by itself the stream can't have
    counted: that is no finding.
    """
    assert table.windowed is not None
    return _result(
        table,
        window,
        failing_rows=0 if by_batch else added.num_rows,
        observed={
            "corrected_windows": added.num_rows,
            "landed_by_the_batch_too": by_batch,
            "windows": [
                [str(row[name]) for name in (*table.key, table.windowed.adds)]
                for row in added.slice(0, SHOWN).to_pylist()
            ],
        },
        message=(
            f"{table.name} {window}: {added.num_rows:,} windows were counted differently from the batch. "
            f"They are corrected, each by a new revision; "
            f"which and by how much{_are_in(added.num_rows, 'is')}."
        ),
    )


def lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """A line for each partition that was compared, for people."""
    for result in results:
        yield result.message or f"{result.table} {result.partition}: stream and batch agree."


def _rows(table: Table, found: Rows, topics: Mapping[Place, str]) -> Iterator[dict[str, Any]]:
    for place in found.surplus:
        yield {**_named(table, place), "topic": topics.get(place), "is": "only published"}
    for place in found.missing:
        yield {**_named(table, place), "topic": topics.get(place), "is": "only in the batch"}
    for one in found.changed:
        shown = {**_named(table, one.computed), "topic": topics.get(one.computed)}
        yield {**shown, "is": "other values", "columns": list(one.columns)}


def _named(table: Table, place: Place) -> dict[str, Any]:
    values = (value if isinstance(value, int) else str(value) for value in place)
    return dict(zip(compared(table), values, strict=True))


def _are_in(count: int, are: str = "are") -> str:
    some = f", of {SHOWN:,} of them," if count > SHOWN else ""
    return f"{some} {are} in ops.check_result, rule {RULE}"


def _result(
    table: Table, window: str, *, failing_rows: int, observed: dict[str, Any], message: str
) -> CheckResult:
    return CheckResult(
        table=table.name,
        partition=window,
        rule=RULE,
        kind=RuleKind.CONSISTENCY,
        severity="critical",
        engine="postgresql",
        passed=not failing_rows,
        failing_rows=failing_rows,
        observed=observed,
        message=message if failing_rows else "",
    )
