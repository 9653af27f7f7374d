"""What a build is held to: the gate before a load, Great Expectations over what was loaded and published."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection
from psycopg import Connection
from psycopg.types.json import Jsonb

import quality
from flows.errors import FlowsError
from flows.planner import WHOLE
from flows.services import Services
from flows.stores.apply import hot_partitions, leaves
from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from flows.stores.upkeep import analyze
from flows.stores.warehouse_errors import readable_errors
from quality import CheckResult
from quality.expectations import validate
from quality.published import published_arrivals
from transforms import engine, registry
from transforms.contract import Rule, RuleKind, Table
from transforms.engine import quoted
from warehouse_ddl.statements import home


class CheckFailed(FlowsError):
    """Content broke a critical rule, so it was not published; what was published stays as it was.

    `results` are of the rules that it broke.
    """

    exit_code = 1

    def __init__(self, message: str, results: Sequence[CheckResult]) -> None:
        super().__init__(message)
        self.results = tuple(results)


def gate_rules(table: Table) -> list[Rule]:
    """The rules that content can be held to before it is published: all but how timely it will be."""
    return [rule for rule in quality.rules(table) if rule.kind is not RuleKind.TIMELINESS]


def needs(table: Table) -> set[str]:
    """What has to be there before a table is built: what it reads, and what its rules compare it with."""
    return {*table.upstreams, *quality.requires(gate_rules(table), table.name)} - {table.name}


@dataclass(frozen=True)
class Judged:
    """What a build is held to its rules with; both are what may stand after FROM in its DuckDB.

    `standing` is what already is in the same partitions and stays (an append): it was held to the row-level
    rules when it came, but what is said of a set, uniqueness say, is of both together. `alone`: rules of sets
    that the new rows answer.
    """

    fresh: str
    standing: str | None = None
    alone: Collection[str] = ()

    def of_both(self, rule: Rule) -> bool:
        """Whether a rule is held to the new rows and to what stands beside them."""
        return self.standing is not None and not rule.row_level and rule.name not in self.alone

    def relation(self, rule: Rule) -> str:
        """The rows that a rule is held to."""
        if not self.of_both(rule):
            return self.fresh
        return f"(select * from {self.fresh} union all by name select * from {self.standing})"


def hold(
    connection: DuckDBPyConnection,
    table: Table,
    judged: Judged,
    *,
    references: Mapping[str, str],
    partitions: Sequence[str],
) -> list[CheckResult]:
    """Every rule over the new content; one result a rule."""
    rules = gate_rules(table)
    windows = complete_windows(partitions)
    results: list[CheckResult] = []
    for is_of_both in (False, True):
        those = [rule for rule in rules if judged.of_both(rule) is is_of_both]
        if those:
            relation = judged.relation(those[0])
            results += quality.check(connection, table, those, relation, references, windows)
    return results


def has_totals(connection: Connection[Any]) -> bool:
    """Whether any source has counted and summed what it gave."""
    return bool(connection.execute("select 1 from ops.control_total limit 1").fetchall())


def control_totals(connection: Connection[Any]) -> str:
    """The relation `control_total` as what follows FROM in DuckDB: what the source counted last."""
    rows = connection.execute(quality.CONTROL_TOTALS.encode()).fetchall()
    shape = "::varchar as entity, {}::date as day, {}::varchar as group_value, {}::bigint as row_count, {}"
    shape = "{}" + shape + "::decimal(38, 2) as amount"
    if not rows:
        return f"(select {shape.format('null', 'null', 'null', 'null', 'null')} where false)"
    values = ", ".join(
        f"({engine.text_literal(str(entity))}, '{day}', {engine.text_literal(str(group))}, {count}, {amount})"
        for entity, day, group, count, amount in rows
    )
    return f"(select {shape.format(*'abcde')} from (values {values}) as totals(a, b, c, d, e))"


def complete_windows(partitions: Sequence[str]) -> list[str] | None:
    """The windows that content is complete for; None where it has none."""
    return None if list(partitions) == [WHOLE] else list(partitions)


def record(connection: Connection[Any], run_id: str, results: Sequence[CheckResult], at: datetime) -> None:
    """Write results to ops.check_result, in the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into ops.check_result (run_id, table_name, partition, rule, kind, severity, engine, "
            "passed, failing_rows, observed, checked_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    run_id,
                    result.table,
                    result.partition,
                    result.rule,
                    result.kind.value,
                    result.severity,
                    result.engine,
                    result.passed,
                    result.failing_rows,
                    Jsonb(dict(result.observed)),
                    at,
                )
                for result in results
            ],
        )


