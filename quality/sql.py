"""Rules as SQL.

Both engines get the same predicates: what is written here runs in DuckDB and in PostgreSQL alike, and means
the same in both. A null satisfies every form but not_null, as in a CHECK constraint; NaN lies between
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Literal

import sqlglot
from sqlglot import exp

from quality.results import QualityError
from transforms.contract import Rule, Table

Dialect = Literal["duckdb", "postgres"]

CONTENT = "content"
"""The name under which predicates see the rows that are judged."""

_UNPORTABLE = re.compile(
    r"(?<!\\)(?:\\\\)*(\\[bByYmMAZzpPQECdDwWsS]|\(\?[=!<iPmsU-]|\[[^\]]*(\[[:=.]\w+[:=.]\]))"
)
"""What RE2 (DuckDB) and PostgreSQL read differently in a regular expression, or one of them not at all."""


def quote(name: str) -> str:
    """`name` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """A YAML or Python value as an SQL literal. Raises QualityError for what SQL can't spell."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return f"timestamptz '{moment.astimezone(UTC).isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"date '{value.isoformat()}'"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal) and Decimal(str(value)).is_finite():
        # The text of a float is the shortest that reads back as it: 0.01 stays exactly 0.01 beside a decimal.
        return format(Decimal(str(value)), "f")
    if isinstance(value, str) and "\0" not in value:
        return "'" + value.replace("'", "''") + "'"
    raise QualityError(f"{value!r} can't stand in a rule; write a number, a date, a text or true/false.")


def is_float(table: Table, column: str) -> bool:
    """Whether the column holds binary floating point numbers, the only ones that can be NaN."""
    return bool(re.match(r"(?i)\s*(float|double|real)", table.column(column).type))


def is_text(table: Table, column: str) -> bool:
    """Whether the column holds text in both engines."""
    return bool(re.match(r"(?i)\s*(varchar|text|string|char|bpchar)\b(?!.*\[)", table.column(column).type))


def columns_of(rule: Rule) -> tuple[str, ...]:
    """The columns a header rule speaks about."""
    names = rule.arguments.get("columns") or rule.arguments["column"]
    return (names,) if isinstance(names, str) else tuple(map(str, _sequence(names)))


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def predicate(rule: Rule, table: Table, dialect: Dialect, references: Mapping[str, str]) -> str:
    """The condition that holds for the rows of `content` that break a row-level rule; never null.

    `references` gives, for a referenced table, what stands after FROM instead of its bare name.
    Raises QualityError when the rule is of no row-level form.
    """
    column = columns_of(rule)[0]
    name = f"{CONTENT}.{quote(column)}"
    if rule.check == "not_null":
        return f"{name} is null"
    if rule.check == "between":
        parts = []
        if rule.arguments.get("min") is not None:
            parts.append(f"{name} < {literal(rule.arguments['min'])}")
        if rule.arguments.get("max") is not None:
            parts.append(f"{name} > {literal(rule.arguments['max'])}")
        if is_float(table, column):
            parts.append(f"{name} = 'NaN'")
        return f"({name} is not null and ({' or '.join(parts)}))"
    if rule.check == "accepted_values":
        accepted = ", ".join(literal(value) for value in _sequence(rule.arguments["values"]))
        return f"({name} is not null and {name} not in ({accepted}))" if accepted else f"{name} is not null"
    if rule.check == "matches":
        pattern = literal(portable_pattern(rule, table))
        text = name if is_text(table, column) else f"cast({name} as varchar)"
        # 's' lets a dot match a line break, as it does in PostgreSQL.
        found = f"regexp_matches({text}, {pattern}, 's')" if dialect == "duckdb" else f"{text} ~ {pattern}"
        return f"({name} is not null and not {found})"
    if rule.check == "references":
        target = str(rule.arguments["table"])
        to = quote(str(rule.arguments.get("to") or column))
        source = references.get(target, quote(target))
        return (
            f"({name} is not null and not exists "
            f"(select 1 from {source} as referenced where referenced.{to} = {name}))"
        )
    raise QualityError(f"{table.name}: rule {rule.name} ({rule.check}) does not judge single rows.")


def portable_pattern(rule: Rule, table: Table) -> str:
    """The pattern of a matches rule. Raises QualityError where the two engines would read it differently."""
    pattern = str(rule.arguments["pattern"])
    found = _UNPORTABLE.search(pattern)
    if found:
        raise QualityError(
            f"{table.name}: rule {rule.name} uses {found[2] or found[1]} in its pattern, which DuckDB and "
            "PostgreSQL read differently; write it with literals, [classes] like [0-9], groups, anchors and "
            "quantifiers."
        )
    return pattern


def duplicates(rule: Rule, table: Table) -> str:
    """What `_told_by` has of the rows of `content` that break a unique rule, with the number of `copies`;
    nulls differ.
    """
    names = ", ".join(quote(name) for name in columns_of(rule))
    complete = " and ".join(f"{quote(name)} is not null" for name in columns_of(rule))
    twice = (
        f"select {names}, count(*) as copies from {CONTENT} "
        f"where {complete} group by {names} having count(*) > 1"
    )
    if "by" not in rule.arguments:
        return twice
    by, days = str(rule.arguments["by"]), rule.arguments["within_days"]
    zone = " at time zone 'UTC'" if table.column(by).type == "TIMESTAMP WITH TIME ZONE" else ""
    day = f"cast({quote(by)}{zone} as date)"
    return (
        f"select {names}, {quote(by)}, count(*) as copies from (select {names}, {quote(by)}, "
        f"{day} - lag({day}) over beside as since, lead({day}) over beside - {day} as until "
        f"from {CONTENT} where ({names}) in (select {names} from ({twice}) as twice) "
        f"window beside as (partition by {names} order by {quote(by)})) as copied "
        f"where since <= {days} or until <= {days} group by {names}, {quote(by)}"
    )


def _told_by(rule: Rule) -> tuple[str, ...]:
    """The columns that tell which rows break a unique rule: of those far apart none does."""
    return (*columns_of(rule), *([str(rule.arguments["by"])] if "by" in rule.arguments else []))


def broken_rows(rule: Rule, table: Table, dialect: Dialect, references: Mapping[str, str]) -> str:
    """A select of the rows of `content` that break a rule; a sql rule selects columns of its own."""
    if rule.check == "sql":
        return query_of(rule)
    if rule.check == "unique":
        names = ", ".join(quote(name) for name in _told_by(rule))
        twice = f"select {names} from ({duplicates(rule, table)}) as twice"
        return f"select {CONTENT}.* from {CONTENT} where ({names}) in ({twice})"
    return f"select {CONTENT}.* from {CONTENT} where {predicate(rule, table, dialect, references)}"


def query_of(rule: Rule) -> str:
    """The select of a sql rule, without the semicolon it may end in."""
    return str(rule.arguments["query"]).strip().rstrip(";").rstrip()


@lru_cache(maxsize=1024)
def tables_in(query: str) -> tuple[str, ...]:
    """The tables a query reads by bare name, in the order of their names."""
    tree = sqlglot.parse_one(query, read="postgres")
    local = {cte.alias for cte in tree.find_all(exp.CTE)}
    return tuple(sorted({found.name for found in tree.find_all(exp.Table) if not found.db} - local - {""}))


def requires(rules: Iterable[Rule], table: str) -> tuple[str, ...]:
    """The other relations that the rules of `table` read: what a caller has to supply beside the content."""
    names: set[str] = set()
    for rule in rules:
        if rule.check == "references":
            names.add(str(rule.arguments["table"]))
        elif rule.check == "sql":
            names.update(tables_in(query_of(rule)))
    return tuple(sorted(names - {table}))


def bind(query: str, relations: Mapping[str, str]) -> str:
    """`query` with each name of `relations` standing for a table or (a select): what may follow FROM."""
    wanted = [
        name
        for name, relation in sorted(relations.items())
        if relation != quote(name) and re.search(rf"\b{re.escape(name)}\b", query)
    ]
    if not wanted:
        return query
    parts = [
        f"{quote(name)} as not materialized (select {quote(name)}.* from {relations[name]} as {quote(name)})"
        for name in wanted
    ]
    return f"with {', '.join(parts)}\nselect bound.* from (\n{query}\n) as bound"


def within(column: str, table: Table, partitions: Sequence[str], as_date: bool = False) -> str:
    """The condition that `column` lies in these windows of `table`; neighbouring windows become one range."""
    if table.partition is None:
        return "true"
    ranges: list[tuple[datetime, datetime]] = []
    for start, end in sorted(table.partition.bounds(key) for key in partitions):
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    if not ranges:
        return "false"

    def bound(moment: datetime) -> str:
        return literal(moment.date() if as_date else moment)

    return (
        "("
        + " or ".join(f"({column} >= {bound(start)} and {column} < {bound(end)})" for start, end in ranges)
        + ")"
    )


CONTROL_TOTALS = "select entity, day, group_value, row_count, amount from ops.control_total"
"""The relation `control_total` in PostgreSQL: what the source counted by day and group; of its last read."""


def arrivals(rows: Iterable[tuple[str, str, datetime, datetime]]) -> str:
    """The relation `arrivals` (table_name, partition, landed_at, published_at), as what may follow FROM.

    One row for each partition that is about to be published (published_at = the clock now) or is published.
    Timeliness rules read it.
    """
    given = [
        f"({literal(table)}, {literal(partition)}, {literal(landed)}, {literal(published)})"
        for table, partition, landed, published in rows
    ]
    empty = "('', '', cast(null as timestamptz), cast(null as timestamptz))"
    names = "(table_name, partition, landed_at, published_at)"
    chosen = f"select * from (values {', '.join(given or [empty])}) as given{names}"
    return f"({chosen})" if given else f"({chosen} where false)"


def timeliness_query(table: str, allowed: timedelta) -> str:
    """The partitions of `table` that were published later than `allowed` after their data had landed."""
    return (
        "select table_name, partition, landed_at, published_at from arrivals "
        f"where table_name = {literal(table)} "
        f"and published_at - landed_at > interval '{int(allowed.total_seconds())} seconds'"
    )


def rows_of(table: Table, relations: Sequence[str], partitions: Sequence[str] | None = None) -> str:
    """The select, in PostgreSQL, of the rows of `relations` together; of these `partitions` alone if given.

    Raises QualityError where there is no relation.
    """
    names = ", ".join(quote(column.name) for column in table.columns) or "*"
    where = ""
    if partitions is not None and table.partition is not None:
        where = f" where {within(quote(table.partition.by), table, partitions)}"
    parts = [f"select {names} from {relation}{where}" for relation in relations]
    if not parts:
        raise QualityError(f"{table.name}: there is nothing to check; give the tables that hold its content.")
    return " union all ".join(parts)


def bindings(table: Table, references: Mapping[str, str], partitions: Sequence[str] | None) -> dict[str, str]:
    """`references` with the control totals, which are of the windows that content is complete for."""
    bound = {"control_total": f"({CONTROL_TOTALS})", **references}
    if partitions is not None and table.partition is not None:
        days = within("day", table, partitions, as_date=True)
        bound["control_total"] = f"(select * from {bound['control_total']} as totals where {days})"
    return bound


def breaking_query(
    rule: Rule,
    table: Table,
    relations: Sequence[str],
    references: Mapping[str, str],
    partitions: Sequence[str] | None = None,
) -> str:
    """The select, in PostgreSQL, of the rows of `relations` together that break a rule: those that
    `quality.expectations.validate` counts, with the same arguments. A sql rule selects columns of its own.
    """
    bound = bindings(table, references, partitions)
    content = rows_of(table, relations)
    if rule.check == "sql":
        return bind(query_of(rule), {**bound, table.name: f"({content})"})
    return f"with {CONTENT} as ({content}) {broken_rows(rule, table, 'postgres', bound)}"
