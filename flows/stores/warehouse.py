"""Connections to the warehouse, and COPY through ADBC with the catalog's exact types."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from duckdb import DuckDBPyRelation
from psycopg import Connection

from flows.stores.batches import SharedBatches, with_plain_booleans
from flows.stores.connections import Connections, adbc_sessions
from flows.stores.warehouse_errors import UnfitValue, WarehouseError, readable_errors
from quality import session_settings
from quality.alive import kept_alive

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
_FIRST_MOMENT = "4713-01-02 (BC) 00:00:00"
"""PostgreSQL's calendar begins a day earlier; DuckDB's long before."""


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


def _decimal(source: str) -> str:
    return source if source.startswith("DECIMAL") else "DECIMAL(38, 9)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