def audit(services: Services, table: Table, schema: str, names: Mapping[str, str]) -> list[CheckResult]:
    """Great Expectations over tables that stand in `schema` and nobody sees yet, all of them together.

    `names` is partition → table; the partitions of a merged table stand in one. Rules that look at the whole
    table or at other tables that change with it were the gate's; here every rule runs again, on what
    PostgreSQL really holds.
    """
    return validate(
        services.settings.require("warehouse_dsn"),
        table,
        gate_rules(table),
        loaded(schema, names),
        partitions=complete_windows(sorted(names)),
    )


def loaded(schema: str, names: Mapping[str, str]) -> list[str]:
    """The tables that stand in `schema`, each once, quoted; `names` is partition → table."""
    return [f"{schema}.{quoted(name)}" for name in sorted(set(names.values()))]


def check_published(
    services: Services, table: Table, partitions: Sequence[str], run_id: str
) -> list[CheckResult]:
    """Great Expectations over the partitions that a run has published, as readers see them; recorded.

    The planner's statistics come first: what was filled a moment ago has none. Leaves are named one by one:
    planning a query over the parent would take longer with every day there is.
    """
    now = services.settings.now()
    analyze(services.warehouse, [table])
    there: dict[str, str] = {}
    if table.is_partitioned_in_postgres:
        with services.warehouse.connect() as connection:
            found = leaves(connection, table)
        there = {window: leaf for window in partitions if (leaf := table.leaf(window)) in found}
    comparing = [rule for rule in quality.rules(table) if there and reads_others(table, rule)]
    alone = [rule for rule in quality.rules(table) if rule not in comparing]
    results = _as_read(services, table, alone, partitions, sorted(there.values()), now)
    results += _compared(services, table, comparing, there, now)
    with services.warehouse.connect() as connection, connection.transaction():
        record(connection, run_id, results, now)
    return results


def _compared(
    services: Services, table: Table, rules: Sequence[Rule], there: Mapping[str, str], now: datetime
) -> list[CheckResult]:
    """The rules that compare a table with others, over its leaves that are the batch's alone.

    In a hot one are rows whose users, say, no build knows yet. What was built of it was held to these rules
    by the gate, and that it shows this and nothing else is what stream and batch are compared for.
    """

    def calm() -> dict[str, str]:
        with services.warehouse.connect() as connection:
            hot = hot_partitions(connection, table.name)
        return {window: leaf for window, leaf in there.items() if window not in hot}

    held = calm() if rules else {}
    while held:
        results = _as_read(services, table, rules, list(held), sorted(held.values()), now)
        # The stream may have reached one meanwhile.
        left = {window: leaf for window, leaf in calm().items() if window in held}
        if left == held:
            return results
        held = left
    return []


def reads_others(table: Table, rule: Rule) -> bool:
    """Whether a rule holds a table against others."""
    return not registry.tables().keys().isdisjoint(quality.requires([rule], table.name))


def _as_read(
    services: Services,
    table: Table,
    rules: Sequence[Rule],
    partitions: Sequence[str],
    found: Sequence[str],
    now: datetime,
) -> list[CheckResult]:
    """Rules over these partitions where people read them; `found` are the leaves, none where it has none."""
    is_whole = table.partition is None
    with readable_errors(table.name):
        return validate(
            services.settings.require("warehouse_dsn"),
            table,
            rules,
            [f'{home(table)}."{name}"' for name in found or [table.name]],
            {"arrivals": f"({published_arrivals(now, [table])})"},
            partitions=None if is_whole else sorted(set(partitions)),
            # A leaf's bounds say the same, and without a condition PostgreSQL reads several by their indexes,
            # in order: a condition keeps it from looking into them.
            only_partitions=not is_whole and not found,
        )


def refuse(table: Table, failed: Sequence[CheckResult], file: Path) -> CheckFailed:
    """The one line that a failed check prints: which rule, how many rows, where to look."""
    worst = failed[0]
    more = f" ({len(failed) - 1} more rules failed)" if len(failed) > 1 else ""
    return CheckFailed(
        f"{table.name}: rule {worst.rule} failed for {worst.failing_rows:,} rows{more}; "
        f"what is published stays as it was. The failing rows are in {file}. {worst.message}".rstrip(),
        failed,
    )


def reference_relation(lake: Lake, files: Sequence[LakeFile], table: Table) -> str:
    """The current content of another table, as what follows FROM in DuckDB; no rows where it has no file."""
    if not files:
        fields = ", ".join(f"null::{column.type} as {quoted(column.name)}" for column in table.columns)
        return f"(select {fields} where false)"
    return lake.scan(files)
