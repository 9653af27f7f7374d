"""Every rule of a table: those of its header, those its header implies, and the files in quality/rules/.

A file is named `<table>__<claim>.sql`. Its front-matter comment says what SQL can't; its body is one select
of the rows that break the claim, in SQL that DuckDB and PostgreSQL both run, with bare table names:

    /* ---
    kind: accuracy
    severity: critical          # or warning, info
    description: What holds, and why it matters.
    schedule: run               # or daily: not with every run
    --- */
    select …

A daily rule is asked by `check --all-history`, and each night by the deployment `check-history` if its body
reads the table alone: what compares tables holds between two runs, and while no stream writes.

A body may also read `control_total` (entity, day, group_value, row_count, amount: what the source itself
counted in the snapshot that was landed) and `arrivals` (table_name, partition, landed_at, published_at).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml
from sqlglot.errors import SqlglotError

from quality.results import QualityError
from quality.sql import columns_of, requires, tables_in, timeliness_query
from transforms.contract import Rule, RuleKind, Severity, Table, Write
from transforms.model import TextLoader
from transforms.relations import close

RULES = Path(__file__).parent / "rules"
PUBLISHED_WITHIN = timedelta(hours=1)
"""How soon after it landed or was due data is published, where a header says nothing about freshness."""

_FRONT_MATTER = re.compile(r"\A\s*/\*\s*---\s*\n(?P<words>.*?)\n\s*---\s*\*/\s*", re.DOTALL)
_WORDS = {"kind", "severity", "description", "schedule", "row_level"}
_BESIDE = {"control_total", "arrivals"}
"""What a body may read beside tables."""


def rules(table: Table) -> tuple[Rule, ...]:
    """The rules that every run holds `table` to. Raises QualityError for a rule file in another form."""
    return tuple(rule for rule in all_rules(table) if rule.arguments.get("schedule", "run") == "run")


def scheduled_rules(table: Table) -> tuple[Rule, ...]:
    """The rules that are too dear for every run, such as uniqueness over all history."""
    return tuple(rule for rule in all_rules(table) if rule.arguments.get("schedule", "run") != "run")


def all_rules(table: Table) -> tuple[Rule, ...]:
    """Header rules, implied rules and rule files, each claim once; a header's word on a claim wins."""
    found: dict[tuple[object, ...], Rule] = {}
    names: dict[str, Rule] = {}
    for rule in (*table.expect, *_implied(table), *_filed(table)):
        claim = _claim(rule)
        if claim in found:
            continue
        if rule.name in names:
            raise QualityError(f"{table.name}: two rules are named {rule.name}; give one another name.")
        found[claim] = names[rule.name] = _within_lookback(rule, table)
    return tuple(found.values())


def _claim(rule: Rule) -> tuple[object, ...]:
    """What tells two rules apart: the same not_null in the header and in the key is one claim."""
    if rule.check == "not_null":
        return ("not_null", rule.arguments["column"])
    if rule.check == "unique":
        columns = rule.arguments["columns"]
        return ("unique", *sorted(columns if isinstance(columns, list | tuple) else [str(columns)]))
    if rule.check == "references":
        return ("references", rule.arguments["column"], rule.arguments["table"])
    return (rule.check, rule.name)


def _implied(table: Table) -> list[Rule]:
    implied = [
        Rule(f"not_null_{name}", "not_null", RuleKind.COMPLETENESS, {"column": name})
        for name in dict.fromkeys(
            [*table.key, *(column.name for column in table.columns if not column.nullable)]
        )
    ]
    if table.key and not any(_is_within_key(rule, table) for rule in table.expect):
        implied.append(
            Rule(
                "unique_" + "_".join(table.key),
                "unique",
                RuleKind.UNIQUENESS,
                {"columns": list(table.key)},
                row_level=False,
            )
        )
    for column, target in table.foreign_keys.items():
        name, _, to = target.partition(".")
        arguments = {"column": column, "table": name, "to": to or column}
        implied.append(Rule(f"references_{column}", "references", RuleKind.CONSISTENCY, arguments))
    if table.is_published:
        within = table.freshness or PUBLISHED_WITHIN
        implied.append(
            Rule(
                "published_in_time",
                "sql",
                RuleKind.TIMELINESS,
                {
                    "query": timeliness_query(table.name, within),
                    "description": f"published at most {_spoken(within)} after the data landed or was due",
                },
                row_level=False,
            )
        )
    return implied


def _within_lookback(rule: Rule, table: Table) -> Rule:
    """A build looks for copies of an appended key within the lookback. Those further apart both stand, and
    windows that are checked together may hold them: no run could ever make that good.
    """
    by = table.partition.by if table.partition else ""
    if rule.check != "unique" or table.write is not Write.APPEND or not table.lookback:
        return rule
    if not by or by in columns_of(rule):
        return rule
    return replace(rule, arguments={**rule.arguments, "within_days": table.lookback.days, "by": by})


