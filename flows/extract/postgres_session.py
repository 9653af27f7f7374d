"""One consistent view of a PostgreSQL database, read by as many connections as it takes.

A coordinating connection holds a read-only REPEATABLE READ transaction and exports its snapshot; readers
stream `COPY (FORMAT binary)` through ADBC inside the same snapshot, 16 MB at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Self

import psycopg
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from flows.extract import SourceError, SourceRefused, source_locks
from flows.extract.postgres_types import SourceColumn
from flows.extract.side_by_side import side_by_side
from flows.extract.source_locks import AGAINST_READING
from flows.logins import is_refused
from flows.stores.connections import adbc_sessions
from quality import session_settings
from quality.alive import kept_alive, server_alive

APPLICATION = "analytics extract"
MINIMUM_PART_BYTES = 256 << 20
"""A table of at least twice this size is read in parts, side by side."""
_CATALOG_SECONDS = 120
_BATCH_BYTES = 16 << 20
_READ_SECONDS = 6 * 3600
_SESSION = {
    "search_path": "pg_catalog",
    "client_encoding": "UTF8",
    "quote_all_identifiers": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "lock_timeout": f"{source_locks.SECONDS}s",
    # What a policy hides would be taken for deleted: the server is to refuse instead.
    "row_security": "off",
    # The coordinator waits while the readers read; the server must not take that for a forgotten session.
    "idle_in_transaction_session_timeout": "0",
}
_ALIVE = sql.SQL(server_alive(is_local=True))
"""What the server keeps for a snapshot would last as long as its system waits for who is gone."""
_REFUSALS = frozenset({"28", "3D", "3F", "42"})
"""Classes of SQLSTATE that say who asks may not, or that what is asked for is not there."""
_NO_RIGHT = "42501"
_HIDDEN = "row-level security"
"""How PostgreSQL says that rows would be left out for this role."""
CATALOG = sql.SQL(
    "select attname, format_type(base.oid, case when type.typtype = 'd' then type.typtypmod "
    "else atttypmod end), attnum, not (attnotnull or type.typnotnull), "
    "coalesce((select array_agg(enumlabel::text order by enumsortorder) from pg_enum "
    "where enumtypid = base.oid), '{{}}'), atthasmissing, attrelid::bigint, attgenerated <> '' "
    "from pg_attribute join pg_type as type on type.oid = atttypid "
    "join pg_type as base on base.oid = case when type.typtype = 'd' then type.typbasetype else type.oid end "
    "where attrelid = any(array[{}]::regclass[]) and attnum > 0 and not attisdropped order by attnum"
)
"""The columns of tables, whose names or oids stand between the brackets; for `columns_of`."""


def columns_of(rows: Iterable[tuple[Any, ...]]) -> list[SourceColumn]:
    """What CATALOG gives; types by their names as seen from `search_path` pg_catalog."""
    return [
        SourceColumn(name, kind, number, nullable, tuple(labels), *rest)
        for name, kind, number, nullable, labels, *rest in rows
    ]


def catalog(dsn: str, schema: str, table: str) -> list[SourceColumn]:
    """A table's columns as the database has them now; none where there is no such table."""
    with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as connection:
        connection.execute(session_settings.forms().encode())
        connection.execute("set search_path = pg_catalog")
        name = sql.Identifier(schema, table).as_string(connection)
        where = sql.SQL("to_regclass({})").format(sql.Literal(name))
        return columns_of(connection.execute(CATALOG.format(where)))


def catalogs(
    connection: psycopg.Connection[Any], oids: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], list[SourceColumn]]:
    """The columns of several tables, by the names that their oids have in `oids`."""
    found: dict[int, list[SourceColumn]] = {oid: [] for oid in oids.values()}
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("set local search_path = pg_catalog")
        listed = sql.SQL(", ").join(map(sql.Literal, oids.values()))
        for column in columns_of(cursor.execute(CATALOG.format(listed))) if oids else ():
            found[column.table].append(column)
    return {name: found[oid] for name, oid in oids.items()}


@dataclass(frozen=True)
class Activity:
    """What may still be committed: `oldest` is the start of the oldest open transaction, `clock` the server's
    time when that was asked. `unknown` says why the oldest can't be known (then no mark may advance).
    `log` is the server's log: its cluster and timeline, and a primary's place in it, else 0.
    """

    clock: datetime
    oldest: datetime | None
    oldest_pid: int | None = None
    unknown: str = ""
    log: tuple[str, int] = ("", 0)


