"""What others have made on a relation that is made anew under its name, as far as it can be made again:
indexes, constraints, statistics and their targets, policies, parameters, and their comments. Anything else is
in the way (flows.stores.dependents).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection, errors

from flows.stores.dependents import InTheWay
from flows.stores.warehouse_errors import scrub


@dataclass(frozen=True)
class Addition:
    """One of them: what PostgreSQL calls it, what makes it again, which columns of `relation` it is about."""

    what: str
    relation: str
    statement: str
    columns: frozenset[str]
    is_policy: bool


def held(connection: Connection[Any], schema: str, name: str) -> list[Addition]:
    """Those of a relation and its leaves, in the order in which they can be made again; none where there is
    no such relation.
    """
    rows = connection.execute(_HELD.encode(), {"schema": schema, "name": name, "tails": _OF_HISTORIES})
    return [
        Addition(what, relation, statement, frozenset(columns), is_policy)
        for what, relation, statement, columns, is_policy in rows.fetchall()
    ]


def give(
    connection: Connection[Any],
    schema: str,
    name: str,
    additions: Iterable[Addition],
    columns: Collection[str],
) -> list[str]:
    """Make them again on what has that name now, in the caller's transaction; returns what is gone with a
    column or a leaf that is gone, in words. Raises InTheWay where one can't be made: a policy never goes.
    """
    gone = []
    for one in additions:
        lost = sorted(one.columns - set(columns))
        is_leaf = one.relation != name
        if lost and not one.is_policy:
            gone.append(f"{one.what} goes with {', '.join(lost)}")
            continue
        try:
            with connection.transaction():
                connection.execute(one.statement.encode())
        except (errors.DuplicateObject, errors.DuplicateTable):
            continue  # it is made with the relation
        except errors.UndefinedTable as error:
            if not is_leaf:
                raise _in_the_way(schema, name, one, error) from None
            gone.append(f"{one.what} goes with {one.relation}")
        except (
            psycopg.ProgrammingError,
            psycopg.IntegrityError,
            psycopg.DataError,
            psycopg.NotSupportedError,
        ) as error:
            raise _in_the_way(schema, name, one, error) from None
    return gone


def _in_the_way(schema: str, name: str, one: Addition, error: psycopg.Error) -> InTheWay:
    said = scrub(error.diag.message_primary or str(error))
    return InTheWay(
        f"{schema}.{name} has to be replaced, and {one.what} can't be made again on it ({said}). Nothing was "
        "changed: drop it, then run again."
    )


_OF_HISTORIES = ["_valid_to_key", "_prev_to_key", "_order", "_chain"]
"""What the constraints of a history are called, behind the name of their table."""
_HELD = """
WITH own AS (
    SELECT c.oid, c.relname, true AS is_whole FROM pg_class c
    WHERE c.oid = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))
    UNION ALL
    SELECT c.oid, c.relname, false FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE c.relispartition AND c.relkind = 'r'
        AND inhparent = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))
), made (place, classid, objid, relid, statement, about) AS (
    SELECT 1, 'pg_constraint'::regclass, k.oid, own.oid, format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I %%s',
        %(schema)s::text, own.relname, k.conname, pg_get_constraintdef(k.oid)), null::text
    FROM own JOIN pg_constraint k ON k.conrelid = own.oid
    WHERE own.is_whole AND k.contype IN ('c', 'u', 'x', 'f') AND k.conparentid = 0
        AND k.conname <> ALL(ARRAY(SELECT own.relname || tail FROM unnest(%(tails)s::text[]) AS tail))
        AND NOT (k.contype = 'f' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = own.oid
            AND a.attnum = ANY(k.conkey) AND k.conname = own.relname || '_' || a.attname || '_fkey'))
    UNION ALL
    SELECT 2, 'pg_class'::regclass, x.oid, own.oid, regexp_replace(
        replace(pg_get_indexdef(x.oid), ' ON ONLY ', ' ON '), 'INDEX', 'INDEX IF NOT EXISTS'), null
    FROM own JOIN pg_index i ON i.indrelid = own.oid AND i.indisvalid JOIN pg_class x ON x.oid = i.indexrelid
    WHERE NOT x.relispartition AND (own.is_whole OR strpos(x.relname, '__leaf_') = 0)
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = x.oid AND conrelid = own.oid)
    UNION ALL
    SELECT 3, 'pg_statistic_ext'::regclass, s.oid, own.oid, pg_get_statisticsobjdef(s.oid), null
    FROM own JOIN pg_statistic_ext s ON s.stxrelid = own.oid
    UNION ALL
    SELECT 4, 'pg_policy'::regclass, p.oid, own.oid, format(
        'CREATE POLICY %%I ON %%I.%%I AS %%s FOR %%s TO %%s%%s%%s',
        p.polname, %(schema)s::text, own.relname, said.permissive, said.cmd,
        (SELECT string_agg(CASE who WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(who) END, ', ')
            FROM unnest(said.roles) AS who),
        ' USING (' || said.qual || ')', ' WITH CHECK (' || said.with_check || ')'), null
    FROM own JOIN pg_policy p ON p.polrelid = own.oid JOIN pg_policies AS said
        ON (said.schemaname, said.tablename, said.policyname) = (%(schema)s, own.relname, p.polname)
    UNION ALL
    SELECT 5, null, null, own.oid, format('ALTER TABLE %%I.%%I %%s', %(schema)s::text, own.relname, set.what),
        null
    FROM own JOIN pg_class c ON c.oid = own.oid CROSS JOIN LATERAL (
        VALUES (c.relrowsecurity, 'ENABLE ROW LEVEL SECURITY'),
            (c.relforcerowsecurity, 'FORCE ROW LEVEL SECURITY'),
            (own.is_whole AND c.relreplident = 'f', 'REPLICA IDENTITY FULL'),
            (own.is_whole AND c.relreplident = 'n', 'REPLICA IDENTITY NOTHING'),
            (own.is_whole AND c.relreplident = 'i', 'REPLICA IDENTITY USING INDEX ' || (
                SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                WHERE i.indrelid = c.oid AND i.indisreplident)),
            (own.is_whole AND c.relkind = 'r' AND c.reloptions IS NOT NULL,
                'SET (' || array_to_string(c.reloptions, ', ') || ')')
    ) AS set (is_so, what)
    WHERE set.is_so
    UNION ALL
    SELECT 6, null, null, own.oid, format(
        'ALTER TABLE %%I.%%I ALTER COLUMN %%I SET %%s', %(schema)s::text, own.relname, a.attname, set.what),
        a.attname
    FROM own JOIN pg_attribute a ON a.attrelid = own.oid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN LATERAL (
        VALUES (a.attstattarget >= 0, format('STATISTICS %%s', a.attstattarget)),
            (a.attoptions IS NOT NULL, '(' || array_to_string(a.attoptions, ', ') || ')')
    ) AS set (is_so, what)
    WHERE own.is_whole AND set.is_so
)
SELECT coalesce(pg_describe_object(made.classid, made.objid, 0), made.statement), own.relname,
    made.statement || coalesce('; COMMENT ON ' || CASE made.classid
            WHEN 'pg_constraint'::regclass THEN 'CONSTRAINT' WHEN 'pg_class'::regclass THEN 'INDEX'
            WHEN 'pg_statistic_ext'::regclass THEN 'STATISTICS' WHEN 'pg_policy'::regclass THEN 'POLICY' END
        || ' ' || (pg_identify_object(made.classid, made.objid, 0)).identity
        || ' IS ' || quote_literal(d.description), ''),
    coalesce((SELECT array_agg(DISTINCT a.attname::text) FROM pg_depend d
        JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
        WHERE (d.classid, d.objid) = (made.classid, made.objid)
            AND (d.refclassid, d.refobjid) = ('pg_class'::regclass, own.oid) AND a.attnum > 0),
        array_remove(ARRAY[made.about], null)),
    made.classid IS NOT DISTINCT FROM 'pg_policy'::regclass
FROM made JOIN own ON own.oid = made.relid
LEFT JOIN pg_description AS d ON (d.classoid, d.objoid, d.objsubid) = (made.classid, made.objid, 0)
ORDER BY made.place, made.statement
"""
