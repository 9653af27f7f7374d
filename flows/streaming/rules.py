"""What a published table holds the rows of a micro-batch to: the rules that judge a row by itself, and that
their day is published still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from duckdb import DuckDBPyConnection

import quality
from flows.spans import partition_expression
from transforms.contract import Rule, RuleKind, Table
from transforms.engine import quoted, text_literal


def row_rules(table: Table) -> list[Rule]:
    """What a row is held to before anybody sees it. Rules that read other tables need a whole partition and
    those, and are the batch's.
    """
    return [
        rule
        for rule in quality.rules(table)
        if rule.row_level
        and rule.severity == "critical"
        and rule.kind is not RuleKind.TIMELINESS
        and rule.check != "sql"
        and not quality.requires([rule], table.name)
    ]


def reject(
    cursor: DuckDBPyConnection, table: Table, rules: Sequence[Rule], fresh: str, place: Sequence[str]
) -> dict[tuple[Any, ...], str]:
    """Take the rows that break a rule out of `fresh`; returns what identifies each (`place`) and why."""
    if not rules:
        return {}
    listed, found = ", ".join(map(quoted, place)), f"rejected_{table.name}"
    broken = {result.rule for result in quality.check(cursor, table, rules, fresh) if result.failing_rows}
    if not broken:
        return {}
    cursor.execute(f"create or replace temp table {found} as select {listed}, '' as why from {fresh} limit 0")
    for rule in (rule for rule in rules if rule.name in broken):
        why = f"it breaks the rule {rule.name} of {table.name} ({quality.describe(rule)})"
        rows = quality.failing_rows(cursor, table, rule, fresh)
        rows.project(f"{listed}, {text_literal(why)}").insert_into(found)
    cursor.execute(f"delete from {fresh} where ({listed}) in (select ({listed}) from {found})")
    told = cursor.execute(f"from {found} order by rowid desc").fetchall()
    return {row[:-1]: row[-1] for row in told}  # the first rule that a row breaks is told last


def leave_out_past(
    cursor: DuckDBPyConnection, table: Table, windows: Mapping[str, int], now: datetime, fresh: str
) -> dict[str, int]:
    """Take rows of windows that are past the table's retention out of `fresh`; returns the other `windows`.

    Raw has them, and what the batch makes of them; PostgreSQL would show them until its next run.
    """
    past = [window for window in windows if table.is_past_retention(window, now)]
    if past:
        assert table.partition is not None
        key = partition_expression(table.partition)
        cursor.execute(f"delete from {fresh} where list_contains(?, {key})", [past])
    return {window: count for window, count in windows.items() if window not in past}