class Snapshot:
    """An exported snapshot in which one table can be read, as a context manager.

    `name` (source.entity) opens every message.
    """

    def __init__(self, dsn: str, name: str, table: sql.Identifier) -> None:
        self._name = name
        self._table = table
        try:
            self._dsn = kept_alive(dsn, APPLICATION)
        except psycopg.Error:
            raise SourceRefused(
                f"{name}: the connection string is none that PostgreSQL understands; "
                "write it like postgresql://user@host:5432/database."
            ) from None
        given = conninfo_to_dict(dsn)
        self._secret = str(given.get("password") or "")
        self._user = given.get("user") or "this login"
        self._where = f"{given.get('host') or 'the local socket'}:{given.get('port') or 5432}"
        self._stack = ExitStack()
        self._id = ""
        self._coordinator: psycopg.Connection[tuple[Any, ...]]
        self.activity: Activity
        self.clock: datetime
        """The server's time just after the snapshot was taken."""

    def __enter__(self) -> Self:
        with self.errors_told():
            self._coordinator = self._stack.enter_context(psycopg.connect(self._dsn, autocommit=True))
            # Asked before the snapshot is taken: who begins later has a later start.
            self.activity = _activity(self._coordinator)
            self._coordinator.execute("begin isolation level repeatable read, read only")
            # By `set`, which takes no snapshot; the other settings' SELECT takes it.
            self._coordinator.execute(f"set local lock_timeout = '{source_locks.SECONDS}s'".encode())
            # Locked before the snapshot is taken: a table rewritten after it would look empty in it.
            self._execute(sql.SQL("lock table {} in access share mode").format(self._table))
            self._execute(_settings(_CATALOG_SECONDS))
            self._execute(_ALIVE)
            found = self._execute(sql.SQL("select pg_export_snapshot(), clock_timestamp()"))[0]
            self._id, self.clock = str(found[0]), found[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows(self, query: sql.Composable) -> list[tuple[Any, ...]]:
        """All rows of a small query inside the snapshot."""
        with self.errors_told():
            return self._execute(query)

    def columns(self) -> list[SourceColumn]:
        """The table's columns in their order."""
        return columns_of(self.rows(CATALOG.format(self._registered)))

    @property
    def _registered(self) -> sql.Composable:
        return sql.SQL("to_regclass({})").format(sql.Literal(self._text(self._table)))

    def parts(self, wanted: int) -> list[sql.Composable]:
        """Conditions that divide the table into at most `wanted` parts, by its blocks.

        Blocks and not keys: they divide evenly whatever the keys are, and no index is read.
        """
        found = self.rows(
            sql.SQL(
                "select pg_relation_size(pg_class.oid), current_setting('block_size')::bigint "
                "from pg_class join pg_am on pg_am.oid = relam "
                "where pg_class.oid = to_regclass({}) and amname = 'heap'"
            ).format(sql.Literal(self._text(self._table)))
        )
        size, block = found[0] if found else (0, 1)
        count = max(1, min(wanted, size // MINIMUM_PART_BYTES))
        starts = [size // block * part // count for part in range(count)]
        return (
            [
                sql.SQL(" and ").join(
                    [sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({start},0)"))]
                    # The last part is open: the table may have grown meanwhile.
                    + (
                        [sql.SQL("ctid < {}::tid").format(sql.Literal(f"({end},0)"))]
                        if end is not None
                        else []
                    )
                )
                for start, end in zip(starts, [*starts[1:], None], strict=True)
            ]
            if count > 1
            else [sql.SQL("true")]
        )

    def stream(self, query: sql.Composable) -> Iterator[pa.RecordBatch]:
        """The rows of a query inside the snapshot; one that breaks off raises, so only the end is final."""
        text = self._text(query)
        with self.errors_told(), ExitStack() as stack:
            connection = stack.enter_context(closing(adbc_sessions(self._dsn).open(autocommit=False)))
            cursor = stack.enter_context(connection.cursor())
            cursor.execute("set transaction isolation level repeatable read, read only")
            cursor.execute(f"set transaction snapshot '{self._id}'")
            cursor.execute(self._text(_settings(_READ_SECONDS)))
            cursor.execute(self._text(_ALIVE))
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
            cursor.execute(text)
            reader = stack.enter_context(cursor.fetch_record_batch())
            yield from reader

    def stream_all(self, queries: Sequence[sql.Composable]) -> Iterator[pa.RecordBatch]:
        """The rows of several queries inside the snapshot, a connection each, in the order they arrive."""
        if len(queries) == 1:
            return self.stream(queries[0])
        return side_by_side([partial(self.stream, query) for query in queries])

    @contextmanager
    def errors_told(self) -> Iterator[None]:
        """Turn what the drivers raise into a SourceError without passwords and values."""
        try:
            yield
        except SourceError:
            raise
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            raise SourceRefused(
                f"{self._name}: the database at {self._where} has no table {self._text(self._table)}, "
                "or its schema is closed to this role. Create it, or grant USAGE on its schema and SELECT "
                "on it."
            ) from None
        except psycopg.errors.WrongObjectType:
            raise SourceRefused(
                f"{self._name}: {self._text(self._table)} at {self._where} is a materialized view or a "
                "foreign table, which PostgreSQL does not hold still for a reader. Have a view made there, "
                f"create view … as select * from {self._text(self._table)}, and declare that. Nothing was "
                "landed."
            ) from None
        except psycopg.errors.LockNotAvailable:
            raise SourceError(
                f"{self._name}: {self._text(self._table)} at {self._where} could not be read within "
                f"{source_locks.SECONDS} s for a lock, {source_locks.held(self._dsn, AGAINST_READING)} "
                "Nothing was landed."
            ) from None
        except (psycopg.Error, AdbcError, OSError, pa.ArrowException) as error:
            if _HIDDEN in str(error):
                raise SourceRefused(
                    f"{self._name}: a row-level security policy hides rows of {self._text(self._table)} at "
                    f"{self._where} from this role, and what is hidden would be taken for deleted. Let an "
                    "administrator there run: alter role … bypassrls; or declare a view of the rows that are "
                    "meant. Nothing was landed."
                ) from None
            raise (SourceRefused if is_refusal(error) else SourceError)(
                f"{self._name}: the database at {self._where} could not be read: {self._reason(error)}. "
                f"Nothing was landed; {self._remedy(error)}, run again."
            ) from None

    def _remedy(self, error: Exception) -> str:
        """What has to be done before the next run can read it."""
        if getattr(error, "sqlstate", None) == _NO_RIGHT:
            table = self._text(self._table)
            return f"when {self._user} has SELECT on {table}, and USAGE on its schema (grant … to …)"
        if is_refused(str(error)):
            return "when this login is let in there again, or ANALYTICS_APP_DSN has the one of now"
        return "when that is mended"

    def _execute(self, query: sql.Composable) -> list[tuple[Any, ...]]:
        cursor = self._coordinator.execute(query.as_bytes(self._coordinator))
        return cursor.fetchall() if cursor.description else []

    def _text(self, query: sql.Composable) -> str:
        return query.as_string(self._coordinator)

    def _reason(self, error: Exception) -> str:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        text = re.sub(r"^.*?(?:ERROR|FATAL):\s*", "", text)
        state = str(getattr(error, "sqlstate", None) or "")
        if state.startswith("22") or isinstance(error, pa.ArrowException):
            # Data errors quote the value.
            return f"a value could not be converted ({type(error).__name__} {state})".replace(" )", ")")
        return (text.replace(self._secret, "***") if self._secret else text).rstrip(". ")


def is_refusal(error: Exception) -> bool:
    """Whether a server that is there lets nobody in, or has not what is asked for: it will say so again."""
    state = getattr(error, "sqlstate", None)
    if state or not isinstance(error, psycopg.OperationalError):
        return (state or "")[:2] in _REFUSALS
    return is_refused(str(error))


def _settings(seconds: int) -> sql.Composable:
    """Session settings for this transaction alone, so that a connection pooler may stand in between."""
    values = {**_SESSION, "statement_timeout": f"{seconds}s"}
    calls = [
        sql.SQL("pg_catalog.set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
        for name, value in values.items()
    ]
    return sql.SQL("select {}").format(sql.SQL(", ").join(calls))


def _activity(connection: psycopg.Connection[tuple[Any, ...]]) -> Activity:
    row = connection.execute(
        """
        select clock_timestamp(), min(xact_start),
            (array_agg(pid order by xact_start) filter (where xact_start is not null))[1],
            count(*) filter (where usesysid <> (select oid from pg_roles where rolname = current_user)
                and not pg_has_role(current_user, 'pg_read_all_stats', 'usage')),
            pg_is_in_recovery(),
            (select count(*) from pg_prepared_xacts where database = current_database()),
            (select concat_ws('/', system_identifier, timeline_id)
                from pg_control_system(), pg_control_checkpoint()),
            case when not pg_is_in_recovery() then (pg_current_wal_lsn() - '0/0')::bigint else 0 end
        from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and application_name <> %s
            and coalesce(backend_type, '') not in ('autovacuum worker', 'walsender')
        """,
        (APPLICATION,),
        binary=True,  # how a text gives a time is not set yet
    ).fetchone()
    assert row is not None
    clock, oldest, pid, hidden, is_standby, prepared, log, place = row
    unknown = ""
    if is_standby:
        unknown = "this is a read replica, which does not know the transactions open on its primary"
    elif hidden:
        unknown = "this role can't see other sessions' transactions (grant pg_read_all_stats to it)"
    elif prepared:
        unknown = "there are prepared transactions (pg_prepared_xacts), whose start is not known"
    return Activity(clock, oldest, pid, unknown, (log, place))
