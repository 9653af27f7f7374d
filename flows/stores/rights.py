"""What PostgreSQL means when it refuses for want of a right: the statement that gives it."""

from __future__ import annotations

import re

from transforms import registry
from warehouse_ddl.statements import OPS, PERSONAL, PUBLISHED

STATE = "42501"
"""PostgreSQL's code for it."""
_REFUSED = re.compile(r"(permission denied for|must be owner of) ([a-z ]+) \"?([\w$]+)")


def to_do(message: str) -> str:
    """Who gives what then, in a sentence; `message` is PostgreSQL's. What a schema or a table of the house
    lacks is told as the statement that role loader needs.
    """
    found = _REFUSED.search(message)
    given = None if found is None else _statement(*found.groups())
    every = "`python -m flows roles` gives all that is missing"
    if given is None:
        return f"Let an administrator see to that ({every}, docs/security.md), then run again."
    return f"Let an administrator run: {given}; ({every}). Then run again."


def _statement(refusal: str, kind: str, name: str) -> str | None:
    if kind == "schema":
        return f"grant usage, create on schema {name} to loader"
    if kind == "sequence":
        return f"grant usage, select on sequence {OPS}.{name} to loader"
    if kind not in ("table", "view", "materialized view"):
        return None
    place = _place(name, kind)
    if place is not None:
        return f"alter {kind} {place}.{name} owner to loader"
    if refusal == "must be owner of":
        return None
    return f"grant select, insert, update, delete on {OPS}.{name} to loader"


def _place(name: str, kind: str) -> str | None:
    """The schema of what is published under that name, a leaf with its table; None: it is not."""
    if kind == "materialized view":
        return PUBLISHED
    for table in registry.tables().values():
        if table.is_published and (name == table.name or name.startswith(f"{table.name}_2")):
            return PERSONAL if kind == "table" and table.personal else PUBLISHED
    return None
