"""From a count of failing rows to a result that a person can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import psycopg

from quality.results import CheckResult, Engine
from quality.rulebook import describe, written_in
from transforms.contract import Rule, Table
from transforms.told import without_values

_SHOWN_WINDOWS = 3
_KIND = re.compile(r"[^('\"]*\"?\(psycopg\.(?:errors\.)?(\w+)\) ?")
"""How an error of psycopg begins in a message of Great Expectations, which may put a sentence before it."""


def finding(
    table: Table,
    rule: Rule,
    engine: Engine,
    failing: int,
    rows: int | None,
    partitions: Sequence[str] | None,
    spread: Mapping[str, int],
) -> CheckResult:
    """The result of one rule. `spread`: how many failing rows stand in which window, where that is known."""
    windows = sorted(spread)
    partition = partitions[0] if partitions is not None and len(partitions) == 1 else ""
    if len(windows) == 1 and not windows[0].startswith("no "):
        partition = windows[0]
    observed: dict[str, object] = {"failing_rows": failing}
    if rows is not None:
        observed["rows"] = rows
    if spread:
        observed["partitions"] = dict(spread)
    passed = failing == 0
    message = f"{table.name}: {rule.name} holds."
    if not passed:
        shown = ", ".join(f"{window}: {spread[window]:,}" for window in windows[:_SHOWN_WINDOWS])
        more = f" and {len(windows) - _SHOWN_WINDOWS} more" if len(windows) > _SHOWN_WINDOWS else ""
        of = f" of {rows:,}" if rows is not None and rule.check != "sql" else ""
        message = (
            f"{table.name}: rule {rule.name} ({rule.kind.value}) fails for {failing:,}{of} "
            f"row{'' if (rows if of else failing) == 1 else 's'}{f' ({shown}{more})' if shown else ''}. "
            f"It says: {describe(rule)}. It stands in {written_in(rule, table)}."
        )
        if rule.check == "accepted_values":
            message += " Where such a value is right, add it to the list there."
        if rule.check == "references":
            other = rule.arguments["table"]
            message += f" Where such a value is right, let {other} have it; else correct it at its source."
    return CheckResult(
        table.name, partition, rule.name, rule.kind, rule.severity, engine, passed, failing, observed, message
    )


def refused(message: str) -> str:
    """Why PostgreSQL ran no query of Great Expectations, in one line: what it says of a value (SQLSTATE 22…)
    quotes the value, anything else quotes names.
    """
    line = message.split("\n[SQL")[0].splitlines()[0]
    kind = re.match(r"\(psycopg\.errors\.(\w+)\)", line)
    state = getattr(getattr(psycopg.errors, kind[1], None), "sqlstate", None) if kind else None
    return without_values(line) if state and state.startswith("22") else line


def passing(message: str) -> type[psycopg.OperationalError] | None:
    """The kind of an error of PostgreSQL that Great Expectations tells of, where the server or the connection
    was at fault (it stopped, a lock, no room) and no rule: another try may end well.
    """
    kind = _KIND.match(message)
    found = getattr(psycopg.errors, kind[1], None) if kind else None
    return found if isinstance(found, type) and issubclass(found, psycopg.OperationalError) else None


def without_kind(line: str) -> str:
    """What PostgreSQL said, without the name of its error and what Great Expectations puts before that."""
    return _KIND.sub("", line, count=1)
