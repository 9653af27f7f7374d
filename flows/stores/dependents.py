"""What other people have built on a published table or view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from flows.errors import FlowsError


class InTheWay(FlowsError):
    """Somebody's own object depends on a table or view that has to be replaced."""


def refuse_others(connection: Connection[Any], schema: str, name: str, ours: Sequence[str]) -> None:
    """Raise InTheWay when a view reads `schema.name` that is neither named like it nor one of `ours`."""
    rows = connection.execute(
        """
        SELECT DISTINCT c.oid::regclass::text FROM pg_depend d
        JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_class c ON c.oid = r.ev_class
        WHERE d.refobjid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND c.relname <> ALL(%s)
        """,
        (schema, name, [name, *ours]),
    ).fetchall()
    if rows:
        names = ", ".join(row[0] for row in rows)
        raise InTheWay(
            f"{schema}.{name} has to be replaced, and {names} depends on it. Nothing was changed: "
            "drop it or move it to another source, then run again."
        )
