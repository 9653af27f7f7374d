"""What other people have built on a published table or view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from flows.errors import FlowsError
from flows.stores.warehouse import PUBLISHED

_REPLACED = "has to be replaced"
_READS = ("pg_rewrite", "pg_proc", "pg_policy", "pg_class", "pg_type")
_GOES = ("pg_trigger", "pg_publication_rel")
"""Catalogs whose objects may depend on a relation, and those of whose nothing is left without it; so it is
with its own rules.
"""


class InTheWay(FlowsError):
    """Somebody's own object depends on a table or view that has to be replaced."""


def refuse_readers(connection: Connection[Any], schema: str, name: str, why: str = _REPLACED) -> None:
    """Raise InTheWay when something of others reads `schema.name`, or is made like it: a view, a function, a
    policy of another table, a table.
    """
    _refuse(schema, name, why, _depending(connection, schema, name, (), _READS))


def refuse_others(connection: Connection[Any], schema: str, name: str, ours: Sequence[str] = ()) -> None:
    """Raise InTheWay when something that can't be made again would go with `schema.name` or a leaf of it:
    views, but for `ours`, triggers, rules, publications, whatever depends on it. What can be made again
    (flows.stores.additions) is none of it.
    """
    _refuse(schema, name, _REPLACED, _depending(connection, schema, name, ours, (*_READS, *_GOES)))


def others(connection: Connection[Any], schema: str, name: str) -> list[str]:
    """The same of one relation, as PostgreSQL calls it (`trigger mine on table analytics.fct_orders`)."""
    return _depending(connection, schema, name, (), (*_READS, *_GOES))


def _refuse(schema: str, name: str, why: str, found: Sequence[str]) -> None:
    if found:
        raise InTheWay(
            f"{schema}.{name} {why}, and {', '.join(found)} depends on it. Nothing was changed: "
            "drop it or move it to another source, then run again."
        )


def _depending(
    connection: Connection[Any], schema: str, name: str, ours: Sequence[str], catalogs: Sequence[str]
) -> list[str]:
    """What of these catalogs depends on a relation, its leaves or its row type, and is no part of them."""
    rows = connection.execute(
        """
        WITH own AS (
            SELECT to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))::oid AS oid
            UNION ALL
            SELECT inhrelid FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid AND c.relispartition
            WHERE inhparent = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))
        ), depended (classid, oid) AS (
            SELECT 'pg_class'::regclass, oid FROM own
            UNION ALL
            SELECT 'pg_type'::regclass, t.oid FROM own JOIN pg_type r ON r.typrelid = own.oid
            JOIN pg_type t ON t.oid IN (r.oid, r.typarray)
        )
        SELECT DISTINCT CASE WHEN r.rulename = '_RETURN' THEN r.ev_class::regclass::text
            ELSE pg_describe_object(d.classid, d.objid, 0) END
        FROM depended JOIN pg_depend d ON (d.refclassid, d.refobjid) = (depended.classid, depended.oid)
        LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        LEFT JOIN pg_class v ON v.oid = r.ev_class
        LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
        LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
        LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
        WHERE d.deptype IN ('n', 'a') AND d.classid = ANY(%(catalogs)s::regclass[])
            AND (d.objid NOT IN (SELECT oid FROM own) OR d.classid <> 'pg_class'::regclass)
            AND (c.oid IS NULL OR c.relkind NOT IN ('i', 'I', 't', 'S'))
            AND (t.oid IS NULL OR NOT t.tgisinternal AND t.tgparentid = 0)
            AND (p.oid IS NULL OR p.polrelid NOT IN (SELECT oid FROM own))
            AND (r.oid IS NULL
                OR r.ev_class IN (SELECT oid FROM own) AND r.rulename <> '_RETURN' AND %(with_rules)s
                OR r.ev_class NOT IN (SELECT oid FROM own)
                AND (v.relnamespace <> %(published)s::regnamespace OR v.relname <> ALL(%(ours)s)))
        ORDER BY 1
        """,
        {
            "schema": schema,
            "name": name,
            "ours": [name, *ours],
            "published": PUBLISHED,
            "catalogs": list(catalogs),
            "with_rules": set(_GOES) <= set(catalogs),
        },
    ).fetchall()
    return [found for (found,) in rows]


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
