"""PostgreSQL's own upkeep: dead rows, bloated indexes, leaves for the days that the stream comes to next."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, LiteralString

from psycopg import Connection, errors, sql

from flows.services import Services
from flows.stores import apply
from flows.stores.ledger import Ledger
from flows.stores.locks import DUMP_LOCK
from flows.stores.standalone import workshop
from flows.streaming.route import whole_route
from flows.streaming.visible import attach_hot
from warehouse_ddl.statements import LASTING

_SCHEMAS = [*LASTING]
_DEAD_SHARE = 0.1
_DEAD_ROWS = 1_000
_BLOATED = 2.0
"""An index of so many times the pages that its rows need is built anew…"""
_BLOATED_PAGES = 128
"""…when that gives back more than a megabyte."""
_DAYS_AHEAD = 2


def vacuum(connection: Connection[Any]) -> list[str]:
    """Vacuum and analyze the tables of which a tenth is dead; nobody waits, a table in use is left alone."""
    rows = connection.execute(
        "SELECT schemaname, relname FROM pg_stat_user_tables "
        "WHERE schemaname = ANY(%s) AND n_dead_tup > greatest(%s, %s * n_live_tup) ORDER BY 1, 2",
        (_SCHEMAS, _DEAD_ROWS, _DEAD_SHARE),
    ).fetchall()
    statement: LiteralString = "VACUUM (ANALYZE, SKIP_LOCKED) {}"
    return [f"{schema}.{name}" for schema, name in rows if _tried(connection, statement, schema, name)]


def reindex(connection: Connection[Any]) -> list[str]:
    """Build bloated indexes anew beside the old ones (CONCURRENTLY), and drop what a killed try has left.

    What an index should need is told by its rows and the width of its columns. Not while a backup is being
    taken: both would wait for its snapshot.
    """
    if Ledger(connection).is_held(*DUMP_LOCK):
        return []
    done = []
    connection.execute("SET lock_timeout = '800ms'")
    for schema, name in _invalid(connection):
        _tried(connection, "DROP INDEX CONCURRENTLY IF EXISTS {}", schema, name)
    for schema, name in _bloated(connection):
        if _tried(connection, "REINDEX INDEX CONCURRENTLY {}", schema, name):
            done.append(f"{schema}.{name}")
    connection.execute("RESET lock_timeout")
    return done


def _tried(connection: Connection[Any], statement: LiteralString, schema: str, name: str) -> bool:
    """Whether it could be done; somebody's long query or somebody else's index is for the next night, and
    what a run has dropped or swapped since it was listed is gone.
    """
    try:
        connection.execute(sql.SQL(statement).format(sql.Identifier(schema, name)))
    except (errors.LockNotAvailable, errors.InsufficientPrivilege, errors.UndefinedTable):
        return False
    return True


def _invalid(connection: Connection[Any]) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND c.relkind = 'i' "
        "AND n.nspname = ANY(%s) AND c.relname ~ '_cc(new|old)[0-9]*$'",
        (_SCHEMAS,),
    ).fetchall()


def _bloated(connection: Connection[Any]) -> list[tuple[str, str]]:
    """B-trees much larger than their entries: 12 bytes and the columns each, pages nine tenths full."""
    return connection.execute(
        """
        SELECT n.nspname, c.relname
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am am ON am.oid = c.relam
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(ceil(coalesce(s.avg_width, 8) / 8.0) * 8), 8) AS width
            FROM unnest(i.indkey) AS k (attnum)
            LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
            LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = t.relname
                AND s.attname = a.attname
        ) AS entry
        WHERE n.nspname = ANY(%s) AND c.relkind = 'i' AND am.amname = 'btree' AND i.indisvalid
            AND t.reltuples >= 0
            AND c.relpages > %s + %s * ceil(t.reltuples * (12 + entry.width) / (8168 * 0.9))
        ORDER BY 1, 2
        """,
        (_SCHEMAS, _BLOATED_PAGES, _BLOATED),
    ).fetchall()


def leaves_ahead(services: Services) -> list[str]:
    """Attach leaves for today and the next days where a stream writes, so that midnight is like any other
    minute; returns the new ones. Where no stream ever was there is nothing to do.
    """
    made: list[str] = []
    with services.ledger() as ledger:
        connection = ledger.connection
        if connection.execute("SELECT 1 FROM ops.stream_partition LIMIT 1").fetchone() is None:
            return made
        way, now = whole_route(), services.settings.now()
        if way is None:
            return made
        for table in (*way.facts, *way.windows):
            if table.partition is None or table.partition.every != "day":
                continue
            there = apply.leaves(connection, table)
            days = [table.partition.key(now + timedelta(days=ahead)) for ahead in range(_DAYS_AHEAD + 1)]
            missing = [day for day in days if table.leaf(day) not in there]
            if not missing:
                continue
            with workshop(services.warehouse, connection, table) as shop:
                made += [table.leaf(day) for day in missing if attach_hot(connection, shop, day)]
    return made
