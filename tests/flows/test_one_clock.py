"""`settings` gives the time to everything: a run that is made again, or for another moment, is the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLOCKS = {
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "pendulum.now",
    "prefect.types._datetime.now",
    "time.ctime",
    "time.gmtime",
    "time.localtime",
    "time.time",
    "time.time_ns",
}
"""Clocks of the machine. How long something took is measured by others (`time.monotonic`)."""
ASKS_A_CLOCK = {
    "flows/settings.py",
    # A process without settings, which stamps records as a broker does: with the machine's time.
    "flows/extract/embedded/child.py",
}
IN_SQL = re.compile(
    r"\b(now|today|clock_timestamp|transaction_timestamp|statement_timestamp|get_current_\w+)\s*\("
    r"|\b(current_date|current_time|current_timestamp|localtime|localtimestamp)\b",
    re.IGNORECASE,
)
STATEMENTS = [
    path
    for folder in ("transforms", "quality", "warehouse_ddl/views", "flows/portal/queries")
    for path in sorted((ROOT / folder).rglob("*.sql"))
]
PENDING_FOR = "select table_name, partition, since, clock_timestamp() from ops.pending_publish"
"""How long something waits, by the clock that wrote `since`."""


def clocks(source: str) -> Iterator[str]:
    """What of CLOCKS a Python source names, under whatever name it imported it."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {one.asname or one.name.partition(".")[0]: one.name for one in node.names if one.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            first, _, rest = ast.unparse(node).partition(".")
            name = ".".join(filter(None, (known.get(first, first), rest)))
            if name in CLOCKS:
                yield name


def python(*folders: str) -> Iterator[tuple[str, str]]:
    """Files of the product below these folders, each with its source."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("flows/sandbox/"):
                yield name, path.read_text()


def test_nothing_but_the_settings_and_the_sandbox_asks_the_machine_what_time_it_is() -> None:
    asking = {
        name: found
        for name, source in python("flows", "transforms", "quality", "warehouse_ddl")
        if (found := sorted(set(clocks(source))))
    }
    assert set(asking) == ASKS_A_CLOCK, asking


def test_statements_give_the_same_whenever_they_are_run() -> None:
    asking = {}
    for path in STATEMENTS:
        statement = re.sub(r"--[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        if found := IN_SQL.search(statement):
            asking[path.relative_to(ROOT).as_posix()] = found[0]
    assert len(STATEMENTS) > 50
    assert asking == {}


def test_statements_within_models_and_rules_give_the_same_whenever_they_are_run() -> None:
    asking = {
        name: found[0]
        for name, source in python("transforms", "quality")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (found := IN_SQL.search(node.value.replace(PENDING_FOR, "")))
    }
    assert asking == {}


@pytest.mark.parametrize(
    "source",
    [
        "from datetime import UTC, datetime\nx = datetime.now(UTC)",
        "import datetime as dt\nx = dt.datetime.now()",
        "import datetime\nx = datetime.date.today()",
        "from datetime import datetime as d\nx = field(default_factory=d.utcnow)",
        "from time import time\nx = time()",
        "import time\nx = time.time()",
    ],
)
def test_a_clock_is_found_under_any_name(source: str) -> None:
    assert list(clocks(source))
