"""The `expect` list of a header, read into rules.

    expect:
      - not_null: [user_id, created_at]            # one rule per column
      - unique: [order_id]                         # the columns together
      - between: {column: quantity, min: 1, max: 100}
      - accepted_values: {column: status, values: [paid, shipped]}
      - references: {column: user_id, table: dim_users}        # to: its column, the same name by default
      - matches: {column: email, pattern: '^[^@]+@[^@]+$'}
      - sql: {name: free_only_with_coupon, query: select * from fct_orders where revenue = 0 and coupon_code
      is null}
        severity: warning

`severity`, `kind` and `name` may stand beside the check or inside it. A `sql` rule selects the rows that
break it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from transforms.contract import ContractError, Rule, RuleKind, Severity

_ANSWERS: dict[str, tuple[RuleKind, bool, set[str], set[str]]] = {
    # check: (kind, judges a row by itself, words it must have, words it may have)
    "not_null": (RuleKind.COMPLETENESS, True, {"column"}, set()),
    "unique": (RuleKind.UNIQUENESS, False, {"columns"}, set()),
    "between": (RuleKind.ACCURACY, True, {"column"}, {"min", "max"}),
    "accepted_values": (RuleKind.ACCURACY, True, {"column", "values"}, set()),
    "references": (RuleKind.CONSISTENCY, True, {"column", "table"}, {"to"}),
    "matches": (RuleKind.ACCURACY, True, {"column", "pattern"}, set()),
    "sql": (RuleKind.ACCURACY, False, {"query"}, set()),
}
_EXAMPLES = {
    "not_null": "- not_null: [user_id]",
    "unique": "- unique: [order_id]",
    "between": "- between: {column: amount_minor, min: 0}",
    "accepted_values": "- accepted_values: {column: status, values: [paid, shipped]}",
    "references": "- references: {column: user_id, table: dim_users}",
    "matches": "- matches: {column: currency, pattern: '^[A-Z]{3}$'}",
    "sql": "- sql: {name: free_only_with_coupon, query: select … (the rows that break it)}",
}
_ABOUT = ("severity", "kind", "name")


def read_expectations(value: Any, where: str, line_of: Callable[[str], int | None]) -> tuple[Rule, ...]:
    """The rules of an `expect` list. Raises ContractError with the line and the form to write."""
    if not isinstance(value, list | tuple):
        raise _error(where, line_of("expect"), "expect is no list.", "not_null")
    rules: list[Rule] = []
    for entry in value:
        if isinstance(entry, Rule):
            rules.append(entry)
            continue
        rules.extend(_read_entry(entry, where, line_of))
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            line = line_of(rule.check)
            raise ContractError(
                f"{where}:{line}: two rules are named {rule.name}. Give one of them a `name:` of its own."
            )
        seen.add(rule.name)
    return tuple(rules)


def _read_entry(entry: Any, where: str, line_of: Callable[[str], int | None]) -> list[Rule]:
    checks = [word for word in entry if word not in _ABOUT] if isinstance(entry, Mapping) else []
    if len(checks) != 1 or checks[0] not in _ANSWERS:
        shown = ", ".join(map(str, checks)) or str(entry)
        problem = f"'{shown}' is no expectation; there are {', '.join(_ANSWERS)}."
        raise _error(where, line_of(str(checks[0])) if checks else line_of("expect"), problem, "not_null")
    check = checks[0]
    line = line_of(check)
    about = {word: entry[word] for word in _ABOUT if word in entry}
    rules = []
    for arguments in _arguments(check, entry[check], where, line):
        own = {**about, **{word: arguments.pop(word) for word in _ABOUT if word in arguments}}
        rules.append(_rule(check, arguments, own, where, line))
    return rules


def _arguments(check: str, value: Any, where: str, line: int | None) -> list[dict[str, Any]]:
    """The words of each rule that one entry states, its short forms written out."""
    if check == "not_null" and not isinstance(value, Mapping):
        names = [value] if isinstance(value, str) else value
        return [{"column": name} for name in names]
    if check == "unique" and not isinstance(value, Mapping):
        return [{"columns": [value] if isinstance(value, str) else list(value)}]
    if check == "sql" and isinstance(value, str):
        return [{"query": value}]
    if not isinstance(value, Mapping):
        raise _error(where, line, f"{check} needs more than '{value}'.", check)
    arguments = dict(value)
    if check == "not_null" and "columns" in arguments:
        names = arguments.pop("columns")
        return [{**arguments, "column": name} for name in names]
    if check == "unique" and "column" in arguments:
        arguments["columns"] = [arguments.pop("column")]
    return [arguments]


def _rule(
    check: str, arguments: dict[str, Any], about: Mapping[str, Any], where: str, line: int | None
) -> Rule:
    kind, row_level, must, may = _ANSWERS[check]
    missing = must - set(arguments)
    unknown = set(arguments) - must - may
    if missing or unknown or (check == "between" and not ({"min", "max"} & set(arguments))):
        what = ", ".join(sorted(missing)) or ", ".join(sorted(unknown)) or "min or max"
        verb = "does not know" if unknown and not missing else "lacks"
        raise _error(where, line, f"{check} {verb} {what}.", check)
    if check == "references":
        arguments.setdefault("to", arguments["column"])
    severity = about.get("severity", "critical")
    if severity not in get_args(Severity):
        raise _error(where, line, f"severity '{severity}' is none of {', '.join(get_args(Severity))}.", check)
    if check == "sql" and "name" not in about:
        raise _error(where, line, "a sql rule lacks its name.", check)
    try:
        kind = RuleKind(about.get("kind", kind))
    except ValueError as error:
        kinds = ", ".join(kind.value for kind in RuleKind)
        raise _error(where, line, f"kind '{about['kind']}' is none of {kinds}.", check) from error
    name = str(about.get("name") or _name(check, arguments))
    return Rule(name, check, kind, arguments, severity, row_level)


def _name(check: str, arguments: Mapping[str, Any]) -> str:
    columns = arguments.get("columns") or [arguments.get("column", "")]
    return "_".join([check, *map(str, columns)])


def _error(where: str, line: int | None, problem: str, check: str) -> ContractError:
    at = f"{where}:{line}" if line else where
    return ContractError(f"{at}: {problem} Write e.g. `{_EXAMPLES[check]}`.")
