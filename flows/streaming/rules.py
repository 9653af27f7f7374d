"""A published table's rules over a micro-batch: those that judge a row by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duckdb import DuckDBPyConnection

import quality
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
) -> Mapping[tuple[Any, ...], str]:
    """Take the rows that break a rule out of `fresh`; returns what identifies each (`place`) and why."""
    found: dict[tuple[Any, ...], str] = {}
    if not rules:
        return found
    listed = ", ".join(map(quoted, place))
    broken = [r.rule for r in quality.check(cursor, table, rules, fresh) if r.failing_rows]
    for rule in (rule for rule in rules if rule.name in broken):
        why = f"it breaks the rule {rule.name} of {table.name} ({quality.describe(rule)})"
        rows = quality.failing_rows(cursor, table, rule, fresh)
        for row in rows.project(f"{listed}, {text_literal(why)}").fetchall():
            found.setdefault(row[:-1], row[-1])
    if found:
        holes = ", ".join("?" for _ in place)
        cursor.executemany(f"delete from {fresh} where ({listed}) = ({holes})", [list(key) for key in found])
    return found
