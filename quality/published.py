"""`check`: the rules held against what is published, through Great Expectations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg

from quality import session_settings
from quality.alive import kept_alive
from quality.expectations import APPLICATION, validate
from quality.results import CheckResult, QualityError
from quality.rulebook import rules
from quality.sql import literal, quote
from transforms import registry
from transforms.contract import Layer, Rule, RuleKind, Table

SCHEMA = "analytics"


def check_published(
    dsn: str,
    tables: Iterable[Table],
    now: datetime,
    held_to: Callable[[Table], Sequence[Rule]] = rules,
    kinds: Collection[RuleKind] | None = None,
) -> list[CheckResult]:
    """Hold every published table of `tables` to its rules, one result for each rule.

    `now` is the clock's time: content that a failed check has held back is late by it. `held_to` gives the
    rules of a table, those of every run unless told otherwise; `kinds` keeps only rules of these kinds (a
    run ends with timeliness alone: the others were held against the content before). A table that should be
    there and is not fails the rule `is_published`. Raises QualityError when nothing is published at all or a
    rule can't be run, psycopg.OperationalError when the warehouse can't be reached or stops meanwhile.
    """
    asked = [table for table in tables if table.is_published]
    there = _existing(dsn, asked)
    if not there:
        raise QualityError(
            f"Nothing is published in schema {SCHEMA} yet: run `python -m flows` first, then check."
        )
    references = {"arrivals": f"({published_arrivals(now, asked)})"}
    results: list[CheckResult] = []
    for table in asked:
        if table.name not in there:
            results.append(_missing(table))
            continue
        chosen = [rule for rule in held_to(table) if kinds is None or rule.kind in kinds]
        if chosen:
            relation = f"{quote(SCHEMA)}.{quote(table.name)}"
            results.extend(validate(dsn, table, chosen, [relation], references))
    return results


def published_arrivals(now: datetime, tables: Iterable[Table]) -> str:
    """The select behind the relation `arrivals` in the warehouse: when what is published landed and was
    published.

    One row for each partition whose newest publish belongs to a run that landed data for it: from that
    run's first landing to the publish. (A backfill or a rebuild publishes what landed long ago, and is not
    late.) One row for each publish that somebody's lock holds back since a moment, and one for each table
    whose new content the gate has refused since a moment: both are published at the earliest now.

    Each row compares times of one clock: the database's, or for refused content the clock of `now`.
    """
    catalog = registry.tables()
    fed = [
        f"({literal(table.name)}, {literal(raw)})"
        for table in tables
        for raw in raw_ancestors(table, catalog)
    ]
    listed = ", ".join(fed) or "('', '')"
    return f"""
with fed(table_name, raw_name) as (values {listed}),
publishes as (
    select distinct on (table_name, partition) table_name, partition, run_id, committed_at
    from ops.ledger
    where kind = 'publish' and run_id <> ''
    order by table_name, partition, sequence desc
),
gates as (
    select table_name, run_id, checked_at,
        bool_and(passed or severity <> 'critical' or kind = 'timeliness') as is_open
    from ops.check_result
    where engine = 'duckdb'
    group by table_name, run_id, checked_at
)
select publishes.table_name, publishes.partition, min(landings.committed_at) as landed_at,
    publishes.committed_at as published_at
from publishes
join fed on fed.table_name = publishes.table_name
join ops.ledger as landings
    on landings.table_name = fed.raw_name and landings.run_id = publishes.run_id and landings.kind = 'land'
    and landings.committed_at <= publishes.committed_at
group by publishes.table_name, publishes.partition, publishes.committed_at
union all
select table_name, partition, since, clock_timestamp() from ops.pending_publish
union all
select gates.table_name, '', min(gates.checked_at), {literal(now)}
from gates
where not gates.is_open and gates.checked_at > coalesce(
    (select max(earlier.checked_at) from gates as earlier where earlier.table_name = gates.table_name and earlier.is_open),
    '-infinity')
group by gates.table_name
""".strip()  # noqa: E501 - one select, read as one


def raw_ancestors(table: Table, catalog: Mapping[str, Table]) -> list[str]:
    """The raw tables that `table` is made of, directly or through others."""
    seen: set[str] = set()
    waiting = list(table.upstreams)
    while waiting:
        name = waiting.pop()
        if name in seen or name not in catalog:
            continue
        seen.add(name)
        waiting.extend(catalog[name].upstreams)
    return sorted(name for name in seen if catalog[name].layer is Layer.RAW)


def _existing(dsn: str, tables: Sequence[Table]) -> set[str]:
    names = [table.name for table in tables]
    with psycopg.connect(kept_alive(dsn, APPLICATION)) as connection:
        connection.execute(session_settings.whole().encode())
        found: list[Any] = connection.execute(
            "select relname from pg_class where relnamespace = to_regnamespace(%s) and relname = any(%s)",
            (SCHEMA, names),
        ).fetchall()
    return {name for (name,) in found}


def _missing(table: Table) -> CheckResult:
    return CheckResult(
        table=table.name,
        partition="",
        rule="is_published",
        kind=RuleKind.COMPLETENESS,
        severity="critical",
        engine="great_expectations",
        passed=False,
        failing_rows=0,
        message=f"{table.name}: it is not in schema {SCHEMA}; run `python -m flows --select {table.name}`.",
    )
