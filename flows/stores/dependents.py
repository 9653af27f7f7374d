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


def others_on(connection: Connection[Any], schemas: Sequence[str]) -> list[str]:
    """What outside of these schemas would go with them, as PostgreSQL calls it (`view public.mine`): whatever
    depends on something in them, directly or through others.
    """
    rows = connection.execute(
        """
        WITH RECURSIVE going (classid, objid) AS (
            SELECT 'pg_namespace'::regclass::oid, oid FROM pg_namespace WHERE nspname = ANY(%(schemas)s)
            UNION
            SELECT further.classid, further.objid FROM going CROSS JOIN LATERAL (
                SELECT d.classid, d.objid FROM pg_depend d
                WHERE (d.refclassid, d.refobjid) = (going.classid, going.objid)
                UNION ALL
                -- A part takes with it what it is a part of: the rule of a view the view.
                SELECT d.refclassid, d.refobjid FROM pg_depend d
                WHERE (d.classid, d.objid) = (going.classid, going.objid) AND d.deptype = 'i'
            ) AS further
        )
        SELECT DISTINCT pg_describe_object(classid, objid, 0) FROM going
        CROSS JOIN LATERAL pg_identify_object(classid, objid, 0) AS object
        CROSS JOIN LATERAL pg_identify_object_as_address(classid, objid, 0) AS address
        WHERE NOT EXISTS (
            SELECT FROM pg_depend d
            WHERE (d.classid, d.objid) = (going.classid, going.objid) AND d.deptype = 'i'
        ) AND classid <> 'pg_default_acl'::regclass AND (
            classid IN ('pg_publication_rel'::regclass, 'pg_publication_namespace'::regclass)
            OR coalesce(object.schema, address.object_names[1]) <> ALL(%(schemas)s || '{pg_toast}')
        ) ORDER BY 1
        """,
        {"schemas": list(schemas)},
    ).fetchall()
    return [name for (name,) in rows]
