"""psycopg2's execute_values, as tutorials upsert with it. Runs in the rivals' environment.

Arguments: DSN, schema.table (with its indexes), Parquet file of the table's columns. Prints seconds.
"""

from __future__ import annotations

import sys
import time

import psycopg2
import pyarrow.parquet as pq
from psycopg2.extras import execute_values

_PAGE_ROWS = 1000


def main(dsn: str, table: str, path: str) -> None:
    """The rows are in memory as tuples before the clock starts."""
    data = pq.read_table(path)
    names = data.column_names
    rows = list(zip(*(column.to_pylist() for column in data.columns), strict=True))
    others = ", ".join(
        f"{name} = excluded.{name}" for name in names if name not in ("event_id", "event_time")
    )
    statement = (
        f"insert into {table} ({', '.join(names)}) values %s "
        f"on conflict (event_id, event_time) do update set {others}"
    )
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        begun = time.perf_counter()
        execute_values(cursor, statement, rows, page_size=_PAGE_ROWS)
        connection.commit()
        print(time.perf_counter() - begun)


if __name__ == "__main__":
    main(*sys.argv[1:])
