"""Connections to the warehouse, COPY through ADBC with the catalog's exact types, errors without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from duckdb import DuckDBPyRelation
from psycopg import Connection

from flows.errors import FlowsError
from flows.logins import PLACE_TO_DO, has_no_place, is_login_refused
from flows.scrubbing import scrubbed
from flows.stores import read_only, rights
from flows.stores.batches import SharedBatches, with_plain_booleans
from flows.stores.connections import Connections, adbc_sessions
from quality import session_settings
from quality.alive import kept_alive
from transforms.engine import explain

PUBLISHED = "analytics"
UNPUBLISHED = "unpublished"

STREAMS = 2
"""Connections that share one COPY."""
_BATCH_ROWS = 30_720
_EXACT = {
    "bool": "BOOLEAN",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "text": "VARCHAR",
    "varchar": "VARCHAR",
    "bpchar": "VARCHAR",
    "uuid": "UUID",
    "json": "JSON",
    "jsonb": "JSON",
    "bytea": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
}
_DATED = {"date", "timestamp", "timestamptz"}
_NOT_THERE = {"42P01", "3F000"}
"""PostgreSQL's codes for a relation and a schema that it does not have."""
_OURS = re.compile(r'"(ops|analytics)[".]')
_DRIVERS_OWN = re.compile(r"^[A-Z_]+: \[libpq\] .*?: PGRES_\w+ \w+: +")
_FIRST_MOMENT = "4713-01-02 (BC) 00:00:00"
"""PostgreSQL's calendar begins a day earlier; DuckDB's long before."""


class WarehouseError(FlowsError):
    """PostgreSQL refused or was cut off. Nothing of the transaction is there; the message holds no secret."""

    state: str | None = None
    """SQLSTATE, where PostgreSQL has refused."""
    cause = ""
    """What it said then, without values."""


class UnfitValue(WarehouseError):
    """A value that its column can't hold: the same content would be refused again."""


class OnlyReads(WarehouseError):
    """PostgreSQL is there and takes no writes, so nothing is published or remembered."""


class NotLetIn(WarehouseError):
    """PostgreSQL is there, and this login may not come in: to wait for it would be in vain."""


class NoRight(WarehouseError):
    """PostgreSQL lets this login in, and the role that it acts as lacks a right: somebody has to give it."""


class NoPlace(WarehouseError):
    """PostgreSQL is there, and has as many sessions as it takes; none of them has ended for a minute."""


@dataclass(frozen=True)
class PostgresColumn:
    """A column as the catalog has it: `type` is pg_type.typname, `modifier` stands in its parentheses."""

    name: str
    type: str
    modifier: str
    is_enum: bool

    def duckdb_type(self, source: str) -> str:
        """The DuckDB type whose Arrow form binary COPY takes for this column; `source` is what it is now."""
        if self.is_enum:
            return "VARCHAR"
        if self.type == "numeric":
            return f"DECIMAL({self.modifier})" if self.modifier else _decimal(source)
        if self.type.startswith("_") and self.type[1:] in _EXACT:
            return f"{_EXACT[self.type[1:]]}[]"
        try:
            return _EXACT[self.type]
        except KeyError:
            raise WarehouseError(
                f"Column {self.name} has the PostgreSQL type {self.type}, which COPY can't be given exactly. "
                "Cast it to text, a number, a time, uuid, json or bytea in the model."
            ) from None


