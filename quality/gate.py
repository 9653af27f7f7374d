"""The gate: every rule over the whole new content, in DuckDB, before anything is loaded.

All row-level rules, all uniqueness screens and the row count are one aggregate query over one scan; a sql
rule is one query more. Failing rows are looked for only where something failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from quality.messages import finding
from quality.results import CheckResult, QualityError
from quality.rulebook import written_in
from quality.sql import (
    CONTENT,
    bind,
    broken_rows,
    columns_of,
    duplicates,
    is_float,
    predicate,
    query_of,
    quote,
    requires,
    within,
)
from transforms.contract import Rule, Table
from transforms.engine import explain

NO_REFERENCES: Mapping[str, str] = {}


def check(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    rules: Sequence[Rule],
    relation_name: str,
    references: Mapping[str, str] = NO_REFERENCES,
    partitions: Sequence[str] | None = None,
) -> list[CheckResult]:
    """Hold the content of `relation_name` to `rules`; one result for each rule, in their order.

    `relation_name` and the values of `references` are what may stand after FROM in `connection`: a view's
    name or a select in brackets. `references` supplies the relations that `requires(rules, table.name)`
    names, by bare name; one that it lacks is looked for in the connection. `partitions` are the windows the
    content is complete for: control totals of other days are then left out. Raises QualityError for a
    rule that can't be run, duckdb.OperationalError where memory, disk or a file fell short: that may pass.
    """
    relations = _relations(table, references, partitions)
    content = f"{CONTENT} as not materialized (select * from {relation_name})"
    screened = [rule for rule in rules if rule.check != "sql"]
    measures = ["count(*)"] + [_measure(rule, table, relations) for rule in screened]
    try:
        counts = _one(connection, f"with {content} select {', '.join(measures)} from {CONTENT}")
    except duckdb.Error as error:
        raise _culprit(connection, table, screened, measures[1:], content, error) from None
    rows = counts[0]
    failing = dict(zip((rule.name for rule in screened), counts[1:], strict=True))
    together = _together(connection, table, screened, failing, content, relations)
    results = []
    for rule in rules:
        count = failing.get(rule.name, 0)
        if rule.check == "sql":
            query = bind(query_of(rule), {**relations, table.name: relation_name})
            count = _counted(connection, table, rule, query)
        elif rule.check == "unique" and count:
            twice = duplicates(rule, table)
            exact = f"with {content} select coalesce(sum(copies), 0) from ({twice}) as twice"
            count = int(_one(connection, exact)[0])
        spread: dict[str, int] = {}
        if count:
            spread = _spread(connection, table, rule, relation_name, relations)
        result = finding(table, rule, "duckdb", count, rows, partitions, spread)
        if rule.name in together:
            result = replace(result, observed={**result.observed, "broken_rows": together[rule.name]})
        results.append(result)
    return results


def _together(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    rules: Sequence[Rule],
    failing: Mapping[str, int],
    content: str,
    relations: Mapping[str, str],
) -> dict[str, int]:
    """Where rows break several rules that judge a row by itself: each of these rules → rows that break one of
    them at least. A row that breaks two is one row.
    """
    broken = [rule for rule in rules if rule.check != "unique" and failing[rule.name]]
    if len(broken) < 2:
        return {}
    any_of = " or ".join(f"({predicate(rule, table, 'duckdb', relations)})" for rule in broken)
    count = int(_one(connection, f"with {content} select count(*) filter (where {any_of}) from {CONTENT}")[0])
    return {rule.name: count for rule in broken}


def failing_rows(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    rule: Rule,
    relation_name: str,
    references: Mapping[str, str] = NO_REFERENCES,
    partitions: Sequence[str] | None = None,
) -> duckdb.DuckDBPyRelation:
    """The rows that break `rule`: rows of the content, or for a sql rule the rows its select gives. Raises
    like `check`.
    """
    relations = _relations(table, references, partitions)
    try:
        return connection.sql(_failing(table, rule, relation_name, relations))
    except duckdb.Error as error:
        raise _unrunnable(table, rule, error) from None


def _failing(table: Table, rule: Rule, relation_name: str, relations: Mapping[str, str]) -> str:
    if rule.check == "sql":
        return bind(query_of(rule), {**relations, table.name: relation_name})
    content = f"{CONTENT} as not materialized (select * from {relation_name})"
    return f"with {content} {broken_rows(rule, table, 'duckdb', relations)}"


def _relations(
    table: Table, references: Mapping[str, str], partitions: Sequence[str] | None
) -> dict[str, str]:
    relations = dict(references)
    if partitions is not None and table.partition is not None and "control_total" in relations:
        days = within("day", table, partitions, as_date=True)
        relations["control_total"] = f"(select * from {relations['control_total']} where {days})"
    return relations


def _measure(rule: Rule, table: Table, relations: Mapping[str, str]) -> str:
    """An aggregate over `content` that is 0 exactly when the rule holds."""
    if rule.check != "unique":
        return f"count(*) filter (where {predicate(rule, table, 'duckdb', relations)})"
    names = ", ".join(f"{CONTENT}.{quote(name)}" for name in columns_of(rule))
    complete = " and ".join(f"{CONTENT}.{quote(name)} is not null" for name in columns_of(rule))
    # Distinct hashes cost a fifth of distinct keys. Equal keys have equal hashes, so as many hashes as rows
    # prove the rule; anything else is counted exactly afterwards. Not for floats: 0.0 and -0.0 are equal.
    exact = any(is_float(table, name) for name in columns_of(rule))
    key = f"({names})" if exact else f"hash({names})"
    return f"(count(*) filter (where {complete}) - count(distinct {key}) filter (where {complete}))"


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    # fetchall, not fetchone: the connection refuses other work while a result is half read.
    (row,) = connection.execute(query).fetchall()
    return tuple(row)


def _counted(connection: duckdb.DuckDBPyConnection, table: Table, rule: Rule, query: str) -> int:
    try:
        return int(_one(connection, f"select count(*) from (\n{query}\n) as broken")[0])
    except duckdb.Error as error:
        raise _unrunnable(table, rule, error) from None


def _spread(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    rule: Rule,
    relation_name: str,
    relations: Mapping[str, str],
) -> dict[str, int]:
    """How many failing rows stand in which window of the table."""
    if table.partition is None or rule.check == "sql":
        return {}
    form = "%Y-%m-%d" if table.partition.every == "day" else "%Y-%m"
    window = f"coalesce(strftime({quote(table.partition.by)}, '{form}'), 'no {table.partition.by}')"
    query = (
        f"select {window}, count(*) "
        f"from ({_failing(table, rule, relation_name, relations)}) as broken group by 1 order by 1"
    )
    return {str(key): int(count) for key, count in connection.execute(query).fetchall()}


def _culprit(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    rules: Sequence[Rule],
    measures: Sequence[str],
    content: str,
    error: duckdb.Error,
) -> Exception:
    """Which of the rules in one query made it fail; all of them when none does alone, or when it may pass."""
    if isinstance(error, duckdb.OperationalError):
        return _fell_short(f"{table.name}: its rules", error)
    for rule, measure in zip(rules, measures, strict=True):
        try:
            _one(connection, f"with {content} select {measure} from {CONTENT}")
        except duckdb.Error as own:
            return _unrunnable(table, rule, own)
    return QualityError(f"{table.name}: its rules can't be run together in DuckDB: {_problem(error)}")


def _unrunnable(table: Table, rule: Rule, error: duckdb.Error) -> Exception:
    if isinstance(error, duckdb.OperationalError):
        return _fell_short(f"{table.name}: rule {rule.name}", error)
    needs = ", ".join(requires([rule], table.name))
    return QualityError(
        f"{table.name}: rule {rule.name} ({written_in(rule, table)}) can't be run in DuckDB: "
        + _problem(error)
        + (f" It reads {needs}: each must be supplied." if needs else "")
    )


def _fell_short(what: str, error: duckdb.OperationalError) -> duckdb.OperationalError:
    """The same kind of error, for people: no room or no file is no mistake of a rule, and another try may
    find it.
    """
    return type(error)(
        f"{what} could not be checked in DuckDB: {_problem(error).rstrip('.')}. What is published stays as "
        "it was. Where disk or memory fell short, free some or set ANALYTICS_MEMORY_LIMIT; then run again."
    )


def _problem(error: duckdb.Error) -> str:
    """One line; it quotes no value of a row."""
    return explain(error).splitlines()[0]
