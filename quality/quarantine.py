"""What is kept of content that failed: the rows that broke a rule, with the rule and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from quality.gate import NO_REFERENCES, failing_rows
from quality.results import CheckResult
from quality.rulebook import describe
from quality.sql import literal, quote
from transforms.contract import Rule, Table


def quarantine(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    rules: Sequence[Rule],
    results: Sequence[CheckResult],
    relation_name: str,
    references: Mapping[str, str] = NO_REFERENCES,
    partitions: Sequence[str] | None = None,
) -> duckdb.DuckDBPyRelation:
    """The rows of the content that break any failed rule: its columns, then `_rule` and `_reason`.

    A row that breaks two rules is there twice. A sql rule may select other columns than the table's; of its
    rows the columns that the table has are kept, the rest is null. Without failures the relation is empty.
    """
    content = connection.sql(f"select * from {relation_name} limit 0").columns
    by_name = {rule.name: rule for rule in rules}
    parts = [
        f"select *, cast('' as varchar) as _rule, cast('' as varchar) as _reason from {relation_name} limit 0"
    ]
    for result in results:
        rule = by_name.get(result.rule)
        if result.passed or rule is None:
            continue
        broken = failing_rows(connection, table, rule, relation_name, references, partitions)
        kept = [quote(name) for name in broken.columns if name in content]
        columns = "".join(f"{name}, " for name in kept)
        parts.append(
            f"select {columns}{literal(rule.name)} as _rule, {literal(describe(rule))} as _reason "
            f"from ({broken.sql_query()}) as broken"
        )
    return connection.sql(" union all by name ".join(f"({part})" for part in parts))