class Warehouse:
    """One PostgreSQL database; safe to share between threads.

    Connections that served are kept for the next block, and ADBC's for the next COPY: to open one is work for
    both sides, 9 ms of it. They hold no transaction and no lock.
    """

    def __init__(self, dsn: str, application_name: str = "user-analytics") -> None:
        self._dsn = kept_alive(dsn, application_name)
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self._connections = Connections(self._dsn)

    def __repr__(self) -> str:
        return "Warehouse(…)"

    @contextmanager
    def connect(self) -> Iterator[Connection[Any]]:
        """A psycopg connection in autocommit (transactions are blocks), UTC, for this block alone.

        What a block leaves in its session (locks, settings, temporary tables) ends with it. Every error
        inside leaves as WarehouseError without secrets or people's data.
        """
        with readable_errors(), self._connections.one() as connection:
            yield connection

    def stop(self) -> None:
        """Let nobody wait in it any more: what runs is canceled, and who connects gets Stopped."""
        self._connections.stop()

    def columns(self, connection: Connection[Any], schema: str, name: str) -> list[PostgresColumn]:
        """The columns of a table in their order. Raises WarehouseError when there is no such table."""
        rows = connection.execute(
            """
            SELECT a.attname, t.typname, t.typtype = 'e',
                   coalesce(substring(format_type(a.atttypid, a.atttypmod) from '\\((.*)\\)'), '')
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND a.attnum > 0
              AND NOT a.attisdropped AND a.attgenerated = ''
            ORDER BY a.attnum
            """,
            (schema, name),
        ).fetchall()
        if not rows:
            raise WarehouseError(
                f"There is no table {schema}.{name} in the warehouse. Run `python -m flows` to create it."
            )
        return [PostgresColumn(row[0], row[1], row[3], row[2]) for row in rows]

    def exact(self, columns: list[PostgresColumn], relation: DuckDBPyRelation) -> DuckDBPyRelation:
        """`relation` in the order and the exact types of `columns`; values are range-checked on reading.

        A column the relation does not have is null. Raises WarehouseError for times outside PostgreSQL's
        calendar, which binary COPY would store as something else.
        """
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        items = []
        for column in columns:
            target = column.duckdb_type(types.get(column.name, ""))
            source = _quoted(column.name) if column.name in types else "NULL"
            items.append(f"CAST({source} AS {target}) AS {_quoted(column.name)}")
        exact: DuckDBPyRelation = relation.project(", ".join(items))
        dated = [column for column in columns if column.type in _DATED and column.name in types]
        if dated:
            checks = [
                f"coalesce(bool_or(NOT isfinite({_quoted(c.name)}) OR {_quoted(c.name)} < "
                f"CAST('{_FIRST_MOMENT}' AS TIMESTAMP)::{_EXACT[c.type]}), false)"
                for c in dated
            ]
            found = exact.aggregate(", ".join(checks)).fetchall()[0]
            outside = [column.name for column, is_outside in zip(dated, found, strict=True) if is_outside]
            if outside:
                raise UnfitValue(
                    f"Column {outside[0]} holds an infinite time or one before 4713 BC, which COPY "
                    "can't store. Nothing was loaded. Reject such rows in the model (`_dead_letter_reason`)."
                )
        return exact

    def copy(self, schema: str, name: str, columns: list[PostgresColumn], relation: DuckDBPyRelation) -> int:
        """COPY a relation into a table that nobody reads yet; returns the number of rows.

        Each of STREAMS connections COPYs every other batch in a transaction of its own: after an error a part
        of the rows may be there. Streams: memory does not grow with the rows. `columns` are the table's own
        (see `columns`).
        """
        with readable_errors(f"{schema}.{name}"):
            reader = with_plain_booleans(self.exact(columns, relation).to_arrow_reader(_BATCH_ROWS))
            shared = SharedBatches(reader)
            # PostgreSQL needs longer for a batch than we to make one: two of its processes use both cores.
            with ThreadPoolExecutor(STREAMS if shared.has_many else 1) as pool:
                copies = [
                    pool.submit(self._copy, schema, name, shared)
                    for _ in range(STREAMS if shared.has_many else 1)
                ]
                try:
                    return sum(copy.result() for copy in as_completed(copies))
                except BaseException:
                    shared.stop()
                    raise

    @contextmanager
    def reading(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """The rows of a query as Arrow batches, while the block lasts; nothing is final before the last."""
        with (
            readable_errors(),
            self._copying() as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(query)
            yield cursor.fetch_record_batch()

    def _copy(self, schema: str, name: str, shared: SharedBatches) -> int:
        with self._copying() as connection, closing(connection.cursor()) as cursor:
            return int(cursor.adbc_ingest(name, shared.reader(), mode="append", db_schema_name=schema))

    @contextmanager
    def _copying(self) -> Iterator[Any]:
        """An ADBC connection in autocommit, where one COPY is one transaction; kept only if it served."""
        connection = self._kept() or self._opened()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)

    def _opened(self) -> Any:
        connection = adbc_sessions(self._dsn).open(autocommit=True)
        with closing(connection.cursor()) as cursor:
            cursor.execute(session_settings.whole())
            cursor.fetchall()
        return connection

    def _kept(self) -> Any:
        """A kept connection whose server is still there, or None."""
        while True:
            try:
                connection = self._idle.get_nowait()
            except Empty:
                return None
            try:
                with closing(connection.cursor()) as cursor:
                    cursor.execute("SELECT 1")
                    cursor.fetchall()
                return connection
            except (AdbcError, OSError):
                connection.close()


@contextmanager
def readable_errors(where: str = "") -> Iterator[None]:
    """Turn errors of PostgreSQL, ADBC and DuckDB's casts into WarehouseError without secrets or rows; into
    NotLetIn where the login is refused, into NoPlace where nobody more is let in.
    """
    at = f" ({where})" if where else ""
    try:
        yield
    except psycopg.OperationalError as error:
        _refuse_shut_out(at, str(error))
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise WarehouseError(
                f"The connection to the warehouse failed or was cut{at}: {scrub(str(error))}. "
                "What was not committed is not there. Check the server (`python -m flows doctor`), run again."
            ) from None
        raise WarehouseError(_refused(at, error.sqlstate, error.diag.message_primary or str(error))) from None
    except psycopg.Error as error:
        raise _refusal(at, error.sqlstate, error.diag.message_primary or str(error)) from None
    except (AdbcError, OSError) as error:
        _refuse_shut_out(at, str(error))
        state = getattr(error, "sqlstate", None)
        raise _refusal(at, state, str(error)) from None
    except duckdb.ConversionException as error:
        raise UnfitValue(
            f"A value does not fit the column's type{at}: {explain(error).splitlines()[0]}. "
            "Nothing was loaded. Reject such rows in the model (`_dead_letter_reason`) or widen the type."
        ) from None


def _refuse_shut_out(at: str, text: str) -> None:
    if is_login_refused(text):
        raise NotLetIn(
            f"The warehouse does not let this login in{at}: {scrub(text)}. What was not committed is not "
            "there. Give ANALYTICS_WAREHOUSE_DSN, or what it is read from, the login and password of now "
            "(docs/security.md), and start again."
        ) from None
    if has_no_place(text):
        raise NoPlace(
            f"The warehouse has no place for another session{at}: {scrub(text)}. What was not committed is "
            f"not there. {PLACE_TO_DO} Then run again."
        ) from None


def scrub(text: str) -> str:
    """The first line of an error without passwords and without values of rows."""
    line = (text.strip().splitlines() or ["no reason was given"])[0]
    line = _DRIVERS_OWN.sub("", scrubbed(line, ()))
    line = re.sub(r"\(([^()]*)\)=\((.*)\)", r"(\1)=(***)", line)
    line = re.sub(r"(?i)(with value )\S+", r"\1***", line)
    line = re.sub(
        r"(?i)((?:value|string|syntax for type [\w ]+|token):? )(\"[^\"]*\"|'[^']*')", r"\1***", line
    )
    return line.rstrip(".")


def _refusal(at: str, state: str | None, message: str) -> WarehouseError:
    kind = WarehouseError
    if state == read_only.STATE:
        kind = OnlyReads
    elif state == rights.STATE:
        kind = NoRight
    elif (state or "").startswith("22"):  # this class of SQLSTATE is about values
        kind = UnfitValue
    error = kind(_refused(at, state, message))
    error.state, error.cause = state, scrub(message)
    return error


def _refused(at: str, state: str | None, message: str) -> str:
    if state in _NOT_THERE and _OURS.search(message):
        return (
            f"This warehouse was never prepared, or by an older version ({scrub(message)}). Prepare it with "
            "a run: python -m flows"
        )
    if state == rights.STATE:  # without the place: of many tables that fail by it, it is one cause
        is_of_ledgers = "schema ops" in message
        who = "A login that is no member of loader lacks this: grant loader to it. " if is_of_ledgers else ""
        return (
            f"The warehouse's role lacks a right ({scrub(message)}). What was published stays as it was. "
            f"{who}{rights.to_do(message)}"
        )
    if state == read_only.STATE:
        return (
            f"The warehouse takes no writes{at} ({scrub(message)}): it is a standby, or "
            f"default_transaction_read_only is on. Nothing was changed. {read_only.TO_DO}"
        )
    code = f" [{state}]" if state else ""
    return (
        f"The warehouse refused{at}{code}: {scrub(message)}. "
        "What was published stays as it was; fix the cause and run again."
    )


def _decimal(source: str) -> str:
    return source if source.startswith("DECIMAL") else "DECIMAL(38, 9)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
