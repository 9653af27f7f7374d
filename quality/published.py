"""`check`: the rules held against what is published, through Great Expectations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import psycopg

from quality.expectations import validate
from quality.results import CheckResult, QualityError
from quality.rulebook import rules, scheduled_rules
from quality.sql import literal, quote
from transforms.contract import Rule, RuleKind, Table

SCHEMA = "analytics"


def check_published(
    dsn: str,
    tables: Iterable[Table],
    now: datetime,
    all_history: bool = False,
) -> list[CheckResult]:
    """Hold every published table of `tables` to its rules, one result for each rule.

    `now` is the clock's time: what was built and is still not published counts as late by it. `all_history` adds the
    scheduled rules. A table that should be there and is not fails its own rule, `is_published`. Raises
    QualityError when nothing is published at all or a rule can't be run, psycopg.OperationalError when the
    warehouse can't be reached.
    """
    asked = [table for table in tables if table.is_published]
    there = _existing(dsn, asked)
    if not there:
        raise QualityError(
            f"Nothing is published in schema {SCHEMA} yet: run `python -m flows` first, then check."
        )
    references = {"arrivals": f"({published_arrivals(now)})"}
    results: list[CheckResult] = []
    for table in asked:
        if table.name not in there:
            results.append(_missing(table))
            continue
        chosen: Sequence[Rule] = (*rules(table), *(scheduled_rules(table) if all_history else ()))
        relation = f"{quote(SCHEMA)}.{quote(table.name)}"
        results.extend(validate(dsn, table, chosen, [relation], references))
    return results


def published_arrivals(now: datetime) -> str:
    """The relation `arrivals` of the warehouse: when the data of each partition landed and was published.

    What was built and is not published yet counts as published at `now`; what somebody's lock holds back since the
    moment it was held back, by the database's own clock.
    """
    return f"""
select states.table_name, states.partition, ledger.landed_at,
       coalesce(states.published_at, {literal(now)}) as published_at
from ops.partition_state as states
join ops.ledger on ledger.token = states.token
where ledger.landed_at is not null
union all
select table_name, partition, since, clock_timestamp()
from ops.pending_publish
""".strip()


def _existing(dsn: str, tables: Sequence[Table]) -> set[str]:
    names = [table.name for table in tables]
    with psycopg.connect(dsn, application_name="analytics checks") as connection:
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
        observed={},
        message=f"{table.name}: it is not in schema {SCHEMA}; run `python -m flows --select {table.name}`.",
    )