def _is_within_key(rule: Rule, table: Table) -> bool:
    """Whether a header's unique rule already says that the key is unique: some of its columns alone are."""
    return rule.check == "unique" and set(columns_of(rule)) <= set(table.key)


def _spoken(span: timedelta) -> str:
    hours, rest = divmod(int(span.total_seconds()), 3600)
    parts = [f"{hours} h"] if hours else []
    if rest:
        parts.append(f"{rest // 60} min")
    return " ".join(parts) or "at once"


def _filed(table: Table) -> list[Rule]:
    return [rule for name, rule in _files() if name == table.name]


@cache
def _files() -> tuple[tuple[str, Rule], ...]:
    return tuple(read_rule(path) for path in sorted(RULES.glob("*.sql")))


def hold_to_form(tables: Collection[str], models: Collection[str]) -> None:
    """Raise QualityError for a rule file in another form, of a table that no model makes (no run would ever
    ask it) or that reads what is no table (no database could be asked it).
    """
    for name, rule in _files():
        where = rule.arguments["path"]
        if name not in models:
            raise QualityError(
                f"{where}: there is no model {name}, so no run would ask it.{close(name, models)} "
                "Name the file after the table that it is a rule of, or take it away."
            )
        for read in requires([rule], name):
            if read not in tables and read not in _BESIDE:
                raise QualityError(
                    f"{where}: it reads {read}, which is no table.{close(read, tables)} "
                    "Correct the name, or take the file away."
                )


def read_rule(path: Path) -> tuple[str, Rule]:
    """The table and the rule of one file. Raises QualityError when it is in another form."""
    where = f"quality/rules/{path.name}"
    table, separator, claim = path.stem.partition("__")
    if not separator or not table or not claim:
        raise QualityError(f"{where}: its name must be <table>__<claim>.sql.")
    text = path.read_text(encoding="utf-8")
    front = _FRONT_MATTER.match(text)
    if not front:
        raise QualityError(f"{where}: it must begin with /* --- kind: … description: … --- */.")
    words = _words(front["words"], where)
    query = text[front.end() :].strip()
    try:
        tables = tables_in(query.rstrip(";"))
    except SqlglotError as error:
        problem = str(error).splitlines()[0]
        raise QualityError(f"{where}: its body is no single select ({problem}).") from error
    if table not in tables:
        raise QualityError(f"{where}: it never reads {table}, the table it is a rule of.")
    arguments = {
        "query": query,
        "path": where,
        "description": words["description"],
        "schedule": words.get("schedule", "run"),
    }
    severity: Severity = words.get("severity", "critical")
    return table, Rule(
        claim, "sql", RuleKind(words["kind"]), arguments, severity, bool(words.get("row_level", False))
    )


def _words(text: str, where: str) -> dict[str, Any]:
    try:
        words = yaml.load(text, Loader=TextLoader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", error)
        raise QualityError(f"{where}: its front matter is no YAML: {problem}.") from None
    if not isinstance(words, dict) or not {"kind", "description"} <= set(words) or set(words) - _WORDS:
        raise QualityError(
            f"{where}: its front matter must have kind and description; beside them there are severity, "
            "schedule and row_level."
        )
    allowed = {
        "kind": [kind.value for kind in RuleKind],
        "severity": list(get_args(Severity)),
        "schedule": ["run", "daily"],
    }
    for word, values in allowed.items():
        if word in words and words[word] not in values:
            raise QualityError(f"{where}: {word} '{words[word]}' is none of {', '.join(values)}.")
    return words


def describe(rule: Rule) -> str:
    """What the rule claims, as the end of a sentence: `revenue is between 0 and 100`."""
    given = rule.arguments
    column = given.get("column")
    if rule.check == "not_null":
        return f"{column} is never null"
    if rule.check == "unique":
        columns = given["columns"]
        names = columns if isinstance(columns, list | tuple) else [columns]
        within = f" within {given['within_days']} days" if "within_days" in given else ""
        return f"({', '.join(map(str, names))}) is unique{within}"
    if rule.check == "between":
        low, high = given.get("min"), given.get("max")
        if high is None:
            return f"{column} is at least {low}"
        return f"{column} is at most {high}" if low is None else f"{column} is between {low} and {high}"
    if rule.check == "accepted_values":
        return f"{column} is one of the accepted values"
    if rule.check == "references":
        return f"{column} exists in {given['table']}.{given.get('to') or column}"
    if rule.check == "matches":
        return f"{column} matches {given['pattern']}"
    return str(given.get("description") or rule.name.replace("_", " ")).rstrip(".")


def written_in(rule: Rule, table: Table) -> str:
    """The file that states the rule, relative to the project."""
    if "path" in rule.arguments:
        return str(rule.arguments["path"])
    return f"transforms/{table.layer.value}/{table.path.name if table.path else table.name + '.sql'}"
